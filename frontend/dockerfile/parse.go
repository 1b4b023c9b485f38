package dockerfile

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile/lint"
	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/solver"
)

// A document is a Dockerfile as it is written: what the parser makes of the text, and nothing bound or expanded yet.
type document struct {
	globals []instructions.ArgCommand // ARG before the first FROM
	stages  []instructions.Stage
	lex     *shell.Lex // expands words by the escape character of the file
	lint    *linter.Linter
}

// parse is the first pass. config returns the linter's configuration for the value of a check directive.
func parse(src *source, config func(directive string) (*linter.Config, error)) (*document, error) {
	m, err := measureText(src.text)
	if err != nil {
		return nil, err
	}
	directive, _, where, _ := parser.ParseDirective("check", src.text)
	cfg, err := config(directive)
	var usage *frontend.UsageError
	if errors.As(err, &usage) {
		return nil, err // of the argument: no line is to blame
	}
	if err != nil {
		return nil, at(fmt.Errorf("failed to parse check options: %w", err), where)
	}
	d := &document{lint: linter.New(cfg)}
	large := m.size() > largeSize
	if large {
		runtime.GC() // what was read is garbage by now, and the parser makes more: together they would be kept from the machine
		defer runtime.GC()
	}
	tree, err := m.parse(src.text)
	if err != nil {
		return nil, err
	}
	long := shorten(tree.AST)
	for _, w := range tree.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL && w.Location != nil {
			rule := &linter.RuleNoEmptyContinuation
			d.lint.Run(rule, []parser.Range{*w.Location}, rule.Format())
		}
	}
	if d.stages, d.globals, err = instructions.Parse(tree.AST, d.lint); err != nil {
		return nil, unknownInstruction(long.inError(err))
	}
	long.restore(d.stages, d.globals)
	if len(d.stages) == 0 {
		return nil, errors.New("dockerfile contains no stages to build")
	}
	d.lex = shell.NewLex(tree.EscapeToken)
	lint.Stages(d.stages, d.lint)
	return d, nil
}

// lintConfig is the configuration of the checks: from the build argument, else from the directive.
func (t *translation) lintConfig(directive string) (*linter.Config, error) {
	const arg = "BUILDKIT_DOCKERFILE_CHECK"
	v, ok := t.req.BuildArgs[arg]
	if ok {
		directive = v
	}
	cfg, err := linter.ParseLintOptions(directive)
	switch {
	case err != nil && ok:
		return nil, &frontend.UsageError{Message: fmt.Sprintf("failed to parse build-arg:%s: %v", arg, err)}
	case err != nil:
		return nil, err
	}
	cfg.Warn = func(rule, description, url, msg string, where []parser.Range) {
		if t.warned++; t.quiet || t.warned > maxWarned {
			return
		}
		source := t.rangesOf(where)
		if t.findings != nil {
			*t.findings = append(*t.findings, report.Warning{
				RuleName: rule, Description: description, URL: url, Detail: msg, Location: t.place(source),
			})
			return
		}
		w := solver.Warning{Detail: []string{description}, URL: url, File: t.src.name, Source: source}
		line := 0
		if len(w.Source) > 0 {
			line = w.Source[0].Start
		}
		w.Short = linter.LintFormatShort(rule, msg, line)
		if t.warned <= maxQuoted && countLines(source) <= maxQuoted {
			quoted := frontend.SourceError{File: t.src.name, Text: t.src.text, Ranges: source}
			w.Text, w.Quote = quoted.Excerpt(), quoted.Quote()
		}
		t.env.Warn(w)
	}
	return cfg, nil
}

// countLines returns how many lines there are in ranges.
func countLines(ranges []solver.Range) int {
	n := 0
	for _, r := range ranges {
		n += r.End - r.Start + 1
	}
	return n
}

// rangesOf is ranges for warnings, of which one instruction of many lines can have many.
func (t *translation) rangesOf(where []parser.Range) []solver.Range {
	if n := len(where); n == 0 || n != len(t.where) || &where[0] != &t.where[0] {
		t.where, t.source = where, ranges(where)
	}
	return t.source
}

// lintError returns an error if a check failed and the file says that this fails the build.
func (d *document) lintError() error {
	if !d.lint.ReturnAsError || len(*d.lint.CalledRules) == 0 {
		return nil
	}
	rules := slices.Clone(*d.lint.CalledRules)
	slices.Sort(rules)
	return errors.New("lint violation found for rules: " + strings.Join(slices.Compact(rules), ", "))
}
