package dockerfile

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/report"
)

// TestReports checks that findings, outlines and targets are what BuildKit v0.32.2 answers for the same Dockerfile, to
// the letter of each text and the lines of each place: the sections "buildkit lint", "buildkit outline" and "buildkit
// targets" are its answers to the requests frontend.lint, frontend.outline and frontend.targets for linux/amd64, without
// the sources. They are never rewritten from our side.
func TestReports(t *testing.T) {
	files, err := filepath.Glob("testdata/inspect/*.txtar")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			for _, f := range readCase(t, file).ar.Files {
				if kind, ok := strings.CutPrefix(f.Name, "buildkit "); ok {
					compareReport(t, file, kind, f.Data)
				}
			}
		})
	}
}

func compareReport(t *testing.T, file, kind string, want []byte) {
	t.Helper()
	call, ok := map[string]frontend.Call{"lint": frontend.Check, "outline": frontend.Outline, "targets": frontend.Targets}[kind]
	if !ok {
		t.Fatalf("unknown section %q", kind)
	}
	c := readCase(t, file)
	c.env.images["docker.io/library/busybox:latest"] = anyImage
	doc, err := frontend.Inspect(t.Context(), New(), call, c.req, c.env)
	if err != nil {
		t.Errorf("%s: %v", kind, err)
		return
	}
	got, err := report.JSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
		t.Errorf("%s differs from BuildKit (-BuildKit +here):\n%s", kind, diff)
	}
}

var resolving = regexp.MustCompile(`failed to resolve source metadata for \S+: `)

// plain returns a report without what is said in other words: what a builder says about an image, and the order in which
// rules are named (BuildKit's is that of a map).
func plain(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var x map[string]any
	if err := json.Unmarshal(text, &x); err != nil {
		t.Fatal(err)
	}
	delete(x, "sources")
	if e, ok := x["buildError"].(map[string]any); ok {
		msg := resolving.ReplaceAllString(e["message"].(string), "")
		if rules, ok := strings.CutPrefix(msg, "lint violation found for rules: "); ok {
			list := strings.Split(rules, ", ")
			slices.Sort(list)
			msg = strings.Join(list, ", ")
		}
		e["message"] = msg
	}
	for _, list := range []string{"args", "secrets", "ssh"} {
		if l, ok := x[list].([]any); ok { // BuildKit's order within a line is that of a map
			slices.SortStableFunc(l, func(a, b any) int {
				return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
			})
		}
	}
	return x
}

// TestAllRules checks that the cases of TestReports show each rule that there is.
func TestAllRules(t *testing.T) {
	seen := map[string]bool{}
	files, err := filepath.Glob("testdata/inspect/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, f := range readCase(t, file).ar.Files {
			var x report.Findings
			if f.Name == "buildkit lint" && json.Unmarshal(f.Data, &x) == nil {
				for _, w := range x.Warnings {
					seen[w.RuleName] = true
				}
			}
		}
	}
	rules := []linter.LinterRuleI{
		&linter.RuleStageNameCasing, &linter.RuleFromAsCasing, &linter.RuleNoEmptyContinuation,
		&linter.RuleConsistentInstructionCasing, &linter.RuleDuplicateStageName, &linter.RuleReservedStageName,
		&linter.RuleJSONArgsRecommended, &linter.RuleMaintainerDeprecated, &linter.RuleUndefinedArgInFrom,
		&linter.RuleWorkdirRelativePath, &linter.RuleUndefinedVar, &linter.RuleMultipleInstructionsDisallowed,
		&linter.RuleLegacyKeyValueFormat, &linter.RuleInvalidBaseImagePlatform, &linter.RuleRedundantTargetPlatform,
		&linter.RuleSecretsUsedInArgOrEnv, &linter.RuleInvalidDefaultArgInFrom, &linter.RuleFromPlatformFlagConstDisallowed,
		&linter.RuleCopyIgnoredFile, &linter.RuleInvalidDefinitionDescription, &linter.RuleExposeProtoCasing,
		&linter.RuleExposeInvalidFormat,
	}
	for _, r := range rules {
		if !seen[r.RuleName()] {
			t.Errorf("no case has %s", r.RuleName())
		}
	}
	if len(seen) != len(rules) {
		t.Errorf("%d rules are seen, %d are known", len(seen), len(rules))
	}
}
