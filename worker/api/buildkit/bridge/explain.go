package bridge

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/moby/buildkit/solver/errdefs"
	opspb "github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// newID returns a name that nobody has used.
func newID() string { return strings.ToLower(rand.Text()) }

// explain adds to the failure of a step what the other side can look into it with: the operation, and IDs of what the step
// read and of what it has left, by which a container can be made that shows what the command saw.
func (c *conversation) explain(err error) error {
	err = c.located(err)
	var v *solver.VertexError
	var have *errdefs.SolveError
	if !errors.As(err, &v) || v.Vertex == nil || errors.As(err, &have) {
		return err
	}
	x := writtenOp(v.Vertex)
	if x == nil {
		return err
	}
	e := &explanation{
		c: c, v: v.Vertex, ids: make(map[int]string),
		info: &errdefs.Solve{Op: x, Description: llb.Metadata(v.Vertex).GetDescription()},
	}
	var left *solver.LeftError
	if errors.As(err, &left) {
		e.left = left.Left
	}
	var lacks *solver.InputError
	if errors.As(err, &lacks) && lacks.Input < len(v.Vertex.Inputs()) {
		// BuildKit has not begun the step either when it looks for what a read-only mount has.
		e.info.InputIDs = []string{e.input(lacks.Input)}
		e.info.Subject = &errdefs.Solve_Cache{Cache: &errdefs.ContentCache{Index: int64(lacks.Input)}}
		return &errdefs.SolveError{Solve: e.info, Err: err}
	}
	switch o := v.Vertex.Op().(type) {
	case *op.Exec:
		e.exec(o)
	case *op.File:
		e.file(o)
	}
	return &errdefs.SolveError{Solve: e.info, Err: err}
}

// An explanation is what is said of one failure.
type explanation struct {
	c    *conversation
	v    *solver.Vertex
	left []solver.Result // as in solver.LeftError
	ids  map[int]string  // by the number of the vertex's input
	info *errdefs.Solve
}

// input returns an ID for an input of the vertex.
func (e *explanation) input(i int) string {
	if e.ids[i] == "" {
		in := e.v.Inputs()[i]
		in.Select = nil
		e.ids[i] = e.c.add(newRef(in))
	}
	return e.ids[i]
}

// exec says of each mount what was in it at the beginning and at the end; of one that was not written to that is the same.
func (e *explanation) exec(x *op.Exec) {
	mounts := e.info.GetOp().GetExec().GetMounts()
	if len(mounts) != len(x.Mounts) {
		return
	}
	e.info.InputIDs, e.info.MountIDs = make([]string, len(mounts)), make([]string, len(mounts))
	for i, m := range x.Mounts {
		if m.Input != op.NoInput {
			e.info.InputIDs[i] = e.input(m.Input)
			e.info.MountIDs[i] = e.info.InputIDs[i]
		}
		if i < len(e.left) && e.left[i] != "" {
			e.info.MountIDs[i] = e.c.addLeft(e.left[i])
		}
	}
}

// file says which action has failed, which is the last one that there is something of, and what it has left; and what the
// actions have made that others read.
func (e *explanation) file(f *op.File) {
	actions := e.info.GetOp().GetFile().GetActions()
	if len(actions) != len(f.Actions) || len(e.left) != len(actions) {
		return
	}
	for i := range e.v.Inputs() {
		e.info.InputIDs = append(e.info.InputIDs, e.input(i))
	}
	e.info.MountIDs = make([]string, len(actions))
	for i, r := range e.left {
		if r != "" {
			e.info.MountIDs[i] = e.c.addLeft(r)
			e.info.Subject = &errdefs.Solve_File{File: &errdefs.FileAction{Index: int64(i)}}
		}
	}
}

// writtenOp returns the operation of a vertex as LLB has it, or nil if LLB cannot express it.
func writtenOp(v *solver.Vertex) *opspb.Op {
	def, err := llb.Encode(&solver.Input{Vertex: v}, llb.Options{})
	if err != nil || len(def.Def) < 2 {
		return nil
	}
	var last opspb.Op
	if err := proto.Unmarshal(def.Def[len(def.Def)-1], &last); err != nil || len(last.GetInputs()) != 1 {
		return nil
	}
	for _, raw := range def.Def {
		if string(digest.FromBytes(raw)) != last.GetInputs()[0].GetDigest() {
			continue
		}
		var x opspb.Op
		if err := proto.Unmarshal(raw, &x); err != nil {
			return nil
		}
		return &x
	}
	return nil
}

type askerKey struct{}

// withAsker returns a context in which a frontend does what c has asked it for.
func withAsker(ctx context.Context, c *conversation) context.Context {
	return context.WithValue(ctx, askerKey{}, c)
}

func askerOf(ctx context.Context) *conversation {
	c, _ := ctx.Value(askerKey{}).(*conversation)
	return c
}

// tellAskerLocked returns what gives the asker's client names for what is called so here, since its calls know only its own:
// a step that failed for a frontend is looked into like one of the client's. What nobody knows becomes "".
func (c *conversation) tellAskerLocked() func(id string) string {
	if c.asker == nil {
		return nil
	}
	return func(id string) string {
		if r := c.refs[id]; r != nil {
			return c.asker.add(r)
		}
		if left := c.left[id]; left != "" {
			return c.asker.addLeft(left)
		}
		return ""
	}
}
