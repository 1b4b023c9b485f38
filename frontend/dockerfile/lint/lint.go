// Package lint holds the build checks that look at a parsed Dockerfile rather than at its syntax: BuildKit's package
// linter has the rules and their texts, its parser runs those that concern one instruction's form, and the functions
// here find the rest. Each reports through a *linter.Linter, which knows what the user switched off, and fails nothing.
package lint

import (
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/boxbuild/boxbuild/frontend/dockerfile/ignore"
)

// Stages checks what can be seen in the file as it is written: the stages' names, and that keywords are all in upper or
// all in lower case.
func Stages(stages []instructions.Stage, l *linter.Linter) {
	stageNames(stages, l)
	casing(stages, l)
}

func stageNames(stages []instructions.Stage, l *linter.Linter) {
	seen := map[string]bool{}
	for i := range stages {
		s := &stages[i]
		if s.Name == "" {
			continue
		}
		if s.Name == "context" || s.Name == "scratch" {
			l.Run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if seen[s.Name] {
			l.Run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		seen[s.Name] = true
	}
}

// casing finds keywords that are not in the case of the majority.
func casing(stages []instructions.Stage, l *linter.Linter) {
	balance := 0 // upper minus lower
	each := func(f func(name string, where []parser.Range)) {
		for i := range stages {
			f(stages[i].OrigCmd, stages[i].Location)
			for _, c := range stages[i].Commands {
				f(c.Name(), c.Location())
			}
		}
	}
	each(func(name string, _ []parser.Range) {
		switch name {
		case strings.ToLower(name):
			balance--
		case strings.ToUpper(name):
			balance++
		}
	})
	want, fold := "uppercase", strings.ToUpper
	if balance < 0 {
		want, fold = "lowercase", strings.ToLower
	}
	each(func(name string, where []parser.Range) {
		if fold(name) != name {
			rule := &linter.RuleConsistentInstructionCasing
			l.Run(rule, where, rule.Format(name, want))
		}
	})
}

var secretNames = sync.OnceValues(func() (deny, allow *regexp.Regexp) {
	word := func(words string) *regexp.Regexp { return regexp.MustCompile(`(?i)(?:_|^)(?:` + words + `)(?:_|$)`) }
	return word("apikey|auth|credential|credentials|key|password|pword|passwd|secret|token"), word("public|file|version")
})

// SecretName checks that a variable which ARG or ENV sets does not look like a secret by its name.
func SecretName(instruction, name string, where []parser.Range, l *linter.Linter) {
	if deny, allow := secretNames(); deny.MatchString(name) && !allow.MatchString(name) {
		rule := &linter.RuleSecretsUsedInArgOrEnv
		l.Run(rule, where, rule.Format(instruction, name))
	}
}

// A Tracker finds instructions of which only the last in a stage counts.
type Tracker struct {
	where []parser.Range
	set   bool
}

// Set says whether the instruction has been seen.
func (t *Tracker) Set() bool { return t.set }

// Use notes an instruction; an earlier one is reported where it is, since it is the one that is ignored.
func (t *Tracker) Use(c instructions.Command, l *linter.Linter) {
	if t.set {
		rule := &linter.RuleMultipleInstructionsDisallowed
		l.Run(rule, t.where, rule.Format(c.Name()))
	}
	t.where, t.set = c.Location(), true
}

// Platform checks FROM --platform, whose expression is written and whose expansion is m.
func Platform(s *instructions.Stage, m shell.ProcessWordResult, target string, l *linter.Linter) {
	if _, ok := m.Matched["TARGETPLATFORM"]; ok && len(m.Matched) == 1 && len(m.Unmatched) == 0 && m.Result == target {
		rule := &linter.RuleRedundantTargetPlatform
		l.Run(rule, s.Location, rule.Format(s.Platform))
	}
	if len(m.Matched) > 0 || len(m.Unmatched) > 0 {
		return
	}
	p, err := platforms.Parse(m.Result)
	if err != nil || strings.Contains(s.Name, p.OS) || strings.Contains(s.Name, p.Architecture) {
		return
	}
	rule := &linter.RuleFromPlatformFlagConstDisallowed
	l.Run(rule, s.Location, rule.Format(m.Result))
}

// BasePlatform checks that an image is for the platform that it was asked for.
func BasePlatform(name string, want, got platforms.Platform, where []parser.Range, l *linter.Linter) {
	if want.OS == got.OS && want.Architecture == got.Architecture {
		return
	}
	rule := &linter.RuleInvalidBaseImagePlatform
	l.Run(rule, where, rule.Format(name, platforms.FormatAll(platforms.Normalize(want)), platforms.FormatAll(platforms.Normalize(got))))
}

// IgnoredSource checks that what COPY or ADD names is not excluded by .dockerignore. With exceptions among the patterns
// nothing is reported: a file inside an excluded directory may be back.
func IgnoredSource(verb, src string, m *ignore.Matcher, where []parser.Range, l *linter.Linter) {
	if m == nil || m.HasExceptions() {
		return
	}
	src = filepath.Clean(src)
	if (src == "." || src == "/") && !m.ExcludesAll() {
		return
	}
	if out, err := m.Excluded(src); err == nil && out {
		rule := &linter.RuleCopyIgnoredFile
		l.Run(rule, where, rule.Format(verb, src))
	}
}
