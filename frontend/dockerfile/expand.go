package dockerfile

import (
	"context"
	"maps"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile/lint"
	"github.com/boxbuild/boxbuild/solver/op"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A state is a stage between two of its instructions: what the next one sees, and the steps so far.
type state struct {
	t    *translation
	s    *stage
	lint *linter.Linter // for the instruction at hand, which a comment above it may have changed

	img      frontend.ImageConfig
	base     *op.Image             // at the bottom
	baseCfg  *frontend.ImageConfig // of base
	platform op.Platform
	vars     *vars                  // the environment of RUN, and the scope of expansion
	args     args                   // declared by ARG
	defs     map[string]*definition // of those that this stage gives a value itself
	envAt    map[string]int         // where a variable is in the configuration's environment
	steps    []step
	done     int    // steps that have a number in their name
	fromName string // the name of the base's vertex

	envShared                bool // the configuration's environment is another state's too
	workdirSet               bool
	cmd, entrypoint, healthy lint.Tracker
}

// expand is the fourth pass: it works through the instructions of the stages that are needed. Nothing is asked of the
// Env, but .dockerignore if only an expanded name tells that something of the context is needed; what has to be read is
// noted in the trees.
func (t *translation) expand(ctx context.Context, needed map[*stage]bool) error {
	t.context = t.contextTree()
	for _, s := range t.outside(needed) {
		s.expanded = s.alias || s.override != nil
	}
	for _, s := range t.plan.stages {
		if !needed[s] {
			continue
		}
		st, err := t.begin(s)
		if err != nil {
			return at(err, s.src.Location)
		}
		s.st = st
		if s.override == nil {
			for _, c := range s.commands {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := st.apply(c); err != nil {
					return at(err, c.Location())
				}
			}
		}
		s.expanded = true
	}
	t.plan.target.use("/")
	return nil
}

// begin returns the state before the first instruction of s.
func (t *translation) begin(s *stage) (*state, error) {
	st := &state{t: t, s: s, lint: t.doc.lint, envShared: true}
	if p := s.parent; p != nil {
		st.inherit(p.st)
	} else {
		st.ground()
	}
	if err := t.budget.spend(st.size()); err != nil {
		return nil, err
	}
	c := &st.img.Config
	if _, ok := shell.EnvsFromSlice(c.Env).Get("PATH"); !ok && st.platform.OS != windows {
		c.Env = append(slices.Clip(c.Env), "PATH="+defaultPath)
	}
	// The image's environment comes after ARGs of the parent's: it wins.
	st.envAt = make(map[string]int, len(c.Env))
	for i, kv := range slices.Backward(c.Env) {
		name, _ := cutEnv(kv)
		st.envAt[name] = i // the first of equal names
	}
	for _, kv := range c.Env {
		if err := st.vars.put(cutEnv(kv)); err != nil {
			return nil, err
		}
	}
	if c.WorkingDir != "" {
		if err := st.startIn(c.WorkingDir); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// inherit starts from the end of another stage. Triggers are not passed on.
func (st *state) inherit(p *state) {
	st.img = cloneConfig(&p.img)
	st.img.Config.OnBuild = nil
	st.base, st.baseCfg, st.platform = p.base, p.baseCfg, p.platform
	st.vars = p.vars.clone()
	st.args = p.args.clone()
	st.workdirSet = p.workdirSet
}

// ground starts from something outside.
func (st *state) ground() {
	o := st.s.origin
	st.platform = st.t.platformOf(st.s)
	if st.s.src.BaseName == scratch && st.s.override == nil {
		st.platform = st.t.platform // the empty image has no platform of its own
	}
	st.vars = newVars()
	if o.config == nil {
		st.img = emptyConfig(st.platform)
		return
	}
	st.base, st.baseCfg = o.image, o.config
	if o.image != nil && o.label == "" {
		st.fromName = st.number(command{}, "FROM "+o.name)
	}
	st.img = cloneConfig(o.config)
	st.img.Created = nil
	st.img.Config.OnBuild = nil
}

// apply works through one instruction.
func (st *state) apply(c command) error {
	st.lint = st.t.doc.lint.WithMergedConfigFromComments(c.Comments())
	if err := st.expandWords(c); err != nil {
		return err
	}
	switch ic := c.Command.(type) {
	case *instructions.ArgCommand:
		return st.arg(ic)
	case *instructions.RunCommand:
		return st.run(c, ic)
	case *instructions.CopyCommand:
		return st.copy(c, ic)
	case *instructions.AddCommand:
		return st.add(c, ic)
	case *instructions.WorkdirCommand:
		return st.workdir(c, ic)
	default:
		return st.configure(ic)
	}
}

// expandWords expands variables in an instruction, in place.
func (st *state) expandWords(c command) error {
	// ARG expands its defaults itself, since a default that is not used may be wrong.
	if _, isArg := c.Command.(*instructions.ArgCommand); isArg {
		return nil
	}
	if ic, ok := c.Command.(instructions.SupportsSingleWordExpansion); ok {
		err := ic.Expand(func(word string) (string, error) { return st.word(st.t.doc.lex, word, c) })
		if err != nil {
			return err
		}
	}
	if ic, ok := c.Command.(instructions.SupportsSingleWordExpansionRaw); ok {
		lex := shell.NewLex('\\')
		lex.SkipProcessQuotes = true
		return ic.ExpandRaw(func(word string) (string, error) { return st.word(lex, word, c) })
	}
	return nil
}

// word expands one word of an instruction.
func (st *state) word(lex *shell.Lex, word string, c instructions.Command) (string, error) {
	res, err := st.t.expandWith(lex, word, st.vars)
	st.lintUndefined(res.Unmatched, c.Location())
	return res.Result, err
}

// lintUndefined reports variables that nothing declares.
func (st *state) lintUndefined(unmatched map[string]struct{}, where []parser.Range) {
	for _, name := range slices.Sorted(maps.Keys(unmatched)) {
		if st.t.warned > maxWarned {
			return
		}
		if st.args.has(name) || neverEnv[name] {
			continue
		}
		rule := &linter.RuleUndefinedVar
		st.lint.Run(rule, where, rule.Format(name, st.t.suggest(name, st.vars.Keys())))
	}
}
