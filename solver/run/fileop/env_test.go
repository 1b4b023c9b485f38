package fileop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A way is how a testEnv lets drafts be written.
type way string

// The ways. Every test of what an action does runs in each of them, since there must be no difference.
const (
	plain   way = "plain"   // a directory with everything in it
	mounted way = "mounted" // an overlay
	direct  way = "direct"  // an upper directory with what is below it in view
)

// testEnv is an Env whose results are directories, or stacks of them.
type testEnv struct {
	t        testing.TB
	way      way
	dir      string
	n        int
	layers   map[solver.Result][]string // topmost first
	cache    *treehash.Cache
	warnings []string

	previous map[solver.Result][]byte // manifests
	reuse    solver.Result            // what the next direct draft may link from
	open     int                      // drafts that are neither committed nor discarded
}

func newEnv(t testing.TB, w way) *testEnv {
	return &testEnv{
		t: t, way: w, dir: t.TempDir(), layers: map[solver.Result][]string{}, cache: treehash.NewCache(0),
		previous: map[solver.Result][]byte{},
	}
}

// everyWay runs a test in each way.
func everyWay(t *testing.T, fn func(t *testing.T, env *testEnv)) {
	for _, w := range []way{plain, mounted, direct} {
		t.Run(string(w), func(t *testing.T) {
			if w != plain && os.Getuid() != 0 {
				t.Skip("needs root")
			}
			env := newEnv(t, w)
			before := openFiles(t)
			fn(t, env)
			if after := openFiles(t); after > before {
				t.Errorf("%d descriptors were open, and %d are", before, after)
			}
			if env.open != 0 {
				t.Errorf("%d drafts were neither committed nor discarded", env.open)
			}
		})
	}
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
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

// base makes a result of a directory that fill has filled.
func (e *testEnv) base(fill func(dir string)) solver.Result {
	dir := e.newDir()
	fill(dir)
	return e.result([]string{dir})
}

func (e *testEnv) newDir() string {
	e.n++
	dir := filepath.Join(e.dir, fmt.Sprint("l", e.n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		e.t.Fatal(err)
	}
	return dir
}

func (e *testEnv) result(layers []string) solver.Result {
	r := solver.Result(fmt.Sprint("r", len(e.layers)))
	e.layers[r] = layers
	return r
}

// view opens what a result looks like.
func (e *testEnv) view(r solver.Result) *os.File {
	layers := e.layers[r]
	if len(layers) == 1 {
		f, err := os.Open(layers[0])
		if err != nil {
			e.t.Fatal(err)
		}
		return f
	}
	f, err := mount.Open(context.Background(), []snapshot.Mount{{Type: "overlay", Source: "overlay", Lower: layers, Options: []string{"ro"}}})
	if err != nil {
		e.t.Fatal(err)
	}
	return f
}

func (e *testEnv) Tree(_ context.Context, r solver.Result) (treehash.Tree, func(), error) {
	f := e.view(r)
	defer f.Close()
	t, err := e.cache.Snapshot(string(r), f)
	if err != nil {
		return nil, nil, err
	}
	return t, t.Close, nil
}

func (e *testEnv) Begin(ctx context.Context, base solver.Result, wantDirect bool) (*Draft, error) {
	e.open++
	upper := e.newDir()
	d := &Draft{ID: upper + "\x00" + string(base)}
	lower := e.layers[base]
	switch {
	case e.way == plain:
		if base != Empty {
			if out, err := exec.Command("cp", "-a", lower[0]+"/.", upper).CombinedOutput(); err != nil {
				return nil, fmt.Errorf("cp: %s", out)
			}
		}
		d.Root = e.openDir(upper)
	case e.way == direct && wantDirect:
		d.Upper = e.openDir(upper)
		if base != Empty {
			d.Lower = e.view(base)
		}
		if e.reuse != "" {
			d.Previous = e.openDir(e.layers[e.reuse][0])
			d.Manifest = e.previous[e.reuse]
		}
	case base == Empty:
		d.Root = e.openDir(upper)
	default:
		work := upper + "-work"
		if err := os.Mkdir(work, 0o700); err != nil {
			return nil, err
		}
		f, err := mount.Open(ctx, []snapshot.Mount{{Type: "overlay", Source: "overlay", Lower: lower, Upper: upper, Work: work}})
		if err != nil {
			return nil, err
		}
		d.Root = f
	}
	return d, nil
}

func (e *testEnv) openDir(dir string) *os.File {
	f, err := os.Open(dir)
	if err != nil {
		e.t.Fatal(err)
	}
	return f
}

func (e *testEnv) Commit(_ context.Context, d *Draft) (solver.Result, error) {
	e.open--
	upper, base, _ := strings.Cut(d.ID, "\x00")
	layers := []string{upper}
	if e.way != plain {
		layers = append(layers, e.layers[solver.Result(base)]...)
	}
	r := e.result(layers)
	e.previous[r] = d.Written
	return r, nil
}

func (e *testEnv) Discard(_ context.Context, d *Draft) {
	e.open--
	upper, _, _ := strings.Cut(d.ID, "\x00")
	_ = os.RemoveAll(upper)
}

func (e *testEnv) Warn(w solver.Warning) { e.warnings = append(e.warnings, w.Short) }

// dump describes a tree, a line an entry: path, type and mode, owner, content or target, mtime if it is not recent.
func (e *testEnv) dump(r solver.Result) string {
	f := e.view(r)
	defer f.Close()
	return dumpDir(e.t, mount.Path(f)+"/.")
}

func dumpDir(t testing.TB, root string) string {
	lines := map[string]string{}
	inodes := map[uint64][]string{}
	err := filepath.Walk(root, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if rel == "." {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		s := fmt.Sprintf("%06o %d:%d", st.Mode, st.Uid, st.Gid)
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %q", data)
			if st.Nlink > 1 {
				inodes[st.Ino] = append(inodes[st.Ino], rel)
			}
		case fi.Mode()&os.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			s += " -> " + to
		case fi.Mode()&os.ModeDevice != 0:
			s += fmt.Sprintf(" dev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if old := time.Unix(st.Mtim.Unix()); time.Since(old) > time.Hour {
			s += " @" + fmt.Sprint(st.Mtim.Nano())
		}
		buf := make([]byte, 4096)
		if n, err := unix.Llistxattr(p, buf); err == nil {
			for _, k := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
				if strings.HasPrefix(k, "user.") || k == "security.capability" {
					v := make([]byte, 256)
					m, _ := unix.Lgetxattr(p, k, v)
					s += fmt.Sprintf(" %s=%q", k, v[:m])
				}
			}
		}
		lines[rel] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range inodes {
		if len(names) > 1 {
			slices.Sort(names)
			for _, n := range names {
				lines[n] += " linked " + strings.Join(names, ",")
			}
		}
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&b, "%q %s\n", k, lines[k])
	}
	return b.String()
}
