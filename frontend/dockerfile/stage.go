package dockerfile

import (
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// scratch is the name of the empty image.
const scratch = "scratch"

// A plan is the stages of a Dockerfile with every name in them bound to what it means.
type plan struct {
	stages  []*stage          // as they are written, each after its parent
	byName  map[string]*stage // by name in lower case; of equal names the last counts
	aliases map[string]*stage // images and contexts that only --from and from= name
	target  *stage
}

// find returns the stage of that name.
func (p *plan) find(name string) (*stage, bool) {
	s, ok := p.byName[strings.ToLower(name)]
	return s, ok
}

// stage returns the stage of that name, or else of that number.
func (p *plan) stage(name string) (*stage, bool) {
	if s, ok := p.find(name); ok {
		return s, true
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(p.stages) {
		return p.stages[i], true
	}
	return nil, false
}

// titles returns what the stages are called, for suggestions.
func (p *plan) titles() []string {
	var out []string
	for _, s := range p.stages {
		if s.title != "" {
			out = append(out, s.title)
		}
	}
	return out
}

// A stage is what one FROM begins, or an image or context that another stage reads from without a FROM of its own
// (an alias). The passes fill it from top to bottom.
type stage struct {
	src      instructions.Stage // BaseName is expanded
	title    string             // in the names of its vertices; empty in a file with one stage
	parent   *stage             // the stage that it starts from; nil if it starts from something outside
	override *namedContext      // replaces the stage as a whole
	platform *op.Platform       // FROM --platform; nil if not given
	fromArgs []string           // global arguments that FROM reads
	alias    bool
	noCache  bool
	commands []command
	deps     []dependency
	total    int // steps that are counted in names

	origin   *origin // what a stage without parent starts from
	inherits bool    // ONBUILD triggers of the base are among commands

	st       *state // of its end; nil before it is expanded
	built    bool
	root     *solver.Input // its file system; nil for an empty one
	layers   []solver.Input
	expanded bool
}

// A command is an instruction with the stages that it reads from: one for COPY --from, one a mount for RUN.
type command struct {
	instructions.Command
	from    []*stage
	onBuild bool // a trigger of the base's
}

// A dependency is a stage that another reads from, and the instruction that does.
type dependency struct {
	on  *stage
	cmd command
}

// ground returns the stage at the bottom of s, which starts from something outside.
func (s *stage) ground() *stage {
	for s.parent != nil {
		s = s.parent
	}
	return s
}

// fromNothing says whether s begins with an empty file system: with scratch, or an image without layers.
func (s *stage) fromNothing() bool {
	g := s.ground()
	return g.override == nil && g.origin != nil && g.origin.image == nil && g.origin.tree == nil
}

// use notes that p, absolute in the stage's file system, is read. It matters for stages that start from a directory of
// the client's, which is only asked for what is read.
func (s *stage) use(p string) {
	if g := s.ground(); g.origin != nil && g.origin.tree != nil {
		g.origin.tree.use(p)
	}
}

// reachable returns the stages that s needs, itself included.
func (s *stage) reachable() map[*stage]bool {
	seen := map[*stage]bool{}
	todo := []*stage{s}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[n] {
			continue
		}
		seen[n] = true
		if n.parent != nil {
			todo = append(todo, n.parent)
		}
		for _, d := range n.deps {
			todo = append(todo, d.on)
		}
	}
	return seen
}
