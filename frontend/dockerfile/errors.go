package dockerfile

import (
	"cmp"
	"errors"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// Inside the package a position is carried by parser.LocationError, as BuildKit's packages do; located turns it into
// the error of the frontend's contract.

// at adds the position of an instruction to err, unless err has one.
func at(err error, where []parser.Range) error {
	var le *parser.LocationError
	if err == nil || errors.As(err, &le) {
		return err
	}
	return parser.WithLocation(err, where)
}

// atLine adds one line as the position.
func atLine(err error, line int) error {
	pos := parser.Position{Line: line}
	return parser.WithLocation(err, []parser.Range{{Start: pos, End: pos}})
}

// located returns err as the user should see it: with file, text and ranges if it has a position.
func (s *source) located(err error) error {
	var le *parser.LocationError
	if err == nil || isFinal(err) || !errors.As(err, &le) {
		return err
	}
	return s.inText(err)
}

// inText is located for an error that is about the text, even if nobody knows where.
func (s *source) inText(err error) error {
	if err == nil || isFinal(err) {
		return err
	}
	se := &frontend.SourceError{File: s.name, Text: s.text, Err: err}
	var le *parser.LocationError
	if errors.As(err, &le) {
		var all []parser.Range
		for _, l := range le.Locations {
			all = append(all, l...)
		}
		se.Ranges = ranges(all)
	}
	return se
}

// isFinal says whether err is of the frontend's contract already.
func isFinal(err error) bool {
	var se *frontend.SourceError
	var ue *frontend.UsageError
	return errors.As(err, &se) || errors.As(err, &ue)
}

// ranges merges the parser's ranges, one a line, into as few as there are.
func ranges(in []parser.Range) []solver.Range {
	var out []solver.Range
	for _, r := range in {
		start := max(r.Start.Line, 1)
		out = append(out, solver.Range{Start: start, End: max(r.End.Line, start)})
	}
	slices.SortFunc(out, func(a, b solver.Range) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
	merged := out[:0]
	for _, r := range out {
		if n := len(merged); n > 0 && r.Start <= merged[n-1].End+1 {
			merged[n-1].End = max(merged[n-1].End, r.End)
			continue
		}
		merged = append(merged, r)
	}
	return slices.Clone(merged) // without the room for a line each
}
