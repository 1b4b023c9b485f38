package crash

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	vulnerability = regexp.MustCompile(`CVE-\d{4}-\d{4,}|GHSA(?:-[0-9a-z]{4}){3}`)
	quoted        = regexp.MustCompile("`([^`]+)`")
)

// TestTable checks the table in DESIGN.md of what holds against which published vulnerability: each row says what, and names
// tests that exist; none is told of twice; and what the code names is in it.
func TestTable(t *testing.T) {
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n| --- | --- | --- |\n")
	if !ok {
		t.Fatal("there is no table")
	}
	rows := map[string]bool{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.TrimSpace(cells[1]) == "" {
			t.Errorf("a row without what holds: %s", line)
			continue
		}
		ids := vulnerability.FindAllString(cells[0], -1)
		if strings.Join(ids, ", ") != strings.TrimSpace(cells[0]) {
			t.Errorf("a row that names other things than vulnerabilities: %s", line)
		}
		for _, id := range ids {
			if rows[id] {
				t.Errorf("%s has two rows", id)
			}
			rows[id] = true
		}
		tests := quoted.FindAllStringSubmatch(cells[2], -1)
		if len(tests) == 0 {
			t.Errorf("a row without a test: %s", line)
		}
		for _, m := range tests {
			if !exists(t, m[1]) {
				t.Errorf("there is no test %s: %s", m[1], line)
			}
		}
	}
	for file, ids := range named(t) {
		for _, id := range ids {
			if !rows[id] {
				t.Errorf("%s names %s, which has no row", file, id)
			}
		}
	}
}

var repository = filepath.Join("..", "..", "..")

// exists says whether there is a test, by its name in the table.
func exists(t *testing.T, name string) bool {
	t.Helper()
	dir, function, ok := strings.Cut(name, " ")
	if !ok {
		script, ok := strings.CutPrefix(name, "e2e/")
		_, err := os.Stat(filepath.Join(repository, "cmd/internal/e2e/testdata/script", script+".txt"))
		return ok && err == nil
	}
	files, err := filepath.Glob(filepath.Join(repository, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+function+"(") {
			return true
		}
	}
	return false
}

// named returns the vulnerabilities that source code and designs name, by file.
func named(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, top := range []string{"cmd", "executor", "exporter", "frontend", "proto", "snapshot", "solver", "worker"} {
		err := filepath.WalkDir(filepath.Join(repository, top), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" && filepath.Ext(path) != ".md" {
				return err
			}
			text, err := os.ReadFile(path)
			if ids := vulnerability.FindAllString(string(text), -1); len(ids) > 0 {
				out[path] = ids
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}
