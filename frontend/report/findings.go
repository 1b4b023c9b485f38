package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Findings is what the checks find in a file.
type Findings struct {
	Warnings []Warning `json:"warnings"`
	Sources  []Source  `json:"sources"`
	// Error is what a build would fail with; nil if it would not.
	Error *BuildError `json:"buildError,omitempty"`
}

// A Warning is a violation of one rule.
type Warning struct {
	RuleName    string    `json:"ruleName"`              // "JSONArgsRecommended"
	Description string    `json:"description,omitempty"` // of the rule
	URL         string    `json:"url,omitempty"`         // of the rule's documentation
	Detail      string    `json:"detail,omitempty"`      // of this violation
	Location    *Location `json:"location,omitempty"`
}

// A BuildError is an error in the file.
type BuildError struct {
	Message  string   `json:"message"`
	Location Location `json:"location"`
}

// Failed implements Document: findings are a failure for who asks for a check.
func (f *Findings) Failed() bool { return len(f.Warnings) > 0 || f.Error != nil }

// validate checks that all locations are within the sources.
func (f *Findings) validate() error {
	for i := range f.Warnings {
		if l := f.Warnings[i].Location; l == nil || l.SourceIndex >= len(f.Sources) {
			return errors.New("reading a report: a warning is about a source that is not there")
		}
	}
	if f.Error != nil && (f.Error.Location.SourceIndex < 0 || f.Error.Location.SourceIndex >= len(f.Sources)) {
		return errors.New("reading a report: the error is about a source that is not there")
	}
	return nil
}

// Print implements Document. The error is left out: it goes elsewhere, see PrintError.
func (f *Findings) Print(w io.Writer, file string) error {
	p := printer{w: w}
	switch n := len(f.Warnings); {
	case n == 1:
		p.printf("Check complete, 1 warning has been found!\n")
	case n > 1:
		p.printf("Check complete, %d warnings have been found!\n", n)
	case f.Error == nil:
		p.printf("Check complete, no warnings found.\n")
	}
	if p.err != nil {
		return p.err
	}
	return f.printWarnings(w, file)
}

// PrintError writes the error as docker prints it after the warnings.
func (f *Findings) PrintError(w io.Writer, file string) error {
	p := printer{w: w}
	p.printf("%s\n", f.Error.Message)
	f.quote(&p, &f.Error.Location, file)
	return p.err
}

// sorted returns the warnings by place.
func (f *Findings) sorted() []Warning {
	place := func(w *Warning) (file string, line int) {
		if w.Location.SourceIndex < 0 {
			return "", 0
		}
		return f.Sources[w.Location.SourceIndex].Filename, w.Location.line()
	}
	out := slices.Clone(f.Warnings)
	slices.SortStableFunc(out, func(a, b Warning) int {
		fileA, lineA := place(&a)
		fileB, lineB := place(&b)
		if c := cmp.Or(cmp.Compare(fileA, fileB), cmp.Compare(lineA, lineB)); c != 0 || lineA > 0 {
			return c
		}
		return cmp.Compare(a.RuleName, b.RuleName)
	})
	return out
}

func (f *Findings) quote(p *printer, l *Location, file string) {
	if l.SourceIndex < 0 {
		return
	}
	src := &f.Sources[l.SourceIndex]
	p.printf("%s", Quote(cmp.Or(file, src.Filename), src.Data, l.Ranges))
}

// A printer remembers the first error of a writer.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}
