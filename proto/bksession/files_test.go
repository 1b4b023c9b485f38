package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bk "github.com/moby/buildkit/session"
	bkfilesync "github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// counted counts the files that are opened, which are those that are sent.
type counted struct {
	fsutil.FS
	mu     sync.Mutex // guards the fields below
	files  []string
	before func(path string) // called before a file is opened
}

func (c *counted) Open(p string) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = append(c.files, p)
	if c.before != nil {
		c.before(p)
	}
	return c.FS.Open(p)
}

// sent returns what has been sent since it was last asked, sorted.
func (c *counted) sent() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.files
	c.files = nil
	slices.Sort(out)
	return out
}

// offer is what a client offers of a directory.
func offer(t testing.TB, dir string) *counted {
	t.Helper()
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &counted{FS: fs}
}

func write(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	age(t, root)
}

// age makes all files old enough that their times can be trusted, each by its own fraction of a second.
func age(t testing.TB, root string) {
	t.Helper()
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil || time.Since(fi.ModTime()) > time.Minute {
			return err
		}
		at = at.Add(time.Millisecond)
		return os.Chtimes(p, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// provider is BuildKit's provider of one directory.
func provider(files fsutil.FS) bk.Attachable {
	return bkfilesync.NewFSSyncProvider(bkfilesync.StaticDirSource{"context": files})
}

// directory opens a session with the directory and returns it as a source.
func directory(t testing.TB, m *Manager, key string, files fsutil.FS) filesync.Source {
	t.Helper()
	s, _ := open(t, m, key, provider(files))
	src, err := s.Directory(context.Background(), "context")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

func tree(t testing.TB, src filesync.Source, sel filesync.Selection) treehash.Tree {
	t.Helper()
	tr, err := src.Tree(context.Background(), sel)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// here is the tree that a client on this machine has of the directory.
func here(t testing.TB, dir string, sel filesync.Selection) treehash.Tree {
	t.Helper()
	src, err := filesync.Dir(dir, filesync.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return tree(t, src, sel)
}

func root(tr treehash.Tree) solver.Digest { return tr.(treehash.Rooted).Root() }

// show returns a tree as text: all that a build can see of it.
func show(t testing.TB, tr treehash.Tree) string {
	t.Helper()
	var b strings.Builder
	hard := map[uint64]string{}
	var dir func(string)
	dir = func(p string) {
		list, err := tr.List(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			fmt.Fprintf(&b, "%s %o %d:%d %d %s %d %q %x", e.Path, e.Mode, e.UID, e.GID, e.Size, e.Link, e.Rdev, e.Xattr, e.MTime.UnixNano())
			if e.IsRegular() {
				r, err := tr.Open(context.Background(), e.Path)
				if err != nil {
					t.Fatal(err)
				}
				data, err := io.ReadAll(r)
				if err = errors.Join(err, r.Close()); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, " %d bytes", len(data))
				if e.Hard != 0 {
					if first := hard[e.Hard]; first != "" {
						fmt.Fprintf(&b, " = %s", first)
					} else {
						hard[e.Hard] = e.Path
					}
				}
			}
			b.WriteByte('\n')
			if e.IsDir() {
				dir(e.Path)
			}
		}
	}
	dir("/")
	return b.String()
}

// everything makes a directory with one of each kind of thing that a context may have.
func everything(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"Dockerfile": "FROM scratch", "a": "1", "b/c": "2", "b/d/e": "3", "b.txt": "4", "b-": "5", "empty": "", "big": strings.Repeat("x", 300_000),
		"same": "1", "src/main.go": "package main", "src/vendor/x.go": "x", "src/vendor/keep/y.go": "y", "node_modules/a/b": "n",
		"umläut ✓": "u", "weird\nname": "w", "100%": "%2F",
	})
	do := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	do(os.MkdirAll(filepath.Join(dir, "hollow/inner"), 0o700))
	do(os.Symlink("../a", filepath.Join(dir, "b/up")))
	do(os.Symlink("/etc/passwd", filepath.Join(dir, "abs")))
	do(os.Symlink("src", filepath.Join(dir, "link")))
	do(os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b/hard")))
	do(os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "zhard")))
	do(os.Chmod(filepath.Join(dir, "src/main.go"), os.ModeSetuid|os.ModeSetgid|0o755))
	do(os.Chmod(filepath.Join(dir, "hollow"), os.ModeSticky|0o777))
	do(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640))
	_ = unix.Setxattr(filepath.Join(dir, "same"), "user.note", []byte("n\x00"), 0)
	if os.Getuid() == 0 {
		do(os.Lchown(filepath.Join(dir, "b.txt"), 1234, 5678))
		_ = unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	}
	return dir
}

// A tree that came through BuildKit's protocol is the one that Dir makes of the directory: same root, so that caches are
// shared between clients, and the same in everything that a build can see.
func TestConformance(t *testing.T) {
	dir := everything(t)
	m := New(patient(t))
	src := directory(t, m, "key", offer(t, dir))
	for _, tc := range []struct {
		name string
		sel  filesync.Selection
	}{
		{"everything", filesync.Selection{}},
		{"include", filesync.Selection{Include: []string{"src", "b*"}}},
		{"deep include", filesync.Selection{Include: []string{"src/vendor/keep/y.go"}}},
		{"wildcards", filesync.Selection{Include: []string{"**/*.go"}}},
		{"exclude", filesync.Selection{Exclude: []string{"node_modules", "**/vendor", "big"}}},
		{"exceptions", filesync.Selection{Exclude: []string{"src", "!src/vendor/keep", "hollow/*"}}},
		{"all but", filesync.Selection{Exclude: []string{"*", "!Dockerfile", "!b/d"}}},
		{"both", filesync.Selection{Include: []string{"src", "b"}, Exclude: []string{"**/vendor", "!src/vendor/keep/y.go"}}},
		{"follow", filesync.Selection{Follow: []string{"b/up", "Dockerfile"}}},
		{"follow a directory's link", filesync.Selection{Follow: []string{"link/main.go"}}},
		{"follow and exclude", filesync.Selection{Follow: []string{"src"}, Exclude: []string{"src/vendor"}}},
		{"follow a wildcard", filesync.Selection{Follow: []string{"b*"}}},
		{"link without its first name", filesync.Selection{Include: []string{"zhard", "b/hard"}}},
		{"one of three names", filesync.Selection{Exclude: []string{"a"}}},
		{"nothing", filesync.Selection{Include: []string{"no such file"}}},
		{"not ASCII", filesync.Selection{Include: []string{"umläut ✓", "100%"}}},
		{"control characters", filesync.Selection{Include: []string{"weird\nname"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, pass := range []string{"first", "again"} {
				got, want := tree(t, src, tc.sel), here(t, dir, tc.sel)
				if g, w := show(t, got), show(t, want); g != w {
					t.Errorf("%s:\n%s\nwant\n%s", pass, g, w)
				}
				if root(got) != root(want) {
					t.Errorf("%s: root %s, want %s", pass, root(got), root(want))
				}
			}
		})
	}
}

// Only what has changed is sent again; what was sent for another selection, by an earlier daemon, or is the content of
// another file, is not.
func TestIncremental(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1", "b/c": "22", "b/d": "333", "big": strings.Repeat("x", 100_000), "none": ""})
	opt := patient(t)
	files := offer(t, dir)
	check := func(what string, opt Options, key string, sel filesync.Selection, want ...string) {
		t.Helper()
		src := directory(t, New(opt), key, files)
		got := tree(t, src, sel)
		if root(got) != root(here(t, dir, sel)) {
			t.Errorf("%s: wrong root", what)
		}
		if sent := files.sent(); !slices.Equal(sent, want) {
			t.Errorf("%s: %q were sent, want %q", what, sent, want)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
	all := filesync.Selection{}
	check("first", opt, "key", all, "a", "b/c", "b/d", "big")
	check("unchanged", opt, "key", all)
	check("another selection", opt, "key", filesync.Selection{Exclude: []string{"b/d"}})
	check("another directory", opt, "other key", filesync.Selection{Include: []string{"b"}}, "b/c", "b/d")

	write(t, dir, map[string]string{"b/c": "another text", "b/new": "n"})
	check("changed", opt, "key", all, "b/c", "b/new")
	if err := os.Remove(filepath.Join(dir, "b/d")); err != nil {
		t.Fatal(err)
	}
	check("removed", opt, "key", all)
	if err := os.Chmod(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	check("other mode", opt, "key", all, "a")
	check("unchanged after all that", opt, "key", all)
	other := filesync.Selection{Hint: "another of that name"}
	check("another hint", opt, "key", other, "a", "b/c", "b/new", "big")
	check("the same hint", opt, "key", other)
	check("no hint after that", opt, "key", all)
	check("fresh", opt, "key", filesync.Selection{Fresh: true}, "a", "b/c", "b/new", "big")
}

// Without a shared key clients are not told apart. Times in whole seconds, which archives give to files that differ,
// prove nothing then.
func TestWithoutKey(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	at := time.Unix(1_700_000_000, 0)
	for dir, text := range map[string]string{one: "one", two: "two"} {
		write(t, dir, map[string]string{"f": text})
		if err := os.Chtimes(filepath.Join(dir, "f"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	m := New(patient(t))
	for _, dir := range []string{one, two, one} {
		if got := tree(t, directory(t, m, "", offer(t, dir)), filesync.Selection{}); root(got) != root(here(t, dir, filesync.Selection{})) {
			t.Errorf("the tree of %s is another one's", dir)
		}
	}
}

// The clock that stamps files ticks slowly: without a shared key the same size and time prove nothing in a directory of a
// few files, nor in one where most differ; but in a large one where most are as they were nothing is sent again.
func TestSameTick(t *testing.T) {
	at := time.Unix(1_700_000_000, 123_456_789)
	made := func(n int, text string, differing int) string {
		dir, files := t.TempDir(), map[string]string{}
		for i := range n {
			files[fmt.Sprintf("d%d/f%d", i%7, i)] = text
		}
		write(t, dir, files)
		for name := range files {
			if err := os.Chtimes(filepath.Join(dir, name), at, at.Add(time.Duration(differing)*time.Microsecond)); err != nil {
				t.Fatal(err)
			}
			differing = max(0, differing-1)
		}
		return dir
	}
	for _, tc := range []struct{ n, differing int }{{2, 0}, {200, 150}} {
		m := New(patient(t))
		one, two := made(tc.n, "one", 0), made(tc.n, "two", tc.differing)
		for _, dir := range []string{one, two, two, one} {
			if got := tree(t, directory(t, m, "", offer(t, dir)), filesync.Selection{}); root(got) != root(here(t, dir, filesync.Selection{})) {
				t.Errorf("%d files, %d of which differ: the tree of %s is another one's", tc.n, tc.differing, dir)
			}
		}
	}
	m, dir := New(patient(t)), made(200, "one", 0)
	files := offer(t, dir)
	for i, want := range []int{200, 0, 1} {
		if i == 2 {
			write(t, dir, map[string]string{"d0/f0": "changed"})
		}
		tree(t, directory(t, m, "", files), filesync.Selection{})
		if got := len(files.sent()); got != want {
			t.Errorf("transfer %d: %d files were sent, want %d", i, got, want)
		}
	}
}

// What was received is known after a restart of the daemon, and what has been lost of it is sent again.
func TestStorePersists(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, map[string]string{"a": "1", "b": "2"})
	files := offer(t, dir)
	for i, want := range [][]string{{"a", "b"}, nil, {"b"}} {
		store, err := filesync.NewStore(state, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := tree(t, directory(t, New(Options{Store: store, Wait: time.Hour}), "key", files), filesync.Selection{})
		if sent := files.sent(); !slices.Equal(sent, want) {
			t.Errorf("daemon %d: %q were sent, want %q", i, sent, want)
		}
		sum, err := got.Content(context.Background(), "/b")
		if err = errors.Join(err, store.Close()); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if err := os.Remove(filepath.Join(state, "files", sum.String())); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A file that changes while it is sent is asked for again, and is an error that names it if it goes on changing.
func TestChanging(t *testing.T) {
	for _, tc := range []struct {
		name  string
		times int
		ok    bool
	}{{"once", 1, true}, {"always", 100, false}} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"log": "line\n", "other": "x"})
			files := offer(t, dir)
			n := 0
			files.before = func(p string) {
				if p == "log" && n < tc.times {
					n++
					f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_WRONLY, 0)
					if err != nil {
						t.Error(err)
						return
					}
					fmt.Fprintf(f, "line %d\n", n)
					_ = f.Close()
				}
			}
			tr, err := directory(t, New(patient(t)), "key", files).Tree(context.Background(), filesync.Selection{})
			if tc.ok {
				if err != nil || root(tr) != root(here(t, dir, filesync.Selection{})) {
					t.Errorf("error %v, or the wrong root", err)
				}
				if sent := files.sent(); len(sent) < 3 || sent[1] != "log" || sent[2] == "log" {
					t.Errorf("%q were sent, want the log twice", sent)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), `"/log"`) || !strings.Contains(err.Error(), `"context"`) {
				t.Errorf("error %v, want one that names file and directory", err)
			}
		})
	}
}

// A directory that the client does not share, and a client that shares none, are errors that say so.
func TestNoDirectory(t *testing.T) {
	m := New(patient(t))
	s, _ := open(t, m, "key", provider(offer(t, t.TempDir())))
	src, err := s.Directory(context.Background(), "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = src.Tree(context.Background(), filesync.Selection{}); err == nil || !strings.Contains(err.Error(), `no access allowed to dir "elsewhere"`) {
		t.Errorf("error %v, want that of the client", err)
	}
	none, _ := open(t, m, "key")
	var unsupported *UnsupportedError
	if _, err := none.Directory(context.Background(), "context"); !errors.As(err, &unsupported) || unsupported.ID != none.ID() {
		t.Errorf("error %v, want an *UnsupportedError", err)
	}
}
