package dockerfile

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sections are the headings of the table in DESIGN.md, each with how many rows the language has there.
var sections = []struct {
	name string
	rows int
}{
	{"Parsing", 16},
	{"Expansion", 12},
	{"Arguments", 11},
	{"Instructions", 35},
	{"The image's configuration and history", 4},
	{"Contexts", 6},
	{"Checks, outline, targets", 6},
	{"Names in the progress", 2},
}

// places are the folders that the table abbreviates, and what their files end with.
var places = map[string][2]string{
	"bk": {"frontend/dockerfile/testdata/buildkit", ".txtar"}, "graph": {"frontend/dockerfile/testdata/graph", ".txtar"},
	"inspect": {"frontend/dockerfile/testdata/inspect", ".txtar"}, "e2e": {"cmd/internal/e2e/testdata/script", ".txt"},
	"cli": {"cmd/boxbuild/testdata/script", ".txt"},
}

var quoted = regexp.MustCompile("`([^`]+)`")

// TestTable checks the table in DESIGN.md of which test shows which row of the language: each row has a test, each test
// that is named exists, and no section has lost a row.
func TestTable(t *testing.T) {
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n## Which test shows which row\n")
	if !ok {
		t.Fatal("there is no table")
	}
	rows := map[string]int{}
	section := ""
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "### "); ok {
			section = name
		}
		if section == "" || !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| row |") || strings.HasPrefix(line, "| --- |") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		rows[section]++
		tests := quoted.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(cells) != 2 || len(tests) == 0 {
			t.Errorf("%s: a row without a test: %s", section, line)
		}
		for _, m := range tests {
			if files := named(m[1]); len(files) == 0 {
				t.Errorf("%s: %q names no file: %s", section, m[1], line)
			}
		}
	}
	for _, s := range sections {
		if rows[s.name] < s.rows {
			t.Errorf("%s has %d rows, the language has %d", s.name, rows[s.name], s.rows)
		}
	}
}

// named returns the files that a name of the table stands for.
func named(name string) []string {
	root := filepath.Join("..", "..")
	pattern := name
	if !strings.HasSuffix(name, ".go") {
		kind, rest, _ := strings.Cut(name, "/")
		place, ok := places[kind]
		if !ok {
			return nil
		}
		pattern = filepath.Join(place[0], rest+place[1])
	}
	files, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil {
		return nil
	}
	return files
}
