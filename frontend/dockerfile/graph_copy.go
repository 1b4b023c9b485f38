package dockerfile

import (
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// copyVertex makes the vertex of a COPY or ADD: the first input is the stage, and each source is one with a selector.
// With --link the files go onto nothing, so that the step does not depend on the stage, and are laid over it.
func (t *translation) copyVertex(s *stage, step *copyStep) solver.Input {
	if !step.link || s.root == nil {
		file, inputs := t.copyOp(s.root, step)
		return solver.Input{Vertex: t.shared.vertex(file, inputs, t.meta(s, &step.stepHead))}
	}
	file, inputs := t.copyOp(nil, step)
	meta := t.meta(s, &step.stepHead)
	meta.Group = meta.Name
	files := t.shared.vertex(file, inputs, meta)
	meta.Name = linkName(meta.Name)
	return solver.Input{Vertex: t.shared.vertex(&op.Merge{}, []solver.Input{*s.root, {Vertex: files}}, meta)}
}

// linkName turns "[2/3] COPY a b" into "[2/3] LINK COPY a b".
func linkName(name string) string {
	for i := range name {
		if name[i] == ']' && i+2 <= len(name) {
			return name[:i+2] + "LINK " + name[i+2:]
		}
	}
	return "LINK " + name
}

// copyOp returns the operation that copies onto root, and its inputs. An empty root is no input.
func (t *translation) copyOp(root *solver.Input, step *copyStep) (*op.File, []solver.Input) {
	var inputs []solver.Input
	if root != nil {
		inputs = append(inputs, *root)
	}
	sources := make([]int, len(step.copies))
	for i := range step.copies {
		c := &step.copies[i]
		sources[i] = op.NoInput
		in := t.rootOf(c.from)
		if c.inline != nil || in == nil {
			continue
		}
		sources[i] = len(inputs)
		inputs = append(inputs, solver.Input{Vertex: in.Vertex, Output: in.Output, Select: &c.sel})
	}
	file := &op.File{}
	add := func(a op.FileAction) int {
		file.Actions = append(file.Actions, a)
		return len(inputs) + len(file.Actions) - 1
	}
	current := op.NoInput
	if root != nil {
		current = 0
	}
	for i := range step.copies {
		c := &step.copies[i]
		src := sources[i]
		if c.inline != nil {
			src = add(op.FileAction{Input: op.NoInput, Second: op.NoInput, Output: op.NoOutput, Mkfile: c.inline})
		}
		current = add(op.FileAction{Input: current, Second: src, Output: op.NoOutput, Copy: &c.action})
	}
	file.Actions[len(file.Actions)-1].Output = 0
	return file, inputs
}
