package filesync

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// write makes files from lines: "dir/" is a directory, "a -> b" a symlink, "f=x" a file.
func write(t testing.TB, dir string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		var err error
		p, to, isLink := strings.Cut(l, " -> ")
		name, data, _ := strings.Cut(p, "=")
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		switch {
		case isLink:
			err = os.Symlink(to, at)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(at, 0o755)
		default:
			err = os.WriteFile(at, []byte(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func source(t testing.TB, dir string, c *Cache) Source {
	t.Helper()
	s, err := Dir(dir, Options{Cache: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func tree(t testing.TB, s Source, sel Selection) treehash.Tree {
	t.Helper()
	tr, err := s.Tree(t.Context(), sel)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func rootOf(tr treehash.Tree) string { return tr.(treehash.Rooted).Root().String() }

// paths lists a tree.
func paths(t testing.TB, tr treehash.Tree) string {
	t.Helper()
	items, err := treehash.Match(t.Context(), tr, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, it := range items[1:] {
		out = append(out, it.Rel)
	}
	return strings.Join(out, " ")
}

// What a selection picks, by patterns and by paths whose symlinks are followed.
func TestSelection(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/b/c.go=1", "a/b/d.txt=2", "a/e.go=3", "x/y=4", "x/z/", "n/m/o=5", "n/m/p=6",
		"l -> a/b", "abs -> /n/m", "up -> ../../../x", "ld/in -> ../a", "loop -> loop", "p -> q", "q -> p", "chain -> l")
	for _, c := range []struct {
		name string
		sel  Selection
		want string
	}{
		{"all", Selection{}, "a a/b a/b/c.go a/b/d.txt a/e.go abs chain l ld ld/in loop n n/m n/m/o n/m/p p q up x x/y x/z"},
		{"exclude", Selection{Exclude: []string{"a", "l*", "n/m/o"}}, "abs chain n n/m n/m/p p q up x x/y x/z"},
		{"exception", Selection{Exclude: []string{"*", "!a/b/d.txt"}}, "a a/b a/b/d.txt"},
		{"wildcard exception", Selection{Exclude: []string{"**", "!**/*.go"}}, "a a/b a/b/c.go a/e.go"},
		{"excluded again", Selection{Exclude: []string{"**", "!a", "a/b"}}, "a a/e.go"},
		{"include", Selection{Include: []string{"a/b", "x/*"}}, "a a/b a/b/c.go a/b/d.txt x x/y x/z"},
		{"both", Selection{Include: []string{"a"}, Exclude: []string{"**/*.txt"}}, "a a/b a/b/c.go a/e.go"},
		{"nothing", Selection{Include: []string{"nope"}}, ""},
		{"follow", Selection{Follow: []string{"x"}}, "x x/y x/z"},
		{"follow link", Selection{Follow: []string{"l/c.go"}}, "a a/b a/b/c.go l"},
		{"follow both of a link", Selection{Follow: []string{"l/c.go", "l/d.txt"}}, "a a/b a/b/c.go a/b/d.txt l"},
		{"follow chain", Selection{Follow: []string{"/chain"}}, "a a/b a/b/c.go a/b/d.txt chain l"},
		{"follow absolute", Selection{Follow: []string{"abs/o"}}, "abs n n/m n/m/o"},
		{"follow up", Selection{Follow: []string{"up/y"}}, "up x x/y"},
		{"follow inside", Selection{Follow: []string{"ld/in/e.go"}}, "a a/e.go ld ld/in"},
		{"follow loop", Selection{Follow: []string{"loop/x", "p"}}, "loop p q"},
		{"follow wildcard", Selection{Follow: []string{"l*"}}, "a a/b a/b/c.go a/b/d.txt l ld ld/in loop"},
		{"follow root", Selection{Follow: []string{"."}, Exclude: []string{"?", "l*", "chain", "up", "abs"}}, ""},
		{"follow missing", Selection{Follow: []string{"none", "x/y"}}, "x x/y"},
		{"follow excluded", Selection{Follow: []string{"a"}, Exclude: []string{"a/b"}}, "a a/e.go"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := paths(t, tree(t, source(t, dir, nil), c.sel)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// The tree of a client's directory and that of the same files in a snapshot have the same digests, whole and in parts.
func TestDigestEqualsSnapshot(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/b=1", "a/c/", "d=2", "l -> a", "ü\n\xff=3")
	_ = os.Chmod(filepath.Join(dir, "d"), 0o4711|os.ModeSetuid)
	_ = os.Chmod(dir, 0o755)
	_ = unix.Setxattr(filepath.Join(dir, "d"), "user.x", []byte("y"), 0)
	local := tree(t, source(t, dir, nil), Selection{})
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	snap, err := treehash.NewCache(0).Snapshot("s", root)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	if os.Getuid() != 0 {
		t.Skip("needs root: files of another owner have another digest")
	}
	for _, sel := range selectors {
		a, aerr := treehash.Digest(t.Context(), local, sel)
		b, berr := treehash.Digest(t.Context(), snap, sel)
		if a != b || (aerr == nil) != (berr == nil) {
			t.Errorf("%+v: %v (%v) and %v (%v)", sel, a, aerr, b, berr)
		}
	}
}

// An unchanged directory gives the very nodes of the last walk; any change gives another digest, and going back gives
// the old one again. Checked against a cache that knows nothing, over random changes.
func TestIncremental(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir, state := t.TempDir(), t.TempDir()
		write(t, dir, "d0/x=0", "d1/d2/x=1", "f=2")
		c := NewCache(state, 0)
		sel := Selection{Exclude: []string{"d3", "**/skip*", "!d3/keep"}}
		for step := range 60 {
			mutate(t, rng, dir)
			if rng.IntN(8) == 0 { // a restart
				_ = c.Close()
				c = NewCache(state, 0)
			}
			got := tree(t, source(t, dir, c), sel)
			want := tree(t, source(t, dir, nil), sel)
			if rootOf(got) != rootOf(want) || paths(t, got) != paths(t, want) {
				t.Fatalf("seed %d step %d: got\n%s\nwant\n%s", seed, step, paths(t, got), paths(t, want))
			}
			sameEntries(t, got, want)
		}
		_ = c.Close()
	}
}

func sameEntries(t *testing.T, a, b treehash.Tree) {
	t.Helper()
	x, _ := treehash.Match(t.Context(), a, nil)
	y, _ := treehash.Match(t.Context(), b, nil)
	for i := range x {
		e, f := *x[i].Entry, *y[i].Entry
		if !e.MTime.Equal(f.MTime) || e.Size != f.Size || e.Mode != f.Mode || e.Hard != f.Hard || e.Link != f.Link {
			t.Fatalf("entries differ: %+v and %+v", e, f)
		}
	}
}

func mutate(t *testing.T, rng *rand.Rand, dir string) {
	name := func() string {
		d := []string{"", "d0/", "d1/", "d1/d2/", "d3/", "d3/keep/"}[rng.IntN(6)]
		return d + []string{"x", "y", "skipped", "keep", "z"}[rng.IntN(5)]
	}
	for range rng.IntN(4) {
		p := filepath.Join(dir, name())
		_ = os.MkdirAll(filepath.Dir(p), 0o755)
		switch rng.IntN(7) {
		case 0:
			_ = os.RemoveAll(p)
		case 1:
			_ = os.Mkdir(p, 0o755)
		case 2:
			_ = os.Symlink(name(), p)
		case 3:
			_ = os.Chmod(p, os.FileMode(0o600+rng.IntN(64)))
		case 4:
			_ = os.Link(filepath.Join(dir, "f"), p)
		case 5:
			_ = os.Rename(p, filepath.Join(dir, name()))
		default:
			_ = os.WriteFile(p, fmt.Appendf(nil, "%d", rng.IntN(10)), 0o644)
		}
	}
}

// A walk that finds nothing new returns the nodes of the last one, from memory and from a state file.
func TestUnchangedIsFree(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	makeTree(t, dir, 200)
	time.Sleep(2 * tick)
	c := NewCache(state, 0)
	first := tree(t, source(t, dir, c), Selection{}).(*clientTree)
	second := tree(t, source(t, dir, c), Selection{}).(*clientTree)
	if first.root != second.root {
		t.Error("an unchanged directory was read again")
	}
	_ = c.Close()
	c = NewCache(state, 0)
	c.now = func() time.Time { t.Error("a file was hashed"); return time.Now() }
	if got := tree(t, source(t, dir, c), Selection{}); rootOf(got) != rootOf(first) {
		t.Error("the state file leads to another tree")
	}
	// Another selection takes digests over.
	tree(t, source(t, dir, c), Selection{Exclude: []string{"d01"}})
}

// A file that is changed right after it was read is not taken to be unchanged, though its size is the same and its
// timestamp may be.
func TestRacy(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	c := NewCache("", 0)
	s := source(t, dir, c)
	for i := range 50 {
		data := fmt.Appendf(nil, "%03d", i)
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
		// As if the clock did not tick between the writes.
		_ = os.Chtimes(p, time.Unix(1, 0), time.Unix(1, 0))
		r, err := tree(t, s, Selection{}).Open(t.Context(), "/f")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil || string(got) != string(data) {
			t.Fatalf("got %q, %v; want %q", got, err, data)
		}
	}
}

// What changes between the walk and the read is an error that names it, and nothing from outside is ever read.
func TestChangedMeanwhile(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, "f=secret", "d/f=secret")
	for name, change := range map[string]func(dir string){
		"content":              func(dir string) { write(t, dir, "d/f=other") },
		"size":                 func(dir string) { write(t, dir, "d/f=longer than it was") },
		"gone":                 func(dir string) { _ = os.Remove(dir + "/d/f") },
		"symlink":              func(dir string) { _ = os.Remove(dir + "/d/f"); write(t, dir, "d/f -> "+outside+"/f") },
		"directory is symlink": func(dir string) { _ = os.RemoveAll(dir + "/d"); write(t, dir, "d -> "+outside+"/d") },
		"fifo":                 func(dir string) { _ = os.Remove(dir + "/d/f"); _ = unix.Mkfifo(dir+"/d/f", 0o644) },
		"directory":            func(dir string) { _ = os.Remove(dir + "/d/f"); _ = os.Mkdir(dir+"/d/f", 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "d/f=file")
			tr := tree(t, source(t, dir, nil), Selection{})
			change(dir)
			r, err := tr.Open(t.Context(), "/d/f")
			var got []byte
			if err == nil {
				got, err = io.ReadAll(r)
				_ = r.Close()
			}
			var changed *treehash.ChangedError
			if !errors.As(err, &changed) || changed.Path != "/d/f" || strings.Contains(string(got), "secret") {
				t.Errorf("read %q, error %v", got, err)
			}
		})
	}
}

// Files that are no files, and names that are hardly names.
func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a\nb=1", "\xff\xfe=2", " =3", "...=4", "-rf=5", strings.Repeat("n", 255)+"=6")
	if err := unix.Mkfifo(dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	fd, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	defer unix.Close(fd)
	wd, _ := os.Getwd()
	defer os.Chdir(wd)
	_ = os.Chdir(dir) // a socket's path is short
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "sock"}); err != nil {
		t.Fatal(err)
	}
	items, err := treehash.Match(t.Context(), tree(t, source(t, dir, nil), Selection{}), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, it := range items[1:] {
		names = append(names, it.Rel)
	}
	want := []string{" ", "-rf", "...", "a\nb", "fifo", strings.Repeat("n", 255), "sock", "\xff\xfe"}
	if !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

// A file that cannot be read is an error that names it, unless it is ignored.
func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root can read everything")
	}
	dir := t.TempDir()
	write(t, dir, "d/f=1", "ok=2")
	_ = os.Chmod(dir+"/d/f", 0)
	_, err := source(t, dir, nil).Tree(t.Context(), Selection{})
	if err == nil || !strings.Contains(err.Error(), "/d/f") || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
	tree(t, source(t, dir, nil), Selection{Exclude: []string{"d/f"}})
}

// A walk that is cancelled ends with the cause.
func TestCancel(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, 500)
	why := errors.New("no more")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := source(t, dir, nil).Tree(ctx, Selection{}); !errors.Is(err, why) && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// State files that are cut short or changed anywhere are ignored.
func TestDamagedState(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, "a/b=1", "a/c=2", "l -> a", "d=3")
	time.Sleep(2 * tick)
	c := NewCache(state, 0)
	want := rootOf(tree(t, source(t, dir, c), Selection{}))
	_ = c.Close()
	list, _ := os.ReadDir(state)
	if len(list) != 1 {
		t.Fatalf("%d state files", len(list))
	}
	p := filepath.Join(state, list[0].Name())
	good, _ := os.ReadFile(p)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		bad := slices.Clone(good)
		if i%2 == 0 {
			bad = bad[:rng.IntN(len(bad))]
		} else {
			bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		}
		if root, err := decode(bad, dir); err == nil || root != nil {
			t.Fatalf("damaged state file %d was read", i)
		}
	}
	if err := os.WriteFile(p, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	c = NewCache(state, 0)
	if got := rootOf(tree(t, source(t, dir, c), Selection{})); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	_ = c.Close()
}

// encoded is a state file's content.
func encoded(t testing.TB, root *node, path string) []byte {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := encode(f, root, path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A directory with more entries than a cache has room for is remembered on disk and not in memory, unless there is no
// disk to remember it on.
func TestCacheTooBig(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/1=1", "a/2=2", "b/3=3", "4=4")
	for _, state := range []string{"", t.TempDir()} {
		c := NewCache(state, 3)
		c.window = -time.Hour // every file is old enough to be remembered
		first := tree(t, source(t, dir, c), Selection{})
		_ = c.Close()
		files := stateFiles(t, state)
		if kept := c.order.Len() > 0; kept != (state == "") {
			t.Errorf("state in %q: kept in memory: %t", state, kept)
		}
		// A walk that finds what is remembered writes nothing.
		second := tree(t, source(t, dir, c), Selection{})
		_ = c.Close()
		if first.(*clientTree).root.sum != second.(*clientTree).root.sum {
			t.Errorf("state in %q: the second walk found something else", state)
		}
		if state == "" && first.(*clientTree).root != second.(*clientTree).root || !slices.EqualFunc(files, stateFiles(t, state), os.SameFile) {
			t.Errorf("state in %q: the second walk did not know the first", state)
		}
	}
}

func stateFiles(t testing.TB, dir string) (out []fs.FileInfo) {
	t.Helper()
	if dir == "" {
		return nil
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) == 0 {
		t.Fatalf("state files: %v, %v", list, err)
	}
	for _, e := range list {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fi)
	}
	return out
}

// Whatever decode accepts, encode writes again as it was.
func FuzzDecode(f *testing.F) {
	dir := f.TempDir()
	write(f, dir, "a/b=1", "l -> a", "d=3")
	c := NewCache("", 0)
	tr := tree(f, source(f, dir, c), Selection{}).(*clientTree)
	f.Add(encoded(f, tr.root, dir))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = fixSum(b)
		root, err := decode(b, dir)
		if err != nil {
			return
		}
		if _, err := decode(encoded(t, root, dir), dir); err != nil {
			t.Errorf("what was read cannot be read again: %v", err)
		}
	})
}

// fixSum makes a state file's checksum right, so that fuzzing gets behind it.
func fixSum(b []byte) []byte {
	if len(b) < len(stateMagic)+4 {
		return b
	}
	b = slices.Clone(b)
	copy(b, stateMagic)
	binary.LittleEndian.PutUint32(b[len(stateMagic):], crc32.Checksum(b[len(stateMagic)+4:], castagnoli))
	return b
}

var selectors = []*solver.Selector{
	nil,
	{Paths: []string{"/a"}},
	{Paths: []string{"/a", "/d"}},
	{Paths: []string{"/*"}, Wildcard: true, Follow: true},
	{Paths: []string{"/l"}, Follow: true},
	{Paths: []string{"/l"}},
	{Paths: []string{"/l/b"}},
	{Paths: []string{"/none"}},
	{Include: []string{"a/*"}},
	{Exclude: []string{"a", "!a/c"}},
}
