package lint

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/boxbuild/boxbuild/frontend/dockerfile/ignore"
)

// run returns the rules that check reports, sorted.
func run(check func(l *linter.Linter)) []string {
	var out []string
	check(linter.New(&linter.Config{Warn: func(rule, _, _, _ string, _ []parser.Range) { out = append(out, rule) }}))
	slices.Sort(out)
	return out
}

// TestStages checks what is seen in a file without any name being bound.
func TestStages(t *testing.T) {
	for text, want := range map[string][]string{
		"FROM a\nRUN x\n":                         nil,
		"FROM a\nrun x\nRUN y\n":                  {"ConsistentInstructionCasing"},
		"from a\nrun x\nRUN y\n":                  {"ConsistentInstructionCasing"},
		"FROM a\nRun x\n":                         {"ConsistentInstructionCasing"},
		"FROM a\nrun x\n":                         {"ConsistentInstructionCasing"}, // of equal counts upper case wins
		"FROM a AS scratch\nFROM b AS context\n":  {"ReservedStageName", "ReservedStageName"},
		"FROM a AS x\nFROM b AS x\nFROM c AS x\n": {"DuplicateStageName", "DuplicateStageName"},
	} {
		tree, err := parser.Parse(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		stages, _, err := instructions.Parse(tree.AST, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := run(func(l *linter.Linter) { Stages(stages, l) }); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// TestSecretName checks which names look like secrets: a word of the name decides, and another word can excuse it.
func TestSecretName(t *testing.T) {
	for name, want := range map[string]bool{
		"PASSWORD": true, "DB_PASSWORD": true, "password_db": true, "GITHUB_TOKEN": true, "API_KEY": true, "apikey": true,
		"PASSWORDS": false, "MONKEY": false, "KEYBOARD": false, "PUBLIC_KEY": false, "SECRET_FILE": false, "TOKEN_VERSION": false, "": false,
	} {
		if got := run(func(l *linter.Linter) { SecretName("ENV", name, nil, l) }); (len(got) == 1) != want {
			t.Errorf("%q: got %v", name, got)
		}
	}
}

// TestIgnoredSource checks that a source is reported only if it is certain that nothing of it is left.
func TestIgnoredSource(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		src      string
		want     bool
	}{
		{[]string{"a"}, "a", true},
		{[]string{"a"}, "./a/b", true},
		{[]string{"a"}, "b", false},
		{[]string{"a", "!a/b"}, "a", false},
		{[]string{"a"}, ".", false},
		{[]string{"*"}, ".", true},
		{[]string{"**"}, "/", true},
	} {
		m, err := ignore.New(c.patterns)
		if err != nil {
			t.Fatal(err)
		}
		if got := run(func(l *linter.Linter) { IgnoredSource("Copy", c.src, m, nil, l) }); (len(got) == 1) != c.want {
			t.Errorf("%v, %q: got %v", c.patterns, c.src, got)
		}
	}
	if got := run(func(l *linter.Linter) { IgnoredSource("Copy", "a", nil, nil, l) }); got != nil {
		t.Errorf("without a file: %v", got)
	}
}
