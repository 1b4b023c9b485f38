package dockerfile

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// The names of the trees that take the place of the client's directories.
const (
	inputContext    = "context"
	inputDockerfile = "dockerfile"
)

// treeInput returns a tree of a request as an input.
func treeInput(t frontend.Tree) solver.Input {
	if t.Root != nil {
		return *t.Root
	}
	empty := &op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: op.NoInput, Mkdir: &op.Mkdir{Path: "/", Mode: 0o755, Parents: true},
	}}}
	return solver.Input{Vertex: solver.NewVertex(empty, nil, solver.Meta{Internal: true})}
}

// dockerfileInput returns the tree that has the Dockerfile instead of from, where it would be otherwise.
func dockerfileInput(req *frontend.Request, from op.Source) (frontend.Tree, bool) {
	t, ok := req.Inputs[inputDockerfile]
	l, local := from.(*op.Local)
	return t, ok && (from == nil || local && l.Name == inputDockerfile)
}

// loadInput returns a tree of the request as a named context, with the configuration of the image that it is of.
func (t *translation) loadInput(nc *namedContext, name string) (*origin, error) {
	in, ok := t.req.Inputs[name]
	if !ok {
		return nil, fmt.Errorf("invalid input %s for %s", name, nc.name)
	}
	root := treeInput(in)
	o := &origin{tree: &tree{input: &root, label: "[context " + nc.name + "] input:" + name}}
	if in.Config == nil {
		return o, nil
	}
	o.config = &frontend.ImageConfig{}
	if err := json.Unmarshal(in.Config, o.config); err != nil {
		return nil, fmt.Errorf("failed to parse image config for %s: %w", nc.name, err)
	}
	o.config.RootFS.DiffIDs = nil // the tree's own layers count
	return o, nil
}

// followSyntax is checkSyntax for a request, unless that says that it has been settled who translates. What is in the file
// it says where.
func (s *source) followSyntax(req *frontend.Request) error {
	if req.Forwarded {
		return nil
	}
	err := s.checkSyntax(req.BuildArgs)
	var foreign *frontend.ForeignError
	if errors.As(err, &foreign) {
		return &frontend.ForeignError{Ref: foreign.Ref, Cmdline: foreign.Cmdline, Err: s.located(foreign.Err)}
	}
	return err
}
