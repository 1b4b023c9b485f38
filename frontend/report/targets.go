package report

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Targets is what can be built.
type Targets struct {
	Targets []Target `json:"targets"` // in the order of the file
	Sources [][]byte `json:"sources"`
}

// A Target is one stage.
type Target struct {
	Name        string    `json:"name,omitempty"`        // empty for a stage without a name
	Default     bool      `json:"default,omitempty"`     // built when the request names no target
	Description string    `json:"description,omitempty"` // the comment above it that begins with its name
	Base        string    `json:"base,omitempty"`        // as it is written
	Platform    string    `json:"platform,omitempty"`    // as it is written
	Location    *Location `json:"location,omitempty"`
}

// Failed implements Document.
func (t *Targets) Failed() bool { return false }

// Print implements Document.
func (t *Targets) Print(w io.Writer, _ string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprint(tw, "TARGET\tDESCRIPTION\n") // errors are Flush's
	for _, s := range t.Targets {
		name := s.Name
		switch {
		case name == "" && s.Default:
			name = "(default)"
		case s.Default:
			name += " (default)"
		}
		fmt.Fprintf(tw, "%s\t%s\n", name, s.Description)
	}
	return tw.Flush()
}
