package dockerfile

import (
	"errors"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// inherit puts the ONBUILD triggers of s's base before the instructions of s. It says whether they read from anything.
func (t *translation) inherit(s *stage) (bool, error) {
	var triggers []string
	if s.parent == nil {
		if c := s.origin.config; c != nil {
			triggers = c.Config.OnBuild
		}
	} else {
		// Those of the image at the bottom were meant for the stage there, and have run in it.
		for _, c := range s.parent.commands {
			if ob, ok := c.Command.(*instructions.OnbuildCommand); ok {
				triggers = append(triggers, ob.Expression)
			}
		}
	}
	cmds := make([]command, 0, len(triggers)+len(s.commands))
	reads := false
	for _, text := range triggers {
		c, err := t.trigger(s, text)
		if err != nil {
			return false, parser.SetLocation(err, s.src.Location)
		}
		s.depend(c)
		reads = reads || len(c.from) > 0
		cmds = append(cmds, c)
	}
	s.total += len(cmds)
	s.commands = slices.Concat(cmds, s.commands)
	return reads, nil
}

// trigger parses one ONBUILD trigger. Its position is that of the FROM which brings it in.
func (t *translation) trigger(s *stage, text string) (command, error) {
	if _, err := measureText([]byte(text)); err != nil {
		return command{}, err
	}
	if err := t.budget.spend(3000 + 4*len(text)); err != nil {
		return command{}, err
	}
	tree, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return command{}, err
	}
	if len(tree.AST.Children) != 1 {
		return command{}, errors.New("onbuild trigger should be a single expression")
	}
	node := tree.AST.Children[0]
	if r := ranges(s.src.Location); len(r) > 0 {
		node.StartLine, node.EndLine = r[0].Start, r[len(r)-1].End
	}
	ic, err := instructions.ParseCommand(node)
	if err != nil {
		return command{}, unknownInstruction(err)
	}
	c, err := t.bindCommand(ic)
	c.onBuild = true
	return c, err
}
