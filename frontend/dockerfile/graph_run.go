package dockerfile

import (
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// runVertex makes the vertex of a RUN. Its only output is the root; what is written elsewhere is gone.
func (t *translation) runVertex(s *stage, step *runStep) solver.Input {
	e := &op.Exec{
		Meta: step.meta, Network: step.network, Security: step.security, Secrets: step.secrets, Devices: step.devices,
		Platform: s.st.platform, Limits: step.limits,
	}
	var inputs []solver.Input
	input := func(in *solver.Input, sel *solver.Selector) int {
		if in == nil {
			return op.NoInput
		}
		inputs = append(inputs, solver.Input{Vertex: in.Vertex, Output: in.Output, Select: sel})
		return len(inputs) - 1
	}
	e.Mounts = append(e.Mounts, op.ExecMount{Input: input(s.root, nil), Dest: "/"})
	if step.script != nil {
		in := solver.Input{Vertex: t.scriptVertex(s, step)}
		e.Mounts = append(e.Mounts, op.ExecMount{Input: input(&in, nil), Dest: scriptDir, Output: op.NoOutput, ReadOnly: true})
	}
	for i := range step.mounts {
		m := step.mounts[i].ExecMount
		if m.Type == op.MountBind || m.Type == op.MountCache {
			in := t.rootOf(step.mounts[i].from)
			if owner := step.mounts[i].owner; owner != nil {
				in = t.cacheVertex(in, owner)
			}
			// Only what is mounted counts, and by its content: a cache's by what it is made of at first.
			sel := &solver.Selector{Follow: true}
			if m.Selector != "" {
				sel.Paths = []string{m.Selector}
			}
			m.Input = input(in, sel)
			m.ContentKey = in != nil
		}
		e.Mounts = append(e.Mounts, m)
	}
	return solver.Input{Vertex: t.shared.vertex(e, inputs, t.meta(s, &step.stepHead))}
}

// scriptVertex makes the tree that holds a here-document which is executed.
func (t *translation) scriptVertex(s *stage, step *runStep) *solver.Vertex {
	file := &op.File{Actions: []op.FileAction{{Input: op.NoInput, Second: op.NoInput, Mkfile: step.script}}}
	meta := t.meta(s, &stepHead{name: "[internal] preparing inline document"})
	meta.Internal = true
	return t.shared.vertex(file, nil, meta)
}

// cacheVertex makes the directory that a cache mount with an owner or a mode begins as.
func (t *translation) cacheVertex(base *solver.Input, dir *op.Mkdir) *solver.Input {
	a := op.FileAction{Input: op.NoInput, Second: op.NoInput, Mkdir: dir}
	var inputs []solver.Input
	if base != nil {
		a.Input = 0
		inputs = []solver.Input{*base}
	}
	meta := solver.Meta{Name: "[internal] setting cache mount permissions", Internal: true}
	return &solver.Input{Vertex: t.shared.vertex(&op.File{Actions: []op.FileAction{a}}, inputs, meta)}
}
