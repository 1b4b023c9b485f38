package llb

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// build decodes a nested build. Only those of LLB exist.
func (w *wired) build(b *pb.BuildOp) (solver.Op, error) {
	switch {
	case b == nil:
		return nil, errors.New("invalid nil build op")
	case b.Builder != int64(pb.LLBBuilder):
		return nil, errors.New("only LLB builder is currently allowed")
	case b.Def != nil:
		return nil, errors.New("a nested build with a definition inside: it has to be a file of an input")
	}
	out := &op.Build{}
	for _, name := range slices.Sorted(maps.Keys(b.Inputs)) {
		i := b.Inputs[name].GetInput()
		if err := w.checkInput("input "+name+" of a nested build", i); err != nil {
			return nil, err
		}
		out.Inputs = append(out.Inputs, op.BuildInput{Name: name, Input: w.whole(int(i))})
	}
	if _, _, ok := out.Definition(); !ok {
		return nil, fmt.Errorf("no llb definition input %s found", op.DefinitionInput)
	}
	for _, name := range slices.Sorted(maps.Keys(b.Attrs)) {
		if name != pb.AttrLLBDefinitionFilename {
			return nil, fmt.Errorf("unknown attribute %q of a nested build", name)
		}
		out.File = b.Attrs[name]
	}
	return out, nil
}

// encodeBuild is the reverse of build.
func (e *encoding) build(b *op.Build) *pb.BuildOp {
	out := &pb.BuildOp{Builder: int64(pb.LLBBuilder), Inputs: make(map[string]*pb.BuildInput), Attrs: make(map[string]string)}
	for _, in := range b.Inputs {
		out.Inputs[in.Name] = &pb.BuildInput{Input: e.number(in.Input)}
	}
	for _, a := range b.Attrs {
		out.Attrs[a.Name] = a.Value
	}
	if b.File != "" {
		out.Attrs[pb.AttrLLBDefinitionFilename] = b.File
		e.need(pb.CapBuildOpLLBFileName)
	}
	return out
}
