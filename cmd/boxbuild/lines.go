package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/term"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// transferLines shows how far the parts of a transfer are: on a terminal a line for each that is written over, else a
// line when a part is done.
type transferLines struct {
	out      io.Writer
	terminal bool
	quiet    bool
	active   string         // what happens to a part: "Downloading"
	between  string         // when that is over, and the next thing has not begun: "Download complete"; may be empty
	done     string         // when all is over: "Pull complete"
	exists   string         // when it was there before: "Already exists"
	rows     map[string]int // of each part, from the top
	last     map[string]string
}

func (a *app) transferLines(quiet bool, active, done string) *transferLines {
	f, ok := a.stdout.(interface{ Fd() uintptr })
	return &transferLines{
		out: a.stdout, terminal: ok && term.IsTerminal(int(f.Fd())), quiet: quiet, active: active, done: done,
		rows: map[string]int{}, last: map[string]string{},
	}
}

// status shows st.
func (l *transferLines) status(st *boxbuildv1.Status) {
	if l.quiet {
		return
	}
	id := shortID(st.GetId())
	text := l.text(st)
	if l.last[id] == text || !l.terminal && (st.GetEnded() == nil || text == l.between) {
		return
	}
	l.last[id] = text
	row, known := l.rows[id]
	switch {
	case !l.terminal:
		fmt.Fprintf(l.out, "%s: %s\n", id, text)
		return
	case !known:
		l.rows[id] = len(l.rows)
		fmt.Fprintf(l.out, "%s: %s\n", id, text)
		return
	}
	up := len(l.rows) - row
	fmt.Fprintf(l.out, "\x1b[%dA\r\x1b[2K%s: %s\x1b[%dB\r", up, id, text, up)
}

// text is what a line says after the part's name.
func (l *transferLines) text(st *boxbuildv1.Status) string {
	action := l.active
	if a := st.GetAction(); a != "" {
		action = strings.ToUpper(a[:1]) + a[1:]
	}
	switch {
	case st.GetEnded() != nil && action == l.active && l.between != "":
		return l.between
	case st.GetEnded() != nil && (action == l.active || action == "Extracting"):
		return l.done
	case st.GetEnded() != nil && action == "Exists":
		return l.exists
	case st.GetEnded() != nil && strings.HasPrefix(action, "Mounted from "):
		return action
	case st.GetEnded() != nil:
		return action + " done"
	case st.GetTotal() > 0:
		return fmt.Sprintf("%s %s %s/%s", action, bar(st.GetCurrent(), st.GetTotal()),
			units.HumanSize(float64(st.GetCurrent())), units.HumanSize(float64(st.GetTotal())))
	case st.GetCurrent() > 0:
		return action + " " + units.HumanSize(float64(st.GetCurrent()))
	}
	return action
}

// bar is docker's: [====>     ].
func bar(current, total int64) string {
	const width = 50
	n := int(min(current, total) * width / total)
	if n == width {
		return "[" + strings.Repeat("=", width) + ">]"
	}
	return "[" + strings.Repeat("=", n) + ">" + strings.Repeat(" ", width-n) + "]"
}

// shortID shortens a digest as docker does, which calls a layer by that alone.
func shortID(id string) string {
	id = strings.TrimPrefix(strings.TrimPrefix(id, "layer "), "config ")
	if hex, ok := strings.CutPrefix(id, "sha256:"); ok && len(hex) > 12 {
		return hex[:12]
	}
	return id
}
