package dockerfile

import (
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// graph is the last pass: it makes vertices of the steps of the target and of all that it reads from. Everything that
// they read is pinned, so every key in the graph is final.
func (t *translation) graph() *frontend.Image {
	img := t.image()
	target := t.plan.target
	needed := target.reachable()
	for _, s := range t.plan.stages {
		if needed[s] {
			t.build(s)
		}
	}
	img.Root, img.Layers = target.root, target.layers
	return img
}

// build makes the vertices of a stage, once.
func (t *translation) build(s *stage) {
	if s.built {
		return
	}
	s.built = true
	if s.parent != nil {
		t.build(s.parent)
		s.root = s.parent.root
		s.layers = s.parent.layers[:len(s.parent.layers):len(s.parent.layers)]
	} else {
		s.root = t.groundRoot(s)
	}
	if s.st == nil {
		return
	}
	for _, step := range s.st.steps {
		var in solver.Input
		switch step := step.(type) {
		case *runStep:
			in = t.runVertex(s, step)
		case *copyStep:
			in = t.copyVertex(s, step)
		case *mkdirStep:
			in = t.mkdirVertex(s, step)
		}
		s.root = &in
		s.layers = append(s.layers, in)
	}
}

// groundRoot returns the file system that a stage without a parent starts from; nil for an empty one.
func (t *translation) groundRoot(s *stage) *solver.Input {
	o := s.origin
	switch {
	case o.tree != nil:
		return o.tree.input
	case o.image == nil:
		return nil
	}
	name := o.label
	switch {
	case name != "":
	case s.st != nil:
		name = s.st.fromName
	default:
		name = "FROM " + o.name
	}
	meta := t.meta(s, &stepHead{name: name, source: ranges(s.src.Location)})
	return &solver.Input{Vertex: t.shared.vertex(o.image, nil, meta)}
}

// meta returns what a vertex of a stage has for people.
func (t *translation) meta(s *stage, h *stepHead) solver.Meta {
	m := solver.Meta{Name: h.name, Source: h.source, IgnoreCache: h.noCache}
	if s.st != nil {
		m.Platform = op.PlatformString(s.st.platform)
	} else {
		m.Platform = op.PlatformString(t.platformOf(s))
	}
	if len(h.source) > 0 {
		m.File = t.src.name
	}
	if s.src.Name != "" {
		m.Tags = []string{s.src.Name}
	}
	return m
}

// rootOf returns what a step reads from; nil for an empty tree.
func (t *translation) rootOf(f from) *solver.Input {
	switch {
	case f.stage != nil:
		t.build(f.stage)
		return f.stage.root
	case f.tree != nil:
		return f.tree.input
	}
	return nil
}

// mkdirVertex makes the vertex of a WORKDIR.
func (t *translation) mkdirVertex(s *stage, step *mkdirStep) solver.Input {
	a := op.FileAction{Input: op.NoInput, Second: op.NoInput, Mkdir: &step.dir}
	var inputs []solver.Input
	if s.root != nil {
		a.Input = 0
		inputs = []solver.Input{*s.root}
	}
	file := &op.File{Actions: []op.FileAction{a}}
	return solver.Input{Vertex: t.shared.vertex(file, inputs, t.meta(s, &step.stepHead))}
}
