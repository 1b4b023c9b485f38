package dockerfile

import (
	"errors"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// The parser notes each line of an instruction, several times. In a Dockerfile of more than manyLines lines those of more than
// longLines are noted by their first line alone while they are parsed, and by one range from then on.
const (
	manyLines = 20_000
	longLines = 10
)

// A spans has the last lines of long instructions, by their first.
type spans map[int]int

// shorten takes the lines of long instructions away, and returns them.
func shorten(root *parser.Node) spans {
	if root.EndLine <= manyLines {
		return nil
	}
	out := spans{}
	for _, n := range root.Children {
		if n.EndLine-n.StartLine > longLines {
			out[n.StartLine], n.EndLine = n.EndLine, n.StartLine
		}
	}
	return out
}

// restore gives the parsed instructions their lines.
func (s spans) restore(stages []instructions.Stage, globals []instructions.ArgCommand) {
	if len(s) == 0 {
		return
	}
	for i := range stages {
		s.widen(stages[i].Location)
		for _, c := range stages[i].Commands {
			s.widen(c.Location())
		}
	}
	for i := range globals {
		s.widen(globals[i].Location())
	}
}

// inError gives the places that err has their lines, and returns err.
func (s spans) inError(err error) error {
	var le *parser.LocationError
	if errors.As(err, &le) {
		for _, where := range le.Locations {
			s.widen(where)
		}
	}
	return err
}

// widen makes a range of the first line one of all lines.
func (s spans) widen(where []parser.Range) {
	if len(where) != 1 {
		return
	}
	if end, ok := s[where[0].Start.Line]; ok {
		where[0].End.Line = end
	}
}
