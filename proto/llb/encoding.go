package llb

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// An encoding is a vertex while it is written as BuildKit's client would write it.
type encoding struct {
	v    *solver.Vertex
	opt  *Options
	out  *pb.Op
	caps map[string]bool
	err  error // of an input

	in      []*pb.Input // of the vertex
	numbers []int64     // of the vertex's inputs in the definition
}

// input adds an input of the vertex.
func (e *encoding) input(in *pb.Input) { e.in, e.numbers = append(e.in, in), append(e.numbers, 0) }

// number returns the number in the definition of an input of the vertex.
func (e *encoding) number(i int) int64 {
	if i < 0 {
		return int64(pb.Empty)
	}
	return e.numbers[i]
}

// joined adds the inputs, equal ones once.
func (e *encoding) joined() {
	type output struct {
		digest string
		index  int64
	}
	have := make(map[output]int64, len(e.in))
	for i, in := range e.in {
		o := output{in.Digest, in.Index}
		n, ok := have[o]
		if !ok {
			n = int64(len(e.out.Inputs))
			have[o], e.out.Inputs = n, append(e.out.Inputs, in)
		}
		e.numbers[i] = n
	}
}

// each adds all inputs as they are.
func (e *encoding) each() {
	e.out.Inputs = e.in
	for i := range e.numbers {
		e.numbers[i] = int64(i)
	}
}

func (e *encoding) need(c apicaps.CapID) { e.caps[string(c)] = true }

// needIf is need if there is something that needs it.
func (e *encoding) needIf(there bool, c apicaps.CapID) {
	if there {
		e.need(c)
	}
}

// encode writes the operation.
func (e *encoding) encode() error {
	if e.err != nil {
		return e.err
	}
	o := originOf(e.v)
	if o != nil {
		e.out.Platform, e.out.Constraints.Filter = o.platform, o.filter
	}
	switch x := e.v.Op().(type) {
	case op.Source:
		return e.source(x)
	case *op.Exec:
		e.joined()
		return e.exec(x)
	case *op.File:
		e.joined()
		return e.file(x)
	case *op.Merge:
		e.each()
		m := &pb.MergeOp{}
		for i := range e.in {
			m.Inputs = append(m.Inputs, &pb.MergeInput{Input: int64(i)})
		}
		e.need(pb.CapMergeOp)
		e.out.Op = &pb.Op_Merge{Merge: m}
	case *op.Diff:
		e.each()
		e.diff(x)
	case *op.Build:
		e.joined()
		e.need(pb.CapBuildOpLLBFileName)
		e.out.Op = &pb.Op_Build{Build: e.build(x)}
	case *op.Passthrough:
		e.each()
		p := &pb.PassthroughOp{Id: x.ID}
		for _, i := range x.Out {
			p.Outputs = append(p.Outputs, int64(i))
		}
		e.need(pb.CapPassthroughOp)
		e.out.Op = &pb.Op_Passthrough{Passthrough: p}
	default:
		return fmt.Errorf("LLB has no operation for %T", x)
	}
	return e.finish(nil)
}

func (e *encoding) diff(d *op.Diff) {
	out := &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: int64(pb.Empty)}, Upper: &pb.UpperDiffInput{Input: int64(pb.Empty)}}
	next := int64(0)
	if d.Lower {
		out.Lower.Input = next
		next++
	}
	if d.Upper {
		out.Upper.Input = next
	}
	e.need(pb.CapDiffOp)
	e.out.Op = &pb.Op_Diff{Diff: out}
}

// errSelector is that of an input of which a vertex says something that its operation does not imply.
var errSelector = errors.New("LLB cannot say what is read of an input")

// finish checks that LLB implies the selectors that inputs have: those of want, by the inputs' numbers in the vertex, and
// none.
func (e *encoding) finish(want map[int]*solver.Selector) error {
	for i, in := range e.v.Inputs() {
		if !sameSelector(in.Select, want[i]) {
			return fmt.Errorf("%w: input %d", errSelector, i)
		}
	}
	return nil
}

func sameSelector(a, b *solver.Selector) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Wildcard == b.Wildcard && a.Follow == b.Follow && a.Named == b.Named && slices.Equal(a.Paths, b.Paths) &&
		slices.Equal(a.Include, b.Include) && slices.Equal(a.Exclude, b.Exclude)
}
