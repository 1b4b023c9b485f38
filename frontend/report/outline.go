package report

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// An Outline is what a target can be given.
type Outline struct {
	Name        string  `json:"name,omitempty"`        // of the target; empty for a stage without a name
	Description string  `json:"description,omitempty"` // the comment above the target that begins with its name
	Args        []Arg   `json:"args,omitempty"`
	Secrets     []Mount `json:"secrets,omitempty"`
	SSH         []Mount `json:"ssh,omitempty"`
	// Cache is always empty, as BuildKit's is.
	Cache   []CacheMount `json:"cache,omitempty"`
	Sources [][]byte     `json:"sources,omitempty"`
}

// An Arg is an argument that the target or what it is made from uses.
type Arg struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"` // the comment above it that begins with its name
	Value       string    `json:"value,omitempty"`       // with the arguments of the request
	Location    *Location `json:"location,omitempty"`
}

// A Mount is a secret or an SSH agent.
type Mount struct {
	Name     string    `json:"name"`
	Required bool      `json:"required,omitempty"`
	Location *Location `json:"location,omitempty"`
}

// A CacheMount is a directory that is kept between builds.
type CacheMount struct {
	ID       string    `json:"ID"`
	Location *Location `json:"location,omitempty"`
}

// Failed implements Document.
func (o *Outline) Failed() bool { return false }

// Print implements Document.
func (o *Outline) Print(w io.Writer, _ string) error {
	if o.Name != "" || o.Description != "" {
		name := o.Name
		if name == "" {
			name = "(default)"
		}
		rows := [][]any{{"TARGET:", name}}
		if o.Description != "" {
			rows = append(rows, []any{"DESCRIPTION:", o.Description})
		}
		if err := table(w, 1, rows); err != nil {
			return err
		}
	}
	if len(o.Args) > 0 {
		rows := [][]any{{"BUILD ARG", "VALUE", "DESCRIPTION"}}
		for _, a := range o.Args {
			rows = append(rows, []any{a.Name, a.Value, a.Description})
		}
		if err := table(w, 3, rows); err != nil {
			return err
		}
	}
	if err := mounts(w, "SECRET", o.Secrets); err != nil {
		return err
	}
	return mounts(w, "SSH", o.SSH)
}

func mounts(w io.Writer, title string, list []Mount) error {
	if len(list) == 0 {
		return nil
	}
	rows := [][]any{{title, "REQUIRED"}}
	for _, m := range list {
		required := ""
		if m.Required {
			required = "true"
		}
		rows = append(rows, []any{m.Name, required})
	}
	return table(w, 3, rows)
}

// table writes rows in columns, with so much room between them, and an empty line.
func table(w io.Writer, room int, rows [][]any) error {
	tw := tabwriter.NewWriter(w, 0, 0, room, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(tw, "\t") // errors are Flush's
			}
			fmt.Fprint(tw, cell)
		}
		fmt.Fprintln(tw)
	}
	fmt.Fprintln(tw)
	return tw.Flush()
}
