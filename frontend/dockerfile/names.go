package dockerfile

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/boxbuild/boxbuild/solver/op"
)

// The names of vertices are part of the interface: tools match on them. They are BuildKit's.

// number puts "[stage 2/3] " before what a step is called and counts the step.
func (st *state) number(c command, text string) string {
	n := st.s.total
	if n == 0 {
		return text
	}
	var b strings.Builder
	b.WriteByte('[')
	if st.t.multi && !(isRun(c) && st.s.fromNothing()) { // as BuildKit has it: such a RUN knows no platform
		b.WriteString(platforms.FormatAll(st.platform) + crossTarget(st.platform, st.vars) + " ")
	}
	if st.s.title != "" {
		b.WriteString(st.s.title + " ")
	}
	st.done++
	fmt.Fprintf(&b, "%*d/%d] ", len(strconv.Itoa(n)), st.done, n)
	if c.onBuild {
		b.WriteString("ONBUILD ")
	}
	return b.String() + text
}

func isRun(c command) bool {
	_, ok := c.Command.(*instructions.RunCommand)
	return ok
}

// shown returns an instruction as names show it: with the keyword in upper case and variables replaced where that works.
func (st *state) shown(lex *shell.Lex, text string, scope *vars) string {
	if st.t.budget.work <= maxWork {
		m := newMeter(scope, text)
		if s, _, err := lex.ProcessWord(text, m); err == nil && !m.over && st.t.budget.match(m.steps()) == nil {
			text = s
		}
	}
	word, rest, ok := strings.Cut(text, " ")
	if !ok {
		return strings.ToUpper(text)
	}
	return strings.ToUpper(word) + " " + rest
}

// authority is the beginning of a URL up to the end of user and password.
var authority = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s"',]*@`)

// masked returns what a source that is copied is called without the credentials in URLs, which BuildKit shows: names and
// histories go further than a Dockerfile, and with arguments replaced they have what is not even in that.
func masked(text string) string { return authority.ReplaceAllStringFunc(text, op.RedactGit) }

// crossTarget returns "->arm64" if the stage says by its TARGET arguments that it compiles for another platform.
func crossTarget(base op.Platform, scope *vars) string {
	var p op.Platform
	set := false
	for _, name := range scope.Keys() {
		v, _ := scope.Get(name)
		switch name {
		case "TARGETPLATFORM":
			if full, err := platforms.Parse(v); err == nil {
				return arrow(base, full)
			}
		case "TARGETOS":
			p.OS, set = v, true
		case "TARGETARCH":
			p.Architecture, set = v, true
		case "TARGETVARIANT":
			p.Variant, set = v, true
		}
	}
	if !set {
		return ""
	}
	return arrow(base, p)
}

func arrow(base, p op.Platform) string {
	if p.OS == "" {
		p.OS = base.OS
	}
	if p.Architecture == "" {
		p.Architecture = base.Architecture
	}
	p = platforms.Normalize(p)
	switch {
	case p.OS != base.OS:
		return "->" + platforms.FormatAll(p)
	case p.Architecture == base.Architecture:
		return ""
	case p.Variant != "":
		return "->" + p.Architecture + "/" + p.Variant
	}
	return "->" + p.Architecture
}

// summary returns the first line of a here-document, with dots if there is more.
func summary(text string) string {
	text = strings.ReplaceAll(strings.TrimSpace(text), "\r\n", "\n")
	first, _, more := strings.Cut(text, "\n")
	if more {
		first += "..."
	}
	return first
}
