package treehash

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { unix.Umask(0o022) }

func digest(t testing.TB, tr Tree, sel *solver.Selector) solver.Digest {
	t.Helper()
	d, err := Digest(t.Context(), tr, sel)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every kind of change makes another digest, but for the time.
func TestDigestCovers(t *testing.T) {
	base := []string{"d/f=1", "d/g=2", "d/l -> f", "d/e/"}
	fresh := func(change func(dir string) error) solver.Digest {
		dir := t.TempDir()
		write(t, dir, base...)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		return digest(t, snapshot(t, dir), nil)
	}
	want := fresh(func(string) error { return nil })
	if got := fresh(func(dir string) error { return os.Chtimes(dir+"/d/f", time.Unix(1, 0), time.Unix(1, 0)) }); got != want {
		t.Error("the time is part of the digest")
	}
	seen := map[solver.Digest]string{want: "nothing"}
	for name, change := range map[string]func(dir string) error{
		"content": func(dir string) error { return os.WriteFile(dir+"/d/f", []byte("3"), 0o644) },
		"name":    func(dir string) error { return os.Rename(dir+"/d/f", dir+"/d/h") },
		"swap": func(dir string) error {
			return unix.Renameat2(unix.AT_FDCWD, dir+"/d/f", unix.AT_FDCWD, dir+"/d/g", unix.RENAME_EXCHANGE)
		},
		"mode":           func(dir string) error { return os.Chmod(dir+"/d/f", 0o600) },
		"directory mode": func(dir string) error { return os.Chmod(dir+"/d/e", 0o700) },
		"link target":    func(dir string) error { _ = os.Remove(dir + "/d/l"); return os.Symlink("g", dir+"/d/l") },
		"link to file": func(dir string) error {
			_ = os.Remove(dir + "/d/l")
			return os.WriteFile(dir+"/d/l", []byte("f"), 0o777)
		},
		"removed":        func(dir string) error { return os.Remove(dir + "/d/g") },
		"no directory":   func(dir string) error { return os.Remove(dir + "/d/e") },
		"added":          func(dir string) error { return os.WriteFile(dir+"/d/z", nil, 0o644) },
		"moved":          func(dir string) error { return os.Rename(dir+"/d/f", dir+"/d/e/f") },
		"xattr":          func(dir string) error { return unix.Setxattr(dir+"/d/f", "user.a", []byte("b"), 0) },
		"xattr value":    func(dir string) error { return unix.Setxattr(dir+"/d/f", "user.a", []byte("c"), 0) },
		"xattr of a dir": func(dir string) error { return unix.Setxattr(dir+"/d", "user.a", []byte("b"), 0) },
		"fifo":           func(dir string) error { return unix.Mkfifo(dir+"/d/z", 0o644) },
	} {
		got := fresh(change)
		if other, ok := seen[got]; ok {
			t.Errorf("%s gives the digest of %s", name, other)
		}
		seen[got] = name
	}
	if os.Getuid() != 0 {
		return
	}
	for name, change := range map[string]func(dir string) error{
		"user":  func(dir string) error { return os.Chown(dir+"/d/f", 1, 0) },
		"group": func(dir string) error { return os.Chown(dir+"/d/f", 0, 1) },
	} {
		if other, ok := seen[fresh(change)]; ok {
			t.Errorf("%s gives the digest of %s", name, other)
		}
	}
}

// The digest of a selection is that of what it picks: the same for equal picks, of whatever tree and by whatever way.
func TestDigestOfSelection(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	write(t, a, "x/f=1", "x/g=2", "other=3")
	write(t, b, "y/f=1", "y/g=2", "y/skip=5", "l -> y")
	s, u := snapshot(t, a), snapshot(t, b)
	want := digest(t, s, &solver.Selector{Paths: []string{"/x"}})
	for _, sel := range []*solver.Selector{
		{Paths: []string{"/y"}, Exclude: []string{"skip"}},
		{Paths: []string{"/l"}, Follow: true, Exclude: []string{"skip"}},
		{Paths: []string{"/y"}, Include: []string{"[fg]"}},
	} {
		if got := digest(t, u, sel); got != want {
			t.Errorf("%+v: got %s, want %s", sel, got, want)
		}
	}
	// By a wildcard names count.
	byName := digest(t, s, &solver.Selector{Paths: []string{"/x*"}, Wildcard: true})
	if byName == want || byName == digest(t, u, &solver.Selector{Paths: []string{"/y*"}, Wildcard: true, Exclude: []string{"skip"}}) {
		t.Error("the name of what a wildcard found does not count")
	}
	if digest(t, s, &solver.Selector{Paths: []string{"/x"}, Wildcard: true}) != want {
		t.Error("the name of a literal path counts")
	}
	// What is not picked does not count, and directories that are whole are hashed once.
	write(t, a, "x/new=1")
	if got := digest(t, snapshot(t, a), &solver.Selector{Paths: []string{"/x"}, Include: []string{"f", "g"}}); got != want {
		t.Error("what is not picked counts")
	}
}

// What has been computed is not computed again by another tree of the same snapshot. The proof is that the files are gone.
func TestRemembered(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "d/f=1", "d/e/g=2", "h=3")
	c := NewCache(0)
	s := cached(t, c, dir)
	whole, part := digest(t, s, nil), digest(t, s, &solver.Selector{Paths: []string{"/d"}})
	file, err := s.Content(t.Context(), "/h")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"d/f", "d/e/g", "h"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("other"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s = cached(t, c, dir)
	again, err := s.Content(t.Context(), "/h")
	if digest(t, s, nil) != whole || digest(t, s, &solver.Selector{Paths: []string{"/d"}}) != part || again != file || err != nil {
		t.Error("it was computed again")
	}
	if k, ok := s.Known("/h"); !ok || k != file {
		t.Error("a digest is not known")
	}
}

// A cache holds no more than it is allowed to, but for the snapshot in use.
func TestCacheBound(t *testing.T) {
	c := NewCache(10)
	for range 5 {
		dir := t.TempDir()
		write(t, dir, "a=1", "b=2", "c=3", "d=4", "e/f=5")
		digest(t, cached(t, c, dir), nil)
	}
	if c.total > 10 || c.order.Len() != len(c.byID) || c.order.Len() != 1 {
		t.Errorf("%d entries in %d records", c.total, c.order.Len())
	}
	for range 20 { // snapshots of which nothing is asked
		cached(t, c, t.TempDir())
	}
	if c.total > 10 || c.order.Len() > 10 {
		t.Errorf("%d entries in %d records", c.total, c.order.Len())
	}
	// So it is with files that are asked for one by one.
	for range 5 {
		dir := t.TempDir()
		write(t, dir, "a=1", "b=2", "c=3", "d=4")
		s := cached(t, c, dir)
		for _, f := range []string{"/a", "/b", "/c", "/d"} {
			if _, err := s.Content(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.total > 10 || c.order.Len() != 2 {
		t.Errorf("%d entries in %d records", c.total, c.order.Len())
	}
}

// Trees are read by many at once.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/b/c=1", "a/d=2", "e/f=3", "g=4")
	want := digest(t, snapshot(t, dir), nil)
	c := NewCache(0)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			s := cached(t, c, dir)
			if i%2 == 0 {
				_, _ = s.Content(t.Context(), "/a/d")
				_, _ = Match(t.Context(), s, nil)
			}
			if got, err := Digest(t.Context(), s, nil); got != want || err != nil {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	wg.Wait()
}

// A tree leads nowhere but into itself: symlinks to the outside are entries, and nothing is opened through them.
func TestSnapshotConfined(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, "f=secret", "d/f=secret")
	dir := t.TempDir()
	write(t, dir, "out -> "+outside, "file -> "+outside+"/f", "up -> ../"+filepath.Base(outside), "in/f=1")
	s := snapshot(t, dir)
	for _, p := range []string{"/out/f", "/file", "/up/f", "/../" + filepath.Base(outside) + "/f", "/in/../../f", "/out", "/out/", "/in"} {
		if r, err := s.Open(t.Context(), p); err == nil {
			b, _ := io.ReadAll(r)
			t.Errorf("opened %s: %q", p, b)
		}
		if _, err := s.Content(t.Context(), p); err == nil {
			t.Errorf("hashed %s", p)
		}
	}
	for _, p := range []string{"/out/f", "/out/d", "/file/x"} {
		if _, err := s.Lookup(t.Context(), p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("looking up %s: %v", p, err)
		}
		if _, err := s.List(t.Context(), p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("listing %s: %v", p, err)
		}
	}
	if e, err := s.Lookup(t.Context(), "/out"); err != nil || e.Link != outside {
		t.Errorf("got %+v, %v", e, err)
	}
}

// The reader of a file that has changed ends in an error, not in io.EOF.
func TestVerify(t *testing.T) {
	data := strings.Repeat("x", 1000)
	sum := solver.Digest{1}
	if _, err := io.ReadAll(Verify(io.NopCloser(strings.NewReader(data)), "/f", sum)); err == nil {
		t.Error("wrong content was read to its end")
	}
}
