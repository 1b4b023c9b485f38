package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// ways are the ways in which the package can work; every property has to hold in each.
var ways = map[string][]Option{"new": nil, "legacy": {Legacy()}}

func eachWay(t *testing.T, f func(t *testing.T, opts []Option)) {
	needRoot(t)
	for name, opts := range ways {
		t.Run(name, func(t *testing.T) { f(t, opts) })
	}
}

// overlay returns an overlay of n layers, topmost first, each with a file named as its index and a file "who" that
// holds it, under an upper directory.
func overlay(t testing.TB, dir string, n int) snapshot.Mount {
	t.Helper()
	m := snapshot.Mount{Type: "overlay", Options: []string{"index=off", "redirect_dir=nofollow", "metacopy=off", "volatile"}}
	for i := range n {
		l := filepath.Join(dir, fmt.Sprint(i), "fs")
		mkdir(t, l)
		write(t, filepath.Join(l, fmt.Sprint(i)), "")
		write(t, filepath.Join(l, "who"), fmt.Sprint(i))
		m.Lower = append(m.Lower, l)
	}
	m.Upper, m.Work = filepath.Join(dir, "up"), filepath.Join(dir, "work")
	mkdir(t, m.Upper)
	mkdir(t, m.Work)
	return m
}

func open(t testing.TB, m snapshot.Mount, opts ...Option) *os.File {
	t.Helper()
	f, err := Open(t.Context(), []snapshot.Mount{m}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// An overlay shows the topmost file of each name, everything of every layer, and takes what is written in its upper
// directory, with one layer, with an image's 127 and with more than any image has.
func TestOverlay(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		for _, n := range []int{1, 2, 127, 450, MaxLayers} {
			m := overlay(t, t.TempDir(), n)
			f := open(t, m, opts...)
			root := Path(f)
			if got := read(t, root+"/who"); got != "0" {
				t.Errorf("%d layers: who is %q, want the topmost layer's", n, got)
			}
			if _, err := os.Stat(fmt.Sprintf("%s/%d", root, n-1)); err != nil {
				t.Errorf("%d layers: the bottom is missing: %v", n, err)
			}
			write(t, root+"/new", "x")
			if err := os.Remove(root + "/who"); err != nil {
				t.Error(err)
			}
			if got := read(t, m.Upper+"/new"); got != "x" {
				t.Errorf("upper has %q", got)
			}
			var st unix.Stat_t
			if err := unix.Lstat(m.Upper+"/who", &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
				t.Errorf("a removed file left %+v (%v), want a whiteout", st, err)
			}
		}
	})
}

// More layers than overlayfs stacks are refused with the number, before anything is done.
func TestTooManyLayers(t *testing.T) {
	m := snapshot.Mount{Type: "overlay", Lower: make([]string, MaxLayers+1)}
	_, err := Open(t.Context(), []snapshot.Mount{m})
	if !errors.Is(err, ErrTooManyLayers) || !strings.Contains(err.Error(), "501") {
		t.Errorf("got %v, want ErrTooManyLayers with 501", err)
	}
}

// Directories are not renamed by reference: an upper directory with redirects could not be made a layer from.
func TestNoRedirects(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		m := overlay(t, t.TempDir(), 1)
		mkdir(t, m.Lower[0]+"/d/e")
		root := Path(open(t, m, opts...))
		if err := unix.Rename(root+"/d", root+"/moved"); !errors.Is(err, unix.EXDEV) {
			t.Errorf("renaming a lower directory: %v, want EXDEV, on which everybody copies", err)
		}
	})
}

// A read-only mount of either kind refuses writes, and one made read-only by option does too.
func TestReadOnly(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		m := overlay(t, t.TempDir(), 2)
		view := snapshot.Mount{Type: "overlay", Lower: m.Lower, Options: []string{"ro"}}
		bind := snapshot.Mount{Type: "bind", Source: m.Lower[0], Options: []string{"ro"}}
		writable := snapshot.Mount{Type: "bind", Source: m.Lower[0]}
		for name, f := range map[string]*os.File{
			"overlay": open(t, view, opts...),
			"bind":    open(t, bind, opts...),
			"option":  open(t, writable, append(opts, ReadOnly())...),
			"upper":   open(t, m, append(opts, ReadOnly())...),
		} {
			if got := read(t, Path(f)+"/who"); got != "0" {
				t.Errorf("%s: who is %q", name, got)
			}
			if err := os.WriteFile(Path(f)+"/x", nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("%s: writing: %v, want EROFS", name, err)
			}
		}
		write(t, Path(open(t, writable, opts...))+"/x", "")
	})
}

// Nothing is attached anywhere: the mounts of the process are the same as before, also while it is open.
func TestDetached(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		dir := t.TempDir()
		m := overlay(t, dir, 3)
		f := open(t, m, opts...)
		b := open(t, snapshot.Mount{Type: "bind", Source: m.Lower[0]}, opts...)
		s, err := Sub(f, "/", opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if mounts := read(t, "/proc/self/mountinfo"); strings.Contains(mounts, dir) {
			t.Errorf("mounts of the process name %s", dir)
		}
		for _, f := range []*os.File{f, b, s} {
			if _, err := os.Stat(Path(f) + "/who"); err != nil {
				t.Error(err)
			}
		}
	})
}

// A draft can be mounted again after its mount has ended, though "volatile" leaves a mark that forbids it.
func TestVolatileTwice(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		m := overlay(t, t.TempDir(), 1)
		for i := range 3 {
			f := open(t, m, opts...)
			write(t, fmt.Sprintf("%s/w%d", Path(f), i), "")
			f.Close()
		}
		if names, _ := filepath.Glob(m.Upper + "/w*"); len(names) != 3 {
			t.Errorf("upper has %v, want three files", names)
		}
	})
}

// Paths that overlayfs would parse (separators, escapes) and paths longer than fsconfig takes work like others.
func TestAwkwardPaths(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		for _, name := range []string{"a:b", "a,b", `a\b`, `a\:b`, "a b=c", strings.Repeat("long/", 80)} {
			m := overlay(t, filepath.Join(t.TempDir(), name), 3)
			root := Path(open(t, m, opts...))
			write(t, root+"/new", "")
			read(t, m.Upper+"/new")
		}
	})
}

// What cannot be mounted is an error that says what, and leaves no descriptor open.
func TestErrors(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		dir := t.TempDir()
		good := overlay(t, dir, 2)
		missing := good
		missing.Lower = append([]string{dir + "/missing"}, good.Lower...)
		option := good
		option.Options = []string{"no_such_option=1"}
		link := filepath.Join(dir, "link")
		if err := os.Symlink("/", link); err != nil {
			t.Fatal(err)
		}
		before := descriptors(t)
		for name, m := range map[string][]snapshot.Mount{
			"none":          nil,
			"two":           {good, good},
			"type":          {{Type: "nfs"}},
			"missing layer": {missing},
			"option":        {option},
			"no layers":     {{Type: "overlay"}},
			"missing bind":  {{Type: "bind", Source: dir + "/missing"}},
			"bind option":   {{Type: "bind", Source: dir, Options: []string{"suid"}}},
		} {
			if f, err := Open(t.Context(), m, opts...); err == nil {
				t.Errorf("%s: no error", name)
				f.Close()
			}
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors open, %d before", after, before)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("cause")
		cancel(cause)
		if _, err := Open(ctx, []snapshot.Mount{good}, opts...); !errors.Is(err, cause) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// descriptors counts the descriptors of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	// The runtime takes some when it first waits for one, which it does from here on.
	if r, w, err := os.Pipe(); err != nil || errors.Join(r.Close(), w.Close()) != nil {
		t.Fatal("no pipe: ", err)
	}
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Many goroutines at once mount and look, and the threads that unshared a namespace are not used for anything else: the
// main thread's and all others' namespace stays the same.
func TestConcurrent(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		want, err := os.Readlink("/proc/thread-self/ns/mnt")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 20 {
			m := overlay(t, t.TempDir(), 5)
			wg.Go(func() {
				f, err := Open(t.Context(), []snapshot.Mount{m}, opts...)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				s, err := Sub(f, "who", opts...)
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				if got, err := os.ReadFile(Path(s)); err != nil || string(got) != "0" {
					t.Errorf("who is %q (%v)", got, err)
				}
			})
		}
		wg.Wait()
		for range 4 * runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				if got, _ := os.Readlink("/proc/thread-self/ns/mnt"); got != want {
					t.Errorf("a thread is in %s, want %s", got, want)
				}
			})
		}
		wg.Wait()
		if got, _ := os.Readlink("/proc/self/ns/mnt"); got != want {
			t.Errorf("the process is in %s, want %s", got, want)
		}
	})
}

// The mount ends with its last descriptor: the upper directory is free again, for a mount with index=on refuses one
// that is in use.
func TestCloseEnds(t *testing.T) {
	eachWay(t, func(t *testing.T, opts []Option) {
		m := overlay(t, t.TempDir(), 1)
		m.Options = []string{"index=on"}
		f := open(t, m, opts...)
		if g, err := Open(t.Context(), []snapshot.Mount{m}, opts...); !errors.Is(err, unix.EBUSY) {
			t.Errorf("mounting an upper directory in use: %v, want EBUSY", err)
			g.Close()
		}
		f.Close()
		open(t, m, opts...)
	})
}

func BenchmarkOpen(b *testing.B) {
	needRoot(b)
	for name, opts := range ways {
		for _, n := range []int{1, 50, 450} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				m := overlay(b, b.TempDir(), n)
				for b.Loop() {
					f, err := Open(b.Context(), []snapshot.Mount{m}, opts...)
					if err != nil {
						b.Fatal(err)
					}
					f.Close()
				}
			})
		}
	}
}
