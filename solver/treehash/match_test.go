package treehash

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"

	"github.com/boxbuild/boxbuild/solver"
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

// snapshot is the tree of a directory, in a cache of its own.
func snapshot(t testing.TB, dir string) *Snapshot {
	t.Helper()
	return cached(t, NewCache(0), dir)
}

func cached(t testing.TB, c *Cache, dir string) *Snapshot {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := c.Snapshot(dir, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// What a Selector picks: the selected paths, then what is below them and passes the patterns.
func TestMatch(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/b/c=1", "a/b/d=2", "a/e=3", "x/y/c=4", "f=5", "l -> a", "l2 -> /l/b", "up -> ../../../../a", "dead -> none", "loop -> loop", "w -> x")
	for _, c := range []struct {
		sel  *solver.Selector
		want string // source:rel, or an error
	}{
		{nil, "/: /:a /:a/b /:a/b/c /:a/b/d /:a/e /:dead /:f /:l /:l2 /:loop /:up /:w /:x /:x/y /:x/y/c"},
		{&solver.Selector{Paths: []string{"/f", "/a/b"}}, "/f: /a/b: /a/b:c /a/b:d"},
		{&solver.Selector{Paths: []string{"/l"}}, "/l:"},
		{&solver.Selector{Paths: []string{"/l"}, Follow: true}, "/l: /l:b /l:b/c /l:b/d /l:e"},
		{&solver.Selector{Paths: []string{"/l2/c"}}, "/l2/c:"},
		{&solver.Selector{Paths: []string{"/up/e"}}, "/up/e:"},
		{&solver.Selector{Paths: []string{"/a/*/c"}, Wildcard: true}, "/a/b/c:"},
		{&solver.Selector{Paths: []string{"/*/*/c"}, Wildcard: true}, "/a/b/c: /x/y/c:"},
		{&solver.Selector{Paths: []string{"/l/*"}, Wildcard: true, Follow: true}, "/l/b: /l/b:c /l/b:d /l/e:"},
		{&solver.Selector{Paths: []string{"/[fw]"}, Wildcard: true, Follow: true}, "/f: /w: /w:y /w:y/c"},
		{&solver.Selector{Paths: []string{"/q*"}, Wildcard: true}, ""},
		{&solver.Selector{Paths: []string{"/[f"}, Wildcard: true}, ""},
		{&solver.Selector{Paths: []string{"/none/q*"}, Wildcard: true}, ""},
		{&solver.Selector{Paths: []string{"/a"}, Include: []string{"b/c"}}, "/a: /a:b /a:b/c"},
		{&solver.Selector{Paths: []string{"/a"}, Exclude: []string{"b", "!b/d"}}, "/a: /a:b /a:b/d /a:e"},
		{&solver.Selector{Paths: []string{"/a"}, Include: []string{"none"}}, "/a:"},
		{&solver.Selector{Paths: []string{"/none"}}, `"/none": not found`},
		{&solver.Selector{Paths: []string{"/f/x"}}, `"/f/x": not found`},
		{&solver.Selector{Paths: []string{"/none"}, Wildcard: true}, `"/none": not found`},
		{&solver.Selector{Paths: []string{"/dead"}, Follow: true}, `"/dead": not found`},
		{&solver.Selector{Paths: []string{"/dead"}}, "/dead:"},
		{&solver.Selector{Paths: []string{"/loop"}, Follow: true}, "too many levels"},
		{&solver.Selector{Paths: []string{"/loop/x"}}, "too many levels"},
		{&solver.Selector{Paths: []string{"/a"}, Exclude: []string{"!"}}, "illegal exclusion pattern"},
		{&solver.Selector{Paths: []string{"/../../f"}}, "/f:"},
	} {
		items, err := Match(t.Context(), snapshot(t, dir), c.sel)
		if err != nil {
			if c.want == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: got error %v, want %s", c.sel, err, c.want)
			}
			if strings.Contains(c.want, "not found") && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%+v: %v is not fs.ErrNotExist", c.sel, err)
			}
			if _, derr := Digest(t.Context(), snapshot(t, dir), c.sel); derr == nil {
				t.Errorf("%+v: Match fails and Digest does not", c.sel)
			}
			continue
		}
		var got []string
		for _, it := range items {
			got = append(got, it.Source+":"+it.Rel)
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%+v:\ngot  %s\nwant %s", c.sel, g, c.want)
		}
	}
}

// Patterns that the matcher takes never make the filter disagree with itself: what is skipped has nothing below it that
// would have been picked.
func FuzzFilter(f *testing.F) {
	f.Add("a", "b", "a/b/c")
	f.Add("**/x", "!a", "x/y")
	f.Add("a/*\n!a/b", "*\n!**/c", "a/b/c")
	f.Fuzz(func(t *testing.T, include, exclude, p string) {
		p = strings.Trim(filepath.Clean("/"+p), "/")
		if p == "" || len(p) > 200 {
			return
		}
		filter, err := NewFilter(split(include), split(exclude))
		if err != nil || filter == nil {
			return
		}
		var st State
		skipped := false
		comps := strings.Split(p, "/")
		for i := range comps {
			var v Verdict
			if v, st, err = filter.Check(strings.Join(comps[:i+1], "/"), st); err != nil {
				return
			}
			if skipped && v == Pick {
				t.Fatalf("include %q exclude %q: %q is picked, and something above it is skipped", include, exclude, p)
			}
			skipped = skipped || v == Skip
		}
	})
}

// With exclude patterns alone, what is picked is what the reference matcher, given whole paths, does not match: nothing is
// lost by going down from directory to directory and by not reading those in which nothing could be.
func FuzzFilterExclude(f *testing.F) {
	for _, c := range [][2]string{
		{"*", "a"},
		{"*\n!a/b", "a/b"},
		{"**/x\n!a/x", "a/x/y"},
		{"a\n!a/b/c", "a/b/c/d"},
		{"a/*\n!a/b", "a/b/c"},
		{"**\n!**/*.go", "a/b/c.go"},
		{"a/b\n!a\na/b/c", "a/b/c"},
		{"[a-c]?\n!b*", "bx/y"},
		{"a\\*b", "a*b"},
		{"!a\na", "a"},
		{"a/**/b\n!a/x/b/c", "a/x/b/c"},
		{"a/**", "a"},
		{"?", "é"},
	} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, exclude, p string) {
		p = strings.Trim(filepath.Clean("/"+p), "/")
		patterns := split(exclude)
		if p == "" || len(p) > 200 || len(exclude) > 500 {
			return
		}
		filter, err := NewFilter(nil, patterns)
		if err != nil || filter == nil {
			return
		}
		pm, err := patternmatcher.New(patterns)
		if err != nil {
			t.Fatalf("%q: %v", patterns, err)
		}
		excluded, err := pm.MatchesOrParentMatches(p)
		if err != nil {
			return
		}
		var st State
		v := Walk
		comps := strings.Split(p, "/")
		for i := range comps {
			if v, st, err = filter.Check(strings.Join(comps[:i+1], "/"), st); err != nil {
				return
			}
			if v == Skip {
				break
			}
		}
		if picked := v == Pick; picked == excluded {
			t.Errorf("exclude %q: %q is picked: %t; the matcher excludes it: %t", patterns, p, picked, excluded)
		}
	})
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
