package dockerfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/boxbuild/boxbuild/solver"
)

// warnUnused points out build arguments that nothing reads, in the words of docker's classic builder, and what they may
// be misspellings of. It is called when the triggers of all bases are known.
func (t *translation) warnUnused() {
	if t.quiet || t.findings != nil || len(t.req.BuildArgs) == 0 {
		return
	}
	declared := t.declared()
	names := slices.Sorted(maps.Keys(declared))
	var unused, hints []string
	for _, name := range slices.Sorted(maps.Keys(t.req.BuildArgs)) {
		if declared[name] || isBuiltIn(name) {
			continue
		}
		unused = append(unused, name)
		if s := t.suggest(name, names); s != "" {
			hints = append(hints, fmt.Sprintf("did you mean %s instead of %s?", s, name))
		}
	}
	if len(unused) == 0 {
		return
	}
	text := fmt.Sprintf("[Warning] One or more build-args %v were not consumed", unused)
	if len(hints) > 0 {
		text += " (" + strings.Join(hints, " ") + ")"
	}
	t.env.Warn(solver.Warning{Short: text, File: t.src.name, Text: t.src.shown()})
}

// declared returns the arguments that some ARG declares, or that are there without one.
func (t *translation) declared() map[string]bool {
	out := map[string]bool{}
	for _, name := range t.globals.Keys() {
		out[name] = true
	}
	add := func(c *instructions.ArgCommand) {
		for i := range c.Args {
			out[c.Args[i].Key] = true
		}
	}
	for i := range t.doc.globals {
		add(&t.doc.globals[i])
	}
	for _, s := range t.plan.stages {
		for _, c := range s.src.Commands {
			if c, ok := c.(*instructions.ArgCommand); ok {
				add(c)
			}
		}
		for _, c := range s.commands { // with triggers
			if c, ok := c.Command.(*instructions.ArgCommand); ok {
				add(c)
			}
		}
	}
	return out
}

// isBuiltIn says whether an argument means something without an ARG.
func isBuiltIn(name string) bool {
	return strings.HasPrefix(name, "BUILDKIT_") || strings.HasSuffix(strings.ToLower(name), "_proxy") || neverEnv[name] ||
		name == epochArg
}
