package dockerfile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"github.com/boxbuild/boxbuild/frontend/dockerfile/lint"
)

// fromPlatform expands FROM --platform.
func (t *translation) fromPlatform(s *stage, l *linter.Linter) error {
	if s.src.Platform == "" {
		return nil
	}
	m, err := t.word(s.src.Platform, t.globals)
	t.lintFrom(s, m.Unmatched, l)
	if err != nil {
		return fmt.Errorf("failed to process arguments for platform %s: %w", m.Result, err)
	}
	target, _ := t.globals.Get("TARGETPLATFORM")
	lint.Platform(&s.src, m, target, l)
	if m.Result == "" {
		err := fmt.Errorf("empty platform value from expression %s", s.src.Platform)
		return t.suggestGlobal(err, m.Unmatched)
	}
	p, err := platforms.Parse(m.Result)
	if err != nil {
		return fmt.Errorf("failed to parse platform %s: %w", s.src.Platform, t.suggestGlobal(err, m.Unmatched))
	}
	s.platform = &p
	s.fromArgs = append(s.fromArgs, slices.Sorted(maps.Keys(m.Matched))...)
	return nil
}

// suggestGlobal adds to err the global argument that an undeclared one may be meant to be.
func (t *translation) suggestGlobal(err error, unmatched map[string]struct{}) error {
	for _, name := range slices.Sorted(maps.Keys(unmatched)) {
		if s := suggest(name, t.globals.Keys()); s != "" {
			return fmt.Errorf("%w (did you mean %s?)", err, s)
		}
	}
	return err
}

// lintFrom reports variables in FROM that no global ARG declares.
func (t *translation) lintFrom(s *stage, unmatched map[string]struct{}, l *linter.Linter) {
	if len(unmatched) == 0 {
		return
	}
	declared := slices.Clone(t.globals.Keys())
	for _, c := range t.doc.globals {
		for _, kv := range c.Args {
			declared = append(declared, kv.Key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unmatched)) {
		if slices.Contains(declared, name) {
			continue
		}
		rule := &linter.RuleUndefinedArgInFrom
		l.Run(rule, s.src.Location, rule.Format(name, t.suggest(name, declared)))
	}
}
