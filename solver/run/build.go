package run

import (
	"context"
	"fmt"
	"io"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// maxDefinition bounds a definition that a step has made, in bytes.
const maxDefinition = 64 << 20

// runBuild solves the definition that a file of an input is.
func (r *Runner) runBuild(ctx context.Context, step *solver.Step, b *op.Build) ([]solver.Result, error) {
	in, file, ok := b.Definition()
	if !ok {
		return nil, fmt.Errorf("no llb definition input %s found", op.DefinitionInput)
	}
	if in < 0 || in >= len(step.Inputs) {
		return nil, fmt.Errorf("the definition is input %d of %d", in, len(step.Inputs))
	}
	h, err := hostOf(ctx)
	if err != nil {
		return nil, fmt.Errorf("solving a nested definition: %w", err)
	}
	definition, err := r.readFile(ctx, step.Inputs[in], file)
	if err != nil {
		return nil, lost(err, in)
	}
	res, err := h.Nest(ctx, definition)
	if err != nil {
		return nil, err
	}
	return []solver.Result{res}, nil
}

// readFile reads a regular file of a result. Symlinks are followed inside its tree.
func (r *Runner) readFile(ctx context.Context, res solver.Result, name string) ([]byte, error) {
	tree, done, err := r.Open(ctx, res)
	if err != nil {
		return nil, err
	}
	defer done()
	e, err := treehash.Resolve(ctx, tree, name, true)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the definition: %w", err)
	case !e.IsRegular():
		return nil, fmt.Errorf("reading the definition: %s is not a regular file", name)
	case e.Size > maxDefinition:
		return nil, fmt.Errorf("reading the definition: %s has more than %d bytes", name, maxDefinition)
	}
	f, err := tree.Open(ctx, e.Path)
	if err != nil {
		return nil, fmt.Errorf("reading the definition: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDefinition))
	if err != nil {
		return nil, fmt.Errorf("reading the definition: %w", err)
	}
	return data, nil
}
