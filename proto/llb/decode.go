package llb

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/boxbuild/boxbuild/solver"
)

// An OpError is what is wrong with an operation of a definition.
type OpError struct {
	Digest digest.Digest
	// At has the file and the lines that the operation comes from, in the fields Meta has them in; empty if the definition
	// does not say.
	At  solver.Meta
	Err error
}

func (e *OpError) Error() string { return fmt.Sprintf("invalid LLB operation %s: %v", e.Digest, e.Err) }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Decode reads a definition. One without operations is the empty tree. Errors are *OpError where they are about one
// operation, and have a *CapError inside where something is asked for that boxbuild has not.
func Decode(def *pb.Definition) (*Graph, error) { return decode(def, Supports) }

// decode is Decode with the capabilities for which supports has no error.
func decode(def *pb.Definition, supports func(string) error) (*Graph, error) {
	g := &Graph{}
	if def == nil || len(def.Def) == 0 {
		return g, nil
	}
	d := &decoder{def: def, supports: supports, ops: make(map[digest.Digest]*parsed, len(def.Def))}
	var last *parsed
	for _, raw := range def.Def {
		p, err := parse(raw)
		if err != nil {
			return nil, err
		}
		if have := d.ops[p.digest]; have != nil {
			p = have
		}
		d.ops[p.digest], last = p, p
	}
	if last.op.Op != nil || len(last.op.Inputs) != 1 {
		return nil, &OpError{Digest: last.digest, Err: errors.New("the last operation of a definition names its result, and must have one input and nothing else")}
	}
	if err := d.check(last); err != nil {
		return nil, &OpError{Digest: last.digest, Err: err}
	}
	var err error
	if d.sources, g.Files, err = readSource(def.Source); err != nil {
		return nil, err
	}
	d.files = g.Files
	delete(d.ops, last.digest)
	root := last.op.Inputs[0]
	if g.Vertices, err = d.graph(digest.Digest(root.Digest)); err != nil {
		return nil, err
	}
	in, err := d.input(root)
	if err != nil {
		return nil, &OpError{Digest: last.digest, Err: err}
	}
	g.Root, g.byDigest = &in, make(map[digest.Digest]*solver.Vertex, len(g.Vertices))
	for _, v := range g.Vertices {
		g.byDigest[originOf(v).digest] = v
	}
	return g, nil
}

// A parsed is an operation of a definition, and its vertex as soon as there is one.
type parsed struct {
	digest digest.Digest
	raw    []byte
	op     *pb.Op
	open   bool // its inputs are being made
	v      *solver.Vertex
}

func parse(raw []byte) (*parsed, error) {
	p := &parsed{digest: digest.FromBytes(raw), raw: raw, op: new(pb.Op)}
	if err := p.op.Unmarshal(raw); err != nil {
		return nil, &OpError{Digest: p.digest, Err: fmt.Errorf("reading it: %w", err)}
	}
	if what := unknownField(p.op.ProtoReflect()); what != "" {
		return nil, &OpError{Digest: p.digest, Err: fmt.Errorf("unknown field %s", what)}
	}
	for i, in := range p.op.Inputs {
		if in.GetIndex() < 0 {
			return nil, &OpError{Digest: p.digest, Err: fmt.Errorf("invalid output %d of input %d", in.GetIndex(), i)}
		}
	}
	return p, nil
}

// unknownField names a field that this version of LLB does not have; "" if there is none.
func unknownField(m protoreflect.Message) (name string) {
	if u := m.GetUnknown(); len(u) > 0 {
		return fmt.Sprintf("of %s (%d bytes)", m.Descriptor().Name(), len(u))
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i, l := 0, v.List(); i < l.Len() && name == ""; i++ {
				name = unknownField(l.Get(i).Message())
			}
		case f.IsMap():
			if f.MapValue().Kind() == protoreflect.MessageKind {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					name = unknownField(e.Message())
					return name == ""
				})
			}
		default:
			name = unknownField(v.Message())
		}
		return name == ""
	})
	return name
}

// A decoder is one Decode in progress.
type decoder struct {
	def      *pb.Definition
	supports func(capability string) error
	ops      map[digest.Digest]*parsed
	sources  map[string][]*pb.Location
	files    []File
}

// graph makes the vertices that the operation called root needs, inputs first. It keeps its own stack, since a
// definition may be deeper than is good for the goroutine's.
func (d *decoder) graph(root digest.Digest) ([]*solver.Vertex, error) {
	type frame struct {
		p    *parsed
		next int // the input to visit next
	}
	var out []*solver.Vertex
	var stack []frame
	push := func(name digest.Digest, of string) error {
		p := d.ops[name]
		switch {
		case p == nil:
			return fmt.Errorf("invalid LLB definition: missing input digest %q of %s", name, of)
		case p.open:
			return fmt.Errorf("invalid LLB definition: operation %s needs itself", name)
		case p.v == nil:
			p.open = true
			stack = append(stack, frame{p: p})
		}
		return nil
	}
	if err := push(root, "the result"); err != nil {
		return nil, err
	}
	for len(stack) > 0 {
		f := &stack[len(stack)-1]
		if f.next < len(f.p.op.Inputs) {
			in := f.p.op.Inputs[f.next]
			f.next++
			if err := push(digest.Digest(in.Digest), string(f.p.digest)); err != nil {
				return nil, err
			}
			continue
		}
		stack = stack[:len(stack)-1]
		f.p.open = false
		if f.p.v != nil {
			continue
		}
		if err := d.vertex(f.p); err != nil {
			return nil, d.opError(f.p, err)
		}
		out = append(out, f.p.v)
	}
	return out, nil
}

// input returns the output that in names, whose vertex has been made.
func (d *decoder) input(in *pb.Input) (solver.Input, error) {
	p := d.ops[digest.Digest(in.Digest)]
	if p == nil || p.v == nil {
		return solver.Input{}, fmt.Errorf("missing input digest %q", in.Digest)
	}
	if in.Index >= int64(p.v.Outputs()) {
		return solver.Input{}, fmt.Errorf("operation %s has no output %d: it has %d", in.Digest, in.Index, p.v.Outputs())
	}
	return solver.Input{Vertex: p.v, Output: int(in.Index)}, nil
}

// vertex makes the vertex of p, whose inputs have theirs.
func (d *decoder) vertex(p *parsed) error {
	if err := d.check(p); err != nil {
		return err
	}
	w := &wired{op: p.op, supports: d.supports, meta: d.def.Metadata[string(p.digest)]}
	for _, in := range p.op.Inputs {
		x, err := d.input(in)
		if err != nil {
			return err
		}
		w.in = append(w.in, x)
	}
	o, err := w.decode()
	if err != nil {
		return err
	}
	inputs, names := w.inputs()
	meta := d.meta(p, o, inputs)
	meta.Wire = &origin{
		digest: p.digest, raw: p.raw, op: o, inputs: names, meta: w.meta, platform: p.op.Platform,
		filter: p.op.Constraints.GetFilter(), locations: d.sources[string(p.digest)], files: d.files,
	}
	p.v = solver.NewVertex(o, inputs, meta)
	return nil
}

// opError returns an error with where in the user's file the operation comes from.
func (d *decoder) opError(p *parsed, err error) *OpError {
	e := &OpError{Digest: p.digest, Err: err}
	d.locate(&e.At, d.sources[string(p.digest)])
	return e
}

// check refuses what the client knows that it needs and boxbuild has not.
func (d *decoder) check(p *parsed) error {
	for c, needed := range d.def.Metadata[string(p.digest)].GetCaps() {
		if err := d.supports(c); needed && err != nil {
			return err
		}
	}
	return nil
}
