package dockerfile

import (
	"cmp"
	"context"
	"slices"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

var _ frontend.Inspector = dockerfile{}

// inspection returns a translation for the first platform of req, of which nothing will be built.
func inspection(ctx context.Context, req *frontend.Request, env frontend.Env) (*translation, error) {
	src, err := load(ctx, req, env)
	if err != nil {
		return nil, err
	}
	if err := src.checkSyntax(req.BuildArgs); err != nil {
		return nil, src.located(err)
	}
	t := newTranslation(req, env, src)
	t.platform = t.native
	if len(req.Platforms) > 0 {
		t.platform = platforms.Normalize(req.Platforms[0])
	}
	return t, nil
}

// Check implements frontend.Inspector.
func (dockerfile) Check(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Findings, error) {
	t, err := inspection(ctx, req, env)
	if err != nil {
		return nil, err
	}
	t.findings, t.all = &[]frontend.Finding{}, req.Target == ""
	err = t.src.located(t.analyse(ctx))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	slices.SortStableFunc(*t.findings, func(a, b frontend.Finding) int { return cmp.Compare(firstLine(a.Source), firstLine(b.Source)) })
	return &frontend.Findings{File: t.src.name, Text: t.src.text, Findings: *t.findings, Err: err}, nil
}

func firstLine(r []solver.Range) int {
	if len(r) == 0 {
		return 0
	}
	return r[0].Start
}

// Targets implements frontend.Inspector.
func (dockerfile) Targets(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Targets, error) {
	t, err := inspection(ctx, req, env)
	if err != nil {
		return nil, err
	}
	doc, err := parse(t.src, func(string) (*linter.Config, error) { return &linter.Config{}, nil })
	if err != nil {
		return nil, t.src.inText(err)
	}
	out := &frontend.Targets{File: t.src.name, Text: t.src.text}
	for i := range doc.stages {
		s := &doc.stages[i]
		out.Targets = append(out.Targets, frontend.Target{
			Name: s.Name, Default: i == len(doc.stages)-1, Description: s.DocComment,
			Base: s.BaseName, Platform: s.Platform, Source: ranges(s.Location),
		})
	}
	return out, nil
}

// Outline implements frontend.Inspector.
func (dockerfile) Outline(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Outline, error) {
	t, err := inspection(ctx, req, env)
	if err != nil {
		return nil, err
	}
	t.quiet = true
	if err := t.analyse(ctx); err != nil {
		return nil, t.src.located(err)
	}
	s := t.plan.target
	out := &frontend.Outline{File: t.src.name, Text: t.src.text, Name: s.src.Name, Description: s.src.DocComment}
	c := &collection{t: t, out: out, seen: map[string]bool{}}
	c.stage(s)
	slices.SortStableFunc(out.Args, func(a, b frontend.OutlineArg) int { return cmp.Compare(firstLine(a.Source), firstLine(b.Source)) })
	for _, list := range [][]frontend.OutlineMount{out.Secrets, out.SSH} {
		slices.SortStableFunc(list, func(a, b frontend.OutlineMount) int { return cmp.Compare(firstLine(a.Source), firstLine(b.Source)) })
	}
	return out, nil
}

// A definition is an ARG as an outline shows it.
type definition struct {
	arg  frontend.OutlineArg
	deps []string // global arguments that its default reads
}

// A collection gathers an outline from the stages that a target is made of.
type collection struct {
	t    *translation
	out  *frontend.Outline
	seen map[string]bool // "arg A", "stage …"
}

// once says whether key is new.
func (c *collection) once(key string) bool {
	old := c.seen[key]
	c.seen[key] = true
	return !old
}

// stage adds what s uses, then what it is made from. Of equal names the one nearest to the target counts.
func (c *collection) stage(s *stage) {
	if !c.once("stage " + s.title + "\x00" + s.src.BaseName) {
		return
	}
	for _, name := range s.fromArgs {
		c.arg(s, name)
	}
	if st := s.st; st != nil {
		for _, a := range st.args.list {
			c.arg(s, a.Key)
		}
		for _, step := range st.steps {
			if r, ok := step.(*runStep); ok {
				c.run(r)
			}
		}
	}
	if s.parent != nil {
		c.stage(s.parent)
	}
	for _, d := range s.deps {
		c.stage(d.on)
	}
}

// arg adds an argument: as the stage defines it, else as a global one, with what its default reads.
func (c *collection) arg(s *stage, name string) {
	var d *definition
	if s.st != nil {
		d = s.st.defs[name]
	}
	if d == nil {
		d = c.t.defs[name]
	}
	if d == nil || !c.once("arg "+name) {
		return
	}
	c.out.Args = append(c.out.Args, d.arg)
	for _, dep := range d.deps {
		c.arg(s, dep)
	}
}

// run adds the secrets and agents of a RUN.
func (c *collection) run(r *runStep) {
	add := func(list *[]frontend.OutlineMount, kind, id string, optional bool) {
		if c.once(kind + " " + id) {
			*list = append(*list, frontend.OutlineMount{Name: id, Required: !optional, Source: r.source})
		}
	}
	for _, s := range r.secrets {
		add(&c.out.Secrets, "secret", s.ID, s.Optional)
	}
	for i := range r.mounts {
		switch m := &r.mounts[i].ExecMount; m.Type {
		case op.MountSecret:
			add(&c.out.Secrets, "secret", m.Secret.ID, m.Secret.Optional)
		case op.MountSSH:
			add(&c.out.SSH, "ssh", m.SSH.ID, m.SSH.Optional)
		case op.MountBind, op.MountCache, op.MountTmpfs:
		}
	}
}
