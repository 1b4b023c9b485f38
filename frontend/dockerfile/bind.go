package dockerfile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/boxbuild/boxbuild/frontend"
)

// bind is the second pass: it makes a stage of every FROM, binds bases, sources and the target to stages, and expands
// what stands in FROM. It asks nothing of the Env.
func (t *translation) bind() error {
	p := &t.plan
	p.byName, p.aliases = map[string]*stage{}, map[string]*stage{}
	for i := range t.doc.stages {
		s, err := t.from(i)
		if err != nil {
			return at(err, t.doc.stages[i].Location)
		}
		if err := t.bindBase(s); err != nil {
			return at(fmt.Errorf("looking for stages above this FROM: %w", err), s.src.Location)
		}
		p.stages = append(p.stages, s)
		if s.src.Name != "" {
			p.byName[strings.ToLower(s.src.Name)] = s
		}
		s.count()
	}
	if err := t.bindTarget(); err != nil {
		return err
	}
	for _, s := range p.stages {
		if s.override != nil {
			continue // what it does is not asked for
		}
		for _, ic := range s.src.Commands {
			c, err := t.bindCommand(ic)
			if err != nil {
				return err
			}
			s.add(c)
		}
	}
	if err := t.checkCycles(); err != nil {
		return err
	}
	if len(p.stages)+len(p.aliases) == 1 {
		p.stages[0].title = ""
	}
	return nil
}

// from makes the stage of the i-th FROM.
func (t *translation) from(i int) (*stage, error) {
	s := &stage{src: t.doc.stages[i], title: t.doc.stages[i].Name}
	if s.title == "" {
		s.title = fmt.Sprintf("stage-%d", i)
	}
	lint := t.doc.lint.WithMergedConfigFromComments(s.src.Comments)
	base, err := t.word(s.src.BaseName, t.globals)
	t.lintFrom(s, base.Unmatched, lint)
	if err != nil {
		return nil, err
	}
	if base.Result == "" {
		return nil, fmt.Errorf("base name (%s) should not be blank", s.src.BaseName)
	}
	s.src.BaseName = base.Result
	s.fromArgs = slices.Sorted(maps.Keys(base.Matched))
	if err := t.fromPlatform(s, lint); err != nil {
		return nil, err
	}
	if s.src.Name != "" {
		if s.override, err = t.namedContext(s.src.Name, s.platform); err != nil {
			return nil, err
		}
	}
	s.noCache = t.req.NoCache && len(t.req.NoCacheStages) == 0
	for _, name := range t.req.NoCacheStages {
		s.noCache = s.noCache || strings.EqualFold(name, s.src.Name)
	}
	return s, nil
}

// bindBase finds the stage that s starts from, if it starts from one. A context that is a stage takes the place of one
// that has its name, with all that it does.
func (t *translation) bindBase(s *stage) (err error) {
	if s.override == nil {
		// FROM, unlike --from, tells upper case: that is never a stage's.
		if s.parent = t.plan.byName[s.src.BaseName]; s.parent == nil {
			s.parent, err = t.contextStage(s.src.BaseName, s.platform)
		}
		return err
	}
	if s.parent, err = t.targetOf(s.override); s.parent != nil {
		s.override, s.src.Commands = nil, nil
	}
	return err
}

// count sets the number of steps that names count. The base counts if it has to be fetched.
func (s *stage) count() {
	if s.src.BaseName != scratch && s.parent == nil {
		s.total++
	}
	for _, c := range s.src.Commands {
		switch c.(type) {
		case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
			s.total++
		}
	}
}

// add appends a command.
func (s *stage) add(c command) {
	s.commands = append(s.commands, c)
	s.depend(c)
}

// depend notes what a command reads from.
func (s *stage) depend(c command) {
	for _, f := range c.from {
		if f != nil {
			s.deps = append(s.deps, dependency{on: f, cmd: c})
		}
	}
}

// bindTarget finds the stage to build: by its name, or the last. A number, unlike in --from, is no name.
func (t *translation) bindTarget() error {
	p, name := &t.plan, t.req.Target
	if name == "" {
		p.target = p.stages[len(p.stages)-1]
		return nil
	}
	if s, ok := p.find(name); ok {
		p.target = s
		return nil
	}
	err := didYouMean(fmt.Errorf("target stage %q could not be found", name), name, p.titles())
	return &frontend.UsageError{Message: err.Error()}
}

// bindCommand finds the stages that an instruction reads from.
func (t *translation) bindCommand(ic instructions.Command) (command, error) {
	c := command{Command: ic}
	switch ic := ic.(type) {
	case *instructions.CopyCommand:
		if ic.From == "" {
			return c, nil
		}
		s, err := t.bindCopySource(ic)
		if err != nil {
			return c, at(err, ic.Location())
		}
		c.from = []*stage{s}
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(ic) {
			name := m.From
			if name == "" {
				name = scratch // what it is in the end only the type tells, which may hold a variable
			}
			s, err := t.sourceNamed(name, nil)
			if err != nil {
				return c, at(err, ic.Location())
			}
			c.from = append(c.from, s)
		}
	}
	return c, nil
}

// bindCopySource finds what COPY --from names: a stage by name or number, else an image or context.
func (t *translation) bindCopySource(c *instructions.CopyCommand) (*stage, error) {
	m, err := t.doc.lex.ProcessWordWithMatches(c.From, shell.EnvsFromSlice(nil))
	if err != nil {
		return nil, err
	}
	if m.Result != c.From {
		return nil, errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
	}
	if i, err := strconv.Atoi(c.From); err == nil {
		if i < 0 || i >= len(t.plan.stages) {
			return nil, fmt.Errorf("invalid stage index %d", i)
		}
		return t.plan.stages[i], nil
	}
	return t.sourceNamed(c.From, c.Location())
}

// sourceNamed finds the stage that a name means, or the one that stands for an image or context.
func (t *translation) sourceNamed(name string, where []parser.Range) (*stage, error) {
	if s, ok := t.plan.find(name); ok {
		return s, nil
	}
	if s, err := t.contextStage(name, nil); s != nil || err != nil {
		return s, err
	}
	return t.aliasOf(name, where), nil
}

// aliasOf returns the stage that stands for an image or context which only --from names. Equal names share one.
func (t *translation) aliasOf(name string, where []parser.Range) *stage {
	if s, ok := t.plan.aliases[name]; ok {
		return s
	}
	s := &stage{src: instructions.Stage{BaseName: name, Location: where}, alias: true}
	t.plan.aliases[name] = s
	return s
}

// outside returns the stages that are needed and start from something outside of the file.
func (t *translation) outside(needed map[*stage]bool) []*stage {
	var out []*stage
	for _, s := range t.plan.stages {
		if needed[s] && s.parent == nil {
			out = append(out, s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.plan.aliases)) {
		if s := t.plan.aliases[name]; needed[s] {
			out = append(out, s)
		}
	}
	return out
}

// checkCycles finds stages that read from one another, or from themselves.
func (t *translation) checkCycles() error {
	done, open := map[*stage]bool{}, map[*stage]bool{}
	var path []command
	var visit func(s *stage) bool
	visit = func(s *stage) bool {
		if done[s] {
			return false
		}
		done[s], open[s] = true, true
		for _, d := range s.deps {
			path = append(path, d.cmd)
			if open[d.on] || visit(d.on) {
				return true
			}
			path = path[:len(path)-1]
		}
		delete(open, s)
		return false
	}
	for _, s := range t.plan.stages {
		if !visit(s) {
			continue
		}
		err := fmt.Errorf("circular dependency detected on stage: %s", s.title)
		for _, c := range path {
			err = parser.WithLocation(err, c.Location())
		}
		return err
	}
	return nil
}
