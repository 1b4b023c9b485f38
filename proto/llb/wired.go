package llb

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A wired is an operation while it is decoded: its inputs are those of the definition, and what the vertex will have for
// inputs is collected use by use.
type wired struct {
	op       *pb.Op
	meta     *pb.OpMetadata
	in       []solver.Input // by their numbers in the definition
	supports func(capability string) error

	uses []use
	base map[int]int // of the inputs that are used whole, to the number of the use
	same []int       // of each input, the first that is the same output; nil where each counts
}

// join makes inputs that are the same output one.
func (w *wired) join() {
	first := make(map[solver.Input]int, len(w.in))
	for i, in := range w.in {
		if _, ok := first[in]; !ok {
			first[in] = i
		}
		w.same = append(w.same, first[in])
	}
}

// first returns the first input that is the same as i.
func (w *wired) first(i int) int {
	if w.same == nil {
		return i
	}
	return w.same[i]
}

// A use is an input that the vertex gets.
type use struct {
	in  int
	sel *solver.Selector
}

// decode returns the operation. What LLB's optional messages lack is an error, as in BuildKit.
func (w *wired) decode() (solver.Op, error) {
	switch x := w.op.Op.(type) {
	case *pb.Op_Source:
		return w.source(x.Source)
	case *pb.Op_Exec:
		w.join()
		return w.exec(x.Exec)
	case *pb.Op_File:
		w.join()
		return w.file(x.File)
	case *pb.Op_Merge:
		return w.merge(x.Merge)
	case *pb.Op_Diff:
		return w.diff(x.Diff)
	case *pb.Op_Build:
		if err := w.supports(string(pb.CapBuildOpLLBFileName)); err != nil {
			return nil, err
		}
		w.join()
		return w.build(x.Build)
	case *pb.Op_Passthrough:
		return w.passthrough(x.Passthrough)
	case nil:
		return nil, errors.New("no operation, and not the last of the definition")
	}
	return nil, fmt.Errorf("unknown kind of operation %T", w.op.Op)
}

// whole uses input i without a selector, and returns the number of the use. All such uses are one input.
func (w *wired) whole(i int) int {
	i = w.first(i)
	if n, ok := w.base[i]; ok {
		return n
	}
	if w.base == nil {
		w.base = make(map[int]int)
	}
	w.base[i] = w.part(i, nil)
	return w.base[i]
}

// part uses what sel picks of input i, and returns the number of the use.
func (w *wired) part(i int, sel *solver.Selector) int {
	w.uses = append(w.uses, use{in: w.first(i), sel: sel})
	return len(w.uses) - 1
}

// checkInput says whether the definition has an input of that number.
func (w *wired) checkInput(what string, i int64) error {
	if i < 0 || i >= int64(len(w.in)) {
		return fmt.Errorf("%s names input %d of %d", what, i, len(w.in))
	}
	return nil
}

// unused returns the inputs that nothing uses.
func (w *wired) unused() (out []int) {
	used := make([]bool, len(w.in))
	for _, u := range w.uses {
		used[u.in] = true
	}
	for i := range used {
		if !used[i] && w.first(i) == i {
			out = append(out, i)
		}
	}
	return out
}

// allUsed is an error if there is an input that what does not mention, for operations where every input counts.
func (w *wired) allUsed(what string) error {
	if unused := w.unused(); len(unused) > 0 {
		return fmt.Errorf("%s does not use input %d", what, unused[0])
	}
	return nil
}

// inputs returns the vertex's inputs and what their vertices are called. Inputs that nothing uses come last: they are
// made, as in BuildKit.
func (w *wired) inputs() (out []solver.Input, names []digest.Digest) {
	add := func(i int, sel *solver.Selector) {
		in := w.in[i]
		in.Select = sel
		out, names = append(out, in), append(names, digest.Digest(w.op.Inputs[i].Digest))
	}
	for _, u := range w.uses {
		add(u.in, u.sel)
	}
	for _, i := range w.unused() {
		add(i, nil)
	}
	return out, names
}

// clean returns p as a path in a tree: absolute, and without anything that could lead out of it.
func clean(p string) string { return path.Join("/", p) }

// cleanTarget is clean for a place that something is put at, where a slash or "/." at the end says that it is a directory.
func cleanTarget(p string) string {
	c := clean(p)
	end := ""
	switch {
	case strings.HasSuffix(p, "/."):
		end = "/."
	case strings.HasSuffix(p, "/"):
		end = "/"
	}
	if c == "/" && end != "/." {
		return c
	}
	return strings.TrimSuffix(c, "/") + end
}

// merge decodes a merge. BuildKit's own takes its inputs by their order and not by the numbers, which are the same there.
func (w *wired) merge(m *pb.MergeOp) (solver.Op, error) {
	if m == nil || len(m.Inputs) == 0 {
		return nil, errors.New("a merge without inputs")
	}
	for _, in := range m.Inputs {
		if err := w.checkInput("a merge", in.GetInput()); err != nil {
			return nil, err
		}
		w.part(int(in.GetInput()), nil)
	}
	return &op.Merge{}, w.allUsed("a merge")
}

func (w *wired) diff(d *pb.DiffOp) (solver.Op, error) {
	if d == nil || d.Lower == nil || d.Upper == nil {
		return nil, errors.New("invalid diff op with nil lower or upper input")
	}
	out := &op.Diff{}
	for _, side := range []struct {
		name  string
		in    int64
		there *bool
	}{{"the lower side of a diff", d.Lower.Input, &out.Lower}, {"the upper side of a diff", d.Upper.Input, &out.Upper}} {
		if side.in == int64(pb.Empty) {
			continue
		}
		if err := w.checkInput(side.name, side.in); err != nil {
			return nil, err
		}
		*side.there = true
		w.part(int(side.in), nil)
	}
	return out, w.allUsed("a diff")
}

func (w *wired) passthrough(p *pb.PassthroughOp) (solver.Op, error) {
	switch {
	case p == nil || p.Id == "":
		return nil, errors.New("invalid passthrough op with no id")
	case len(p.Outputs) == 0:
		return nil, errors.New("invalid passthrough op with no outputs")
	}
	out := &op.Passthrough{ID: p.Id}
	for _, i := range p.Outputs {
		if err := w.checkInput("an output of a passthrough", i); err != nil {
			return nil, err
		}
		out.Out = append(out.Out, int(i))
	}
	for i := range w.in {
		w.part(i, nil)
	}
	return out, nil
}
