package dockerfile

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/report"
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
	if err := src.followSyntax(req); err != nil {
		return nil, err
	}
	t := newTranslation(req, env, src)
	t.platform, t.inspected = t.native, true
	if len(req.Platforms) > 0 {
		t.platform = platforms.Normalize(req.Platforms[0])
	}
	return t, nil
}

// Check implements frontend.Inspector.
func (dockerfile) Check(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Findings, error) {
	t, err := inspection(ctx, req, env)
	if err != nil {
		return nil, err
	}
	var found []report.Warning // none are null in JSON, as they are with BuildKit
	t.findings, t.all = &found, req.Target == ""
	err = t.src.located(t.analyse(ctx))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	file := report.Source{Filename: t.src.name, Data: t.src.shown(), Language: "Dockerfile", Definition: defined(req)}
	out := &report.Findings{Warnings: found, Sources: []report.Source{file}}
	if err != nil {
		out.Error = t.buildError(err)
	}
	return out, nil
}

// buildError is err as findings have it.
func (t *translation) buildError(err error) *report.BuildError {
	var se *frontend.SourceError
	if !errors.As(err, &se) {
		return &report.BuildError{Message: err.Error()}
	}
	out := &report.BuildError{Message: se.Err.Error()}
	if l := t.place(se.Ranges); l != nil {
		out.Location = *l
	}
	return out
}

// place returns where ranges are in the text: a range for each line, as programs know it, while there are not too many
// lines in all.
func (t *translation) place(ranges []solver.Range) *report.Location {
	lines := countLines(ranges)
	each := lines <= t.placesLeft
	if each {
		t.placesLeft -= lines
	}
	var out []report.Range
	for _, r := range ranges {
		if !each {
			out = append(out, report.Range{Start: report.Position{Line: r.Start}, End: report.Position{Line: r.End}})
			continue
		}
		for n := r.Start; n <= r.End; n++ {
			out = append(out, report.Range{Start: report.Position{Line: n}, End: report.Position{Line: n}})
		}
	}
	return report.At(out)
}

// Targets implements frontend.Inspector.
func (dockerfile) Targets(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Targets, error) {
	t, err := inspection(ctx, req, env)
	if err != nil {
		return nil, err
	}
	doc, err := parse(t.src, func(string) (*linter.Config, error) { return &linter.Config{}, nil })
	if err != nil {
		return nil, t.src.inText(err)
	}
	out := &report.Targets{Sources: [][]byte{t.src.shown()}}
	for i := range doc.stages {
		s := &doc.stages[i]
		out.Targets = append(out.Targets, report.Target{
			Name: s.Name, Default: i == len(doc.stages)-1, Description: s.DocComment,
			Base: s.BaseName, Platform: s.Platform, Location: t.place(ranges(s.Location)),
		})
	}
	return out, nil
}

// Outline implements frontend.Inspector.
func (dockerfile) Outline(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Outline, error) {
	t, err := inspection(ctx, req, env)
	if err != nil {
		return nil, err
	}
	t.quiet = true
	if err := t.analyse(ctx); err != nil {
		return nil, t.src.located(err)
	}
	s := t.plan.target
	out := &report.Outline{Name: s.src.Name, Description: s.src.DocComment, Sources: [][]byte{t.src.shown()}}
	c := &collection{t: t, seen: map[string]bool{}}
	c.stage(s)
	for _, d := range inOrder(c.args, func(d *definition) []solver.Range { return d.source }) {
		out.Args = append(out.Args, report.Arg{
			Name: d.name, Value: d.value, Description: d.description, Location: t.place(d.source),
		})
	}
	out.Secrets, out.SSH = t.mounts(c.secrets), t.mounts(c.ssh)
	return out, nil
}

// inOrder sorts list by the first lines.
func inOrder[T any](list []T, source func(T) []solver.Range) []T {
	first := func(x T) int {
		if r := source(x); len(r) > 0 {
			return r[0].Start
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(first(a), first(b)) })
	return list
}

func (t *translation) mounts(list []secretUse) []report.Mount {
	var out []report.Mount
	for _, s := range inOrder(list, func(s secretUse) []solver.Range { return s.source }) {
		out = append(out, report.Mount{Name: s.id, Required: s.required, Location: t.place(s.source)})
	}
	return out
}

// A definition is an ARG as an outline shows it.
type definition struct {
	name, value string
	description string   // the comment above it that begins with its name
	deps        []string // global arguments that its default reads
	source      []solver.Range
}

// A secretUse is a secret or an SSH agent that a RUN asks for.
type secretUse struct {
	id       string
	required bool
	source   []solver.Range
}

// A collection gathers an outline from the stages that a target is made of.
type collection struct {
	t            *translation
	args         []*definition
	secrets, ssh []secretUse
	seen         map[string]bool // "arg A", "stage …"
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

// arg adds an argument: as the stage or one below it defines it, else as a global one, with what its default reads.
func (c *collection) arg(s *stage, name string) {
	var d *definition
	own := false
	for p := s; p != nil && !own; p = p.parent {
		if p.st != nil {
			d, own = p.st.defs[name]
		}
	}
	if !own {
		d = c.t.defs[name]
	}
	if d == nil || !c.once("arg "+name) {
		return
	}
	c.args = append(c.args, d)
	for _, dep := range d.deps {
		c.arg(s, dep)
	}
}

// run adds the secrets and agents of a RUN.
func (c *collection) run(r *runStep) {
	add := func(list *[]secretUse, kind, id string, optional bool) {
		if c.once(kind + " " + id) {
			*list = append(*list, secretUse{id, !optional, r.source})
		}
	}
	for _, s := range r.secrets {
		add(&c.secrets, "secret", s.ID, s.Optional)
	}
	for i := range r.mounts {
		switch m := &r.mounts[i].ExecMount; m.Type {
		case op.MountSecret:
			add(&c.secrets, "secret", m.Secret.ID, m.Secret.Optional)
		case op.MountSSH:
			add(&c.ssh, "ssh", m.SSH.ID, m.SSH.Optional)
		case op.MountBind, op.MountCache, op.MountTmpfs:
		}
	}
}
