package fileop

import (
	"fmt"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// Copies whose step keys are equal do the same, wherever in whatever tree they read from: what the solver takes for
// done when it finds the key is what would have been done.
func TestStepKeyIsEnough(t *testing.T) {
	sources := [][]string{
		{"a/x=1", "a/y=2", "b/x=1", "b/d/x=1", "b/d/y=2", "c/x=2", "l -> b/x", "ld -> a", "e/"},
		{"a/x=2", "b/x=1", "b/y=1", "z=1", "x=1", "l -> c/q", "c/q=1", "m/l -> ../x", "ld -> b", "c/d/.wh.x=1", "d/x=1", "d/y=2"},
		{"x/x=1", "x/y=2", "b/x -> ../y", "y=1", "a/x/x=1", "a/x/y=2", "a/y -> x"},
	}
	bases := [][]string{{"d/x/", "f=old", "dl -> d"}, {"x=old"}}
	srcs := []string{
		"/a/x", "/b/x", "/c/x", "/a", "/b", "/b/d", "/l", "/m/l", "/ld", "/z", "/x", "/x/x", "/e", "/y", "/a/y", "/", "/c/q", "/c/d", "/none",
		"/d", "/a/*", "/?",
	}
	dsts := []string{"/d", "/d/", "/f", "/new", "/new/", "/dl", "/d/x"}
	changes := []func(c *op.Copy){
		func(*op.Copy) {},
		func(c *op.Copy) { c.Exclude = []string{"y"} },
		func(c *op.Copy) { c.Include = []string{"x"} },
		func(c *op.Copy) { c.Required = []string{path.Join(c.Src, "x")} },
		func(c *op.Copy) { c.FollowSymlinks = false },
		func(c *op.Copy) { c.DirContents = false },
		func(c *op.Copy) { c.Unpack = true },
		func(c *op.Copy) { c.ModeString = "u=rwX" },
	}
	env := newEnv(t, plain)
	var trees, grounds []solver.Result
	for _, s := range sources {
		trees = append(trees, env.base(files(t, s...)))
	}
	for _, s := range bases {
		grounds = append(grounds, env.base(files(t, s...)))
	}
	type made struct{ from, what string }
	seen := map[solver.Key]made{}
	rng := rand.New(rand.NewPCG(1, 2))
	moved := 0
	for range 1500 {
		tree, ground := trees[rng.IntN(len(trees))], rng.IntN(len(grounds))
		src := srcs[rng.IntN(len(srcs))]
		c := &op.Copy{
			Src: src, Dst: dsts[rng.IntN(len(dsts))], DirContents: true, MkdirDst: true, EmptyWildcard: true, FollowSymlinks: true,
			Wildcard: treehash.HasWildcard(src), Time: old,
		}
		changes[rng.IntN(len(changes))](c)
		a := op.FileAction{Input: 0, Second: 1, Copy: c}
		key, err := env.stepKey(grounds[ground], tree, a)
		if err != nil {
			continue // it is not there: there is no key, and nothing is copied
		}
		what := ""
		if r, err := env.do(grounds[ground], tree, a); err == nil {
			what = env.dump(r)
		}
		from := fmt.Sprintf("%s in %s", src, tree)
		old, ok := seen[key]
		switch {
		case !ok:
			seen[key] = made{from, what}
		case old.what != what:
			t.Fatalf("%+v has the same key from %s and from %s.\nThe one makes\n%s\nand the other\n%s", c, old.from, from, old.what, what)
		case old.from != from:
			moved++
		}
	}
	if moved < 30 {
		t.Errorf("only %d copies had the key of one from elsewhere", moved)
	}
}

// stepKey is the key of one action, as the solver makes it.
func (e *testEnv) stepKey(base, src solver.Result, a op.FileAction) (solver.Key, error) {
	tree, done, err := e.Tree(e.t.Context(), src)
	if err != nil {
		return solver.Key{}, err
	}
	defer done()
	sel := Selector(a.Copy)
	d, err := treehash.Digest(e.t.Context(), tree, sel)
	if err != nil {
		return solver.Key{}, err
	}
	v := solver.NewVertex(&op.Build{}, nil, solver.Meta{})
	var h solver.Hasher
	(&op.File{Actions: []op.FileAction{a}}).WriteStepKey(&h, []solver.Input{{Vertex: v}, {Vertex: v, Select: sel}})
	h.Result("input.0", base)
	h.Digest("input.1", d)
	return h.Sum(), nil
}

// Which copies may be told from one another only by what they find, and which not.
func TestStepKeyNames(t *testing.T) {
	env := newEnv(t, plain)
	tree := env.base(files(t, "a/x=1", "b/x=1", "a/y=1", "d/e/x=1", "c/*=1"))
	key := func(c *op.Copy) solver.Key {
		k, err := env.stepKey("", tree, op.FileAction{Input: op.NoInput, Second: 1, Copy: c})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	plain := func(src string) *op.Copy {
		return &op.Copy{Src: src, Dst: "/z/", DirContents: true, FollowSymlinks: true}
	}
	for _, c := range []struct {
		what string
		a, b *op.Copy
		same bool
	}{
		{"a file elsewhere", plain("/a/x"), plain("/b/x"), true},
		{"a file of another name", plain("/a/x"), plain("/a/y"), false},
		{"a directory of another name", plain("/b"), plain("/d/e"), true},
		{"a directory as a whole", with(plain("/b"), func(c *op.Copy) { c.DirContents = false }), with(plain("/d/e"), func(c *op.Copy) { c.DirContents = false }), false},
		{"a pattern", with(plain("/a/[x]"), func(c *op.Copy) { c.Wildcard = true }), with(plain("/b/[x]"), func(c *op.Copy) { c.Wildcard = true }), false},
		{"a name and what looks like a pattern", plain("/c/*"), with(plain("/c/*"), func(c *op.Copy) { c.Wildcard = true }), false},
		{"a path that has to be there", with(plain("/b"), func(c *op.Copy) { c.Required = []string{"/b/x"} }), with(plain("/d/e"), func(c *op.Copy) { c.Required = []string{"/b/x"} }), false},
		{"a file and a directory", plain("/b/x"), plain("/b"), false},
	} {
		if same := key(c.a) == key(c.b); same != c.same {
			t.Errorf("%s: the keys are the same: %v", c.what, same)
		}
	}
}
