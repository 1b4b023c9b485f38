package bridge

import (
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
// read and of what its mounts began with, by which a container can be made that shows what the command saw.
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
	info := &errdefs.Solve{Op: x, Description: llb.Metadata(v.Vertex).GetDescription()}
	byInput := make(map[int]string) // IDs by the numbers of the vertex's inputs
	id := func(i int) string {
		if byInput[i] == "" {
			in := v.Vertex.Inputs()[i]
			in.Select = nil
			byInput[i] = c.add(newRef(in))
		}
		return byInput[i]
	}
	exec, ok := v.Vertex.Op().(*op.Exec)
	if !ok || x.GetExec() == nil || len(exec.Mounts) != len(x.GetExec().GetMounts()) {
		return &errdefs.SolveError{Solve: info, Err: err}
	}
	info.InputIDs = make([]string, len(x.GetInputs()))
	for i, m := range exec.Mounts {
		mount := ""
		if m.Input != op.NoInput {
			mount = id(m.Input)
			if n := x.GetExec().GetMounts()[i].GetInput(); n >= 0 && int(n) < len(info.InputIDs) {
				info.InputIDs[n] = mount
			}
		}
		info.MountIDs = append(info.MountIDs, mount)
	}
	return &errdefs.SolveError{Solve: info, Err: err}
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
