package dockerfile

import (
	"errors"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// given is a tree that came with a request.
func given() frontend.Tree {
	write := &op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: op.NoInput, Mkfile: &op.Mkfile{Path: "/in", Mode: 0o644, Data: []byte("x")},
	}}}
	return frontend.Tree{Root: &solver.Input{Vertex: solver.NewVertex(write, nil, solver.Meta{Name: "given"})}}
}

// reads says whether the graph of out reads the vertex of tree.
func reads(out *frontend.Output, tree frontend.Tree) bool {
	todo := out.Targets()
	for len(todo) > 0 {
		v := todo[0].Vertex
		todo = append(todo[1:len(todo):len(todo)], v.Inputs()...)
		if v == tree.Root.Vertex {
			return true
		}
	}
	return false
}

// TestInputs checks that trees of the request take the place of the context, and are named contexts, with the
// configuration that they came with.
func TestInputs(t *testing.T) {
	for name, tc := range map[string]struct {
		text     string
		inputs   []string
		contexts map[string]string
		config   string
		label    string
		err      string
	}{
		"the context":   {text: "FROM scratch\nCOPY in /\n", inputs: []string{"context"}},
		"a copy":        {text: "FROM scratch\nCOPY --from=x in /\n", inputs: []string{"i"}, contexts: map[string]string{"x": "input:i"}},
		"a base":        {text: "FROM x\nCOPY . /y\n", inputs: []string{"i"}, contexts: map[string]string{"x": "input:i"}},
		"an image":      {text: "FROM x\nWORKDIR /w\n", inputs: []string{"i"}, contexts: map[string]string{"x": "input:i"}, config: `{"os":"linux","architecture":"amd64","config":{"Labels":{"l":"m"}},"rootfs":{"diff_ids":["sha256:x"]}}`, label: "m"},
		"no such":       {text: "FROM x\n", contexts: map[string]string{"x": "input:i"}, err: "invalid input i for x"},
		"a bad config":  {text: "FROM x\n", inputs: []string{"i"}, contexts: map[string]string{"x": "input:i"}, config: "[", err: "failed to parse image config for x"},
		"the empty one": {text: "FROM x\nWORKDIR /w\n", inputs: []string{"empty"}, contexts: map[string]string{"x": "input:empty"}},
	} {
		c := dockerfileCase(t, tc.text)
		c.req.Contexts = tc.contexts
		c.req.Inputs = map[string]frontend.Tree{}
		tree := given()
		for _, i := range tc.inputs {
			in := tree
			if i == "empty" {
				in.Root = nil
			}
			if tc.config != "" {
				in.Config = []byte(tc.config)
			}
			c.req.Inputs[i] = in
		}
		out, err := c.translate()
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v, want %q", name, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := reads(out, tree); got == (tc.inputs[0] == "empty") {
			t.Errorf("%s: the tree is read: %v", name, got)
		}
		if img := out.Images[0]; img.Config.Config.Labels["l"] != tc.label || img.BaseConfig != nil && len(img.BaseConfig.RootFS.DiffIDs) > 0 {
			t.Errorf("%s: got %+v from %+v", name, img.Config, img.BaseConfig)
		}
	}
}

// TestForeign checks that a Dockerfile for another frontend says which image that is in, unless it has been settled that
// this is the frontend.
func TestForeign(t *testing.T) {
	c := dockerfileCase(t, "# syntax=some/frontend:1 with words\nFROM scratch\n")
	var foreign *frontend.ForeignError
	if _, err := c.translate(); !errors.As(err, &foreign) || foreign.Ref != "some/frontend:1" || foreign.Cmdline != "some/frontend:1 with words" {
		t.Errorf("got %v", err)
	}
	c.req.Forwarded = true
	if _, err := c.translate(); err != nil {
		t.Errorf("when it is settled: %v", err)
	}
}
