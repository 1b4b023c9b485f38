package ignore

import (
	"slices"
	"strings"
	"testing"
)

// TestParse checks what becomes of each kind of line.
func TestParse(t *testing.T) {
	text := "\xef\xbb\xbf# comment\n\n  padded  \n/abs/path/\n#not a pattern\n !exception \n!/abs\na/../b\n**/*.go\n/\n #kept\n"
	want := []string{"padded", "abs/path", "!exception", "!abs", "b", "**/*.go", "/", "#kept"}
	got, err := Parse([]byte(text))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// TestParseErrors checks that a file which no builder could use is refused with what is wrong.
func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a\n!\n":                           `illegal exclusion pattern: "!"`,
		"[a\n":                             `pattern "[a": syntax error in pattern`,
		"!a[\n":                            `pattern "!a[": syntax error in pattern`,
		`\1`:                               `pattern "\\1": syntax error in pattern`,
		strings.Repeat("x", 70_000):        "token too long",
		strings.Repeat("x\n", 30_000):      "30000 patterns",
		strings.Repeat("# xxxxxxx\n", 2e5): "2000000 bytes",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
}

// TestMatcher checks which paths are out: the last pattern that matches decides, and a directory takes its files along.
func TestMatcher(t *testing.T) {
	m, err := New([]string{"*.md", "!README.md", "dir", "**/x", "!dir/back"})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{
		"a.md": true, "README.md": false, "sub/a.md": false, "dir": true, "dir/f": true, "dir/back": false, "a/b/x": true, "xx": false,
	} {
		if got, err := m.Excluded(p); err != nil || got != want {
			t.Errorf("Excluded(%q) = %v, %v", p, got, err)
		}
	}
	if !m.HasExceptions() || m.ExcludesAll() {
		t.Errorf("exceptions %v, all %v", m.HasExceptions(), m.ExcludesAll())
	}
	for _, p := range []string{"*", "**", "**/*"} {
		if m, err := New([]string{p}); err != nil || !m.ExcludesAll() || m.HasExceptions() {
			t.Errorf("%q does not exclude everything: %v", p, err)
		}
	}
}

// FuzzParse checks that what is accepted can be used: each pattern compiles and matches without an error.
func FuzzParse(f *testing.F) {
	f.Add("a\n!b\n**/c", "x/y")
	f.Add("[a-z]*\n\\!x\n", "!x")
	f.Fuzz(func(t *testing.T, text, p string) {
		patterns, err := Parse([]byte(text))
		if err != nil {
			return
		}
		m, err := New(patterns)
		if err != nil {
			t.Fatalf("%q is accepted and does not compile: %v", patterns, err)
		}
		if _, err := m.Excluded(p); err != nil {
			t.Fatalf("%q cannot be matched with %q: %v", patterns, p, err)
		}
	})
}
