// Package report has the documents that answer a question about a Dockerfile: what the checks find in it, what a target
// can be given, which targets there are.
//
// Each is a plain value in the form of BuildKit's subrequests frontend.lint 1.0.0, frontend.outline 1.0.0 and
// frontend.targets 1.0.0, so that encoding/json gives what programs know, and prints itself as docker does. A document
// is made by a frontend, is never changed afterwards, and crosses the wire as JSON; the command line, which links no
// frontend, reads it with this package.
package report

import (
	"encoding/json"
	"fmt"
	"io"
)

// A Document is a *Findings, an *Outline or a *Targets.
type Document interface {
	// Print writes the document as docker buildx prints it. file, if not empty, is what the user calls the Dockerfile.
	Print(w io.Writer, file string) error
	// Failed says that a program which asked should see a failure.
	Failed() bool
}

var (
	_ Document = (*Findings)(nil)
	_ Document = (*Outline)(nil)
	_ Document = (*Targets)(nil)
)

// JSON encodes d for programs.
func JSON(d Document) ([]byte, error) {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding a report: %w", err)
	}
	return text, nil
}

// Read decodes what JSON has made into d, and checks what Print relies on.
func Read(text []byte, d Document) error {
	if err := json.Unmarshal(text, d); err != nil {
		return fmt.Errorf("reading a report: %w", err)
	}
	if f, ok := d.(*Findings); ok {
		return f.validate()
	}
	return nil
}

// A Source is a file of the user's.
type Source struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	// Definition is the LLB, a pb.Definition, of the tree with the file; nil if it is from none of a client's.
	Definition json.RawMessage `json:"definition,omitempty"`
	Language   string          `json:"language,omitempty"` // "Dockerfile"
}

// A Location is a place in a source.
type Location struct {
	SourceIndex int     `json:"sourceIndex,omitempty"` // of Findings.Sources; negative for none
	Ranges      []Range `json:"ranges,omitempty"`
}

// A Range is some lines. Both ends are included.
type Range struct {
	Start Position `json:"start"`
	End   Position `json:"end"`
}

// A Position is a place in a line.
type Position struct {
	Line      int `json:"line,omitempty"`      // from 1; 0 if unknown
	Character int `json:"character,omitempty"` // bytes, from 0
}

// At makes a location of lines of the only source.
func At(ranges []Range) *Location {
	if len(ranges) == 0 {
		return nil
	}
	return &Location{Ranges: ranges}
}

// line is the first line of l, as the documents are sorted by; 0 if it has none.
func (l *Location) line() int {
	if l == nil || len(l.Ranges) == 0 {
		return 0
	}
	return l.Ranges[0].Start.Line
}
