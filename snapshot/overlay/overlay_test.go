package overlay

import (
	"bufio"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/snapshot/snapshottest"
	"github.com/boxbuild/boxbuild/snapshot/store"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func open(t testing.TB, dir string) *Snapshotter {
	t.Helper()
	needRoot(t)
	s, err := Open(t.Context(), dir, store.Options{Keep: snapshottest.Keep})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// commit makes a snapshot with what f does in a mount of the draft.
func commit(t testing.TB, s *Snapshotter, id, parent snapshot.ID, f func(root string)) {
	t.Helper()
	d := snapshot.Draft("draft" + string(id))
	mounts, err := s.Prepare(t.Context(), d, parent)
	must(t, err)
	m, err := mount.Open(t.Context(), mounts)
	must(t, err)
	if f != nil {
		f(mount.Path(m))
	}
	m.Close()
	must(t, s.Commit(t.Context(), d, id))
}

// The contract of package snapshot holds.
func TestConformance(t *testing.T) {
	snapshottest.TestSnapshotter(t, func(t *testing.T, dir string) snapshot.Snapshotter { return open(t, dir) })
}

// It holds in a user namespace too, where overlayfs keeps its marks elsewhere.
func TestConformanceInUserNamespace(t *testing.T) {
	needRoot(t)
	if inUserNamespace() {
		t.Skip("is in one")
	}
	// A directory that the namespace's root may write to, and may reach.
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestConformance$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("no user namespaces here: %v", err)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestConformance/Difference") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What is mounted for a view is as little as possible: layers that add nothing, and those below an opaque root, are
// left out, and a single directory is no overlay.
func TestMounts(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	touch := func(root string) { must(t, os.WriteFile(root+"/"+crand.Text(), nil, 0o600)) }
	commit(t, s, "base", "", func(root string) {
		touch(root)
		must(t, os.Chtimes(root+"/", time.Time{}, time.Unix(1e9, 0))) // the clock of files is coarse
	})
	commit(t, s, "empty", "base", nil)
	commit(t, s, "undone", "empty", func(root string) {
		touch(root)
		list, err := os.ReadDir(s.Dir() + "/new-draftundone/fs")
		must(t, err)
		for _, e := range list {
			must(t, os.Remove(root+"/"+e.Name()))
		}
	})
	commit(t, s, "chmod", "undone", func(root string) { must(t, os.Chmod(root+"/", 0o700)) })
	commit(t, s, "top", "chmod", touch)
	_, err := s.Prepare(t.Context(), "o", "top")
	must(t, err)
	upper, _, err := s.DraftUpper(t.Context(), "o")
	must(t, err)
	must(t, unix.Lsetxattr(upper, "trusted.overlay.opaque", []byte("y"), 0))
	must(t, s.Commit(t.Context(), "o", "opaque"))
	commit(t, s, "last", "opaque", touch)

	// Whether it is mounted must make no difference, in times neither.
	var base, undone unix.Stat_t
	must(t, unix.Stat(s.Dir()+"/base/fs", &base))
	must(t, unix.Stat(s.Dir()+"/undone/fs", &undone))
	if base.Mtim != undone.Mtim {
		t.Errorf("a layer that is left out has mtime %v, its parent %v", undone.Mtim, base.Mtim)
	}

	dirs := func(ids ...string) []string {
		for i, id := range ids {
			ids[i] = s.Dir() + "/" + id + "/fs"
		}
		return ids
	}
	for id, want := range map[snapshot.ID][]string{
		"base": dirs("base"), "empty": dirs("base"), "undone": dirs("base"), "chmod": dirs("chmod", "base"),
		"top": dirs("top", "chmod", "base"), "opaque": dirs("opaque"), "last": dirs("last", "opaque"),
	} {
		view, err := s.View(t.Context(), "v", id)
		must(t, err)
		got := view[0].Lower
		if view[0].Type == "bind" {
			got = []string{view[0].Source}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is mounted as %v, want %v", id, got, want)
		}
		must(t, s.Discard(t.Context(), "v"))
	}
}

// Upper directories hold nothing that a layer has no word for: no redirects, no metadata-only copies, no attributes of
// overlayfs but the marks, and nothing is left of its work.
func TestUpperIsPlain(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	commit(t, s, "base", "", func(root string) {
		must(t, os.MkdirAll(root+"/d/e", 0o755))
		must(t, os.WriteFile(root+"/d/file", []byte("x"), 0o644))
		must(t, os.WriteFile(root+"/file", []byte("x"), 0o644))
	})
	commit(t, s, "child", "base", func(root string) {
		must(t, os.Chmod(root+"/file", 0o600))
		must(t, os.RemoveAll(root+"/d/e"))
		must(t, os.Mkdir(root+"/d/e", 0o755))
		must(t, os.Rename(root+"/d/file", root+"/moved"))
	})
	dir, _, err := s.Upper(t.Context(), "child")
	must(t, err)
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		must(t, err)
		names, err := listXattrs(path)
		for _, n := range names {
			switch n {
			// The first is what makes a directory opaque; the others say where a copy came from and that a directory
			// holds some. They are hints that overlayfs checks.
			case "trusted.overlay.opaque", "trusted.overlay.origin", "trusted.overlay.impure":
			default:
				t.Errorf("%s has %s", path, n)
			}
		}
		return err
	})
	must(t, err)
	if b, err := os.ReadFile(dir + "/file"); err != nil || string(b) != "x" {
		t.Errorf("a file of which the mode changed has %q (%v)", b, err)
	}
	list, err := os.ReadDir(s.Dir() + "/child")
	must(t, err)
	for _, e := range list {
		if e.Name() != "fs" && e.Name() != "meta" {
			t.Errorf("the snapshot has %s", e.Name())
		}
	}
}

// Everything that the root directory has besides files goes on to the next layer: extended attributes too.
func TestRootXattrs(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	commit(t, s, "base", "", func(root string) {
		must(t, unix.Setxattr(root+"/", "user.small", []byte("1"), 0))
		must(t, unix.Setxattr(root+"/", "user.large", make([]byte, 1000), 0))
		must(t, os.Chmod(root+"/", 0o1775|os.ModeSticky))
		must(t, os.Chtimes(root+"/", time.Time{}, time.Unix(1e9, 5)))
	})
	commit(t, s, "child", "base", nil)
	_, err := s.Prepare(t.Context(), "d", "child")
	must(t, err)
	upper, _, err := s.DraftUpper(t.Context(), "d")
	must(t, err)
	got, err := readRoot(upper)
	must(t, err)
	base, err := s.FS("base")
	must(t, err)
	want, err := readRoot(base)
	must(t, err)
	if !got.same(want) || got.stat.Mtim != want.stat.Mtim || len(want.xattrs) < 2 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, change := range []func(){
		func() { must(t, unix.Setxattr(upper, "user.small", []byte("2"), 0)) },
		func() { must(t, unix.Removexattr(upper, "user.small")) },
		func() { must(t, unix.Setxattr(upper, "user.other", nil, 0)) },
	} {
		change()
		if got, err = readRoot(upper); err != nil || got.same(want) {
			t.Errorf("a changed attribute is not seen (%v)", err)
		}
	}
}

// Where no overlay can be mounted, Open says so in a way that the caller can act upon.
func TestUnsupported(t *testing.T) {
	needRoot(t)
	// Overlayfs does not take a directory of an overlay as its upper one.
	s := open(t, t.TempDir())
	defer s.Close()
	commit(t, s, "base", "", nil)
	mounts, err := s.Prepare(t.Context(), "d", "base")
	must(t, err)
	m, err := mount.Open(t.Context(), mounts)
	must(t, err)
	defer m.Close()
	if _, err := Open(t.Context(), mount.Path(m)+"/dir", store.Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
}

// Killed at any point of its work, a snapshotter has every snapshot that it had said to have, whole, and nothing is
// left mounted.
func TestKill(t *testing.T) {
	needRoot(t)
	if dir := os.Getenv("OVERLAY_TEST_CHILD"); dir != "" {
		work(t, dir)
		return
	}
	dir := t.TempDir()
	said := map[string]bool{}
	for round := range 10 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestKill$", "-test.v")
		cmd.Env = append(os.Environ(), "OVERLAY_TEST_CHILD="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		// It is killed while it is at what follows some line that it has printed.
		r := bufio.NewReader(out)
		stop := rand.IntN(120)
		for i := 0; ; i++ {
			if i == stop {
				must(t, cmd.Process.Kill())
			}
			line, err := r.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			verb, id, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch verb {
			case "committed":
				said[id] = true
			case "removing":
				delete(said, id)
			}
		}
		_ = cmd.Wait()
		checkAfterKill(t, dir, said, round)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), dir) {
		t.Errorf("something is mounted below %s (%v)", dir, err)
	}
}

// work commits, mounts and removes until it is killed, and says what it does.
func work(t *testing.T, dir string) {
	s := open(t, dir)
	ids := []snapshot.ID{""}
	for i, err := range s.All(t.Context()) {
		must(t, err)
		ids = append(ids, i.ID)
	}
	for {
		id := snapshot.ID(strings.ToLower(crand.Text()))
		commit(t, s, id, ids[rand.IntN(len(ids))], func(root string) {
			must(t, os.WriteFile(root+"/"+string(id), []byte(strings.Repeat(string(id), 1000)), 0o600))
			fmt.Println("wrote")
		})
		fmt.Println("committed", id)
		ids = append(ids, id)
		if len(ids) > 20 {
			victim := ids[1+rand.IntN(len(ids)-1)]
			fmt.Println("removing", victim)
			if err := s.Remove(t.Context(), victim); err == nil {
				ids = slices.DeleteFunc(ids, func(id snapshot.ID) bool { return id == victim })
			} else if errors.Is(err, snapshot.ErrInUse) {
				fmt.Println("committed", victim)
			}
		}
	}
}

func checkAfterKill(t *testing.T, dir string, said map[string]bool, round int) {
	t.Helper()
	s := open(t, dir)
	defer s.Close()
	missing := maps.Clone(said)
	for i, err := range s.All(t.Context()) {
		must(t, err)
		fs, err := s.FS(i.ID)
		must(t, err)
		b, err := os.ReadFile(fs + "/" + string(i.ID))
		if err != nil || string(b) != strings.Repeat(string(i.ID), 1000) {
			t.Errorf("round %d: %s has %d bytes (%v)", round, i.ID, len(b), err)
		}
		delete(missing, string(i.ID))
	}
	if len(missing) > 0 {
		t.Errorf("round %d: missing are %v", round, missing)
	}
}

// What a process has left that was killed while it tried what the kernel can do goes when the next one opens the store,
// whatever that is called.
func TestProbeLeft(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "a[b")
	left := filepath.Join(dir, ".probe-123")
	if err := os.MkdirAll(filepath.Join(left, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", left, err)
	}
}
