package dockerfile

import (
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// TestSessions checks that each directory of the client's is looked for in the session that has it, and in the client's
// own if none is named: that of the context is not that of the others.
func TestSessions(t *testing.T) {
	c := dockerfileCase(t, "FROM scratch\nCOPY a /\nCOPY --from=shared a /\nCOPY --from=own a /\n")
	for _, dir := range []string{"context", "shared", "own"} {
		c.env.dirs[dir] = map[string]string{"a": dir}
	}
	c.req.Context = &op.Local{Name: "context", Session: "first"}
	c.req.Contexts = map[string]string{"shared": "local:shared", "own": "local:own"}
	c.req.Sessions = map[string]string{"context": "first", "shared": "second"}
	out, err := c.translate()
	if err != nil {
		t.Fatal(err)
	}
	got := sessionsOf(out)
	for dir, want := range map[string]string{"context": "first", "shared": "second", "own": ""} {
		if s, ok := got[dir]; !ok || s != want {
			t.Errorf("directory %s is one of session %q (%t), want %q", dir, s, ok, want)
		}
	}
}

// TestSharedKeys checks the hint by which a directory's transfer continues one of another build: that of a named context has
// the client's key for it.
func TestSharedKeys(t *testing.T) {
	c := dockerfileCase(t, "FROM scratch\nCOPY --from=shared a /\nCOPY --from=own a /\n")
	for _, dir := range []string{"shared", "own"} {
		c.env.dirs[dir] = map[string]string{"a": dir}
	}
	c.req.Contexts = map[string]string{"shared": "local:shared", "own": "local:own"}
	c.req.SharedKeys = map[string]string{"shared": "key"}
	out, err := c.translate()
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{"shared": "context:shared-key", "own": "context:own-"} {
		if got := localsOf(out)[dir].SharedKey; got != want {
			t.Errorf("directory %s has the key %q, want %q", dir, got, want)
		}
	}
}

// sessionsOf are the sessions of all directories of the client's that an output needs, by their names.
func sessionsOf(out *frontend.Output) map[string]string {
	got := map[string]string{}
	for name, l := range localsOf(out) {
		got[name] = l.Session
	}
	return got
}

// localsOf are the directories of the client's that an output needs, by their names.
func localsOf(out *frontend.Output) map[string]*op.Local {
	got := map[string]*op.Local{}
	var visit func(v *solver.Vertex)
	visit = func(v *solver.Vertex) {
		if l, ok := v.Op().(*op.Local); ok {
			got[l.Name] = l
		}
		for _, in := range v.Inputs() {
			visit(in.Vertex)
		}
	}
	for _, in := range out.Targets() {
		visit(in.Vertex)
	}
	return got
}
