package lint

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	maxFileLines     = 600
	maxFrontendLines = 400
	maxFunctionLines = 80
)

// reasons names functions that are longer than maxFunctionLines, each with the reason.
var reasons = map[string]string{}

// TestPackageDocs checks that every package has exactly one doc comment and that it is more than a name.
func TestPackageDocs(t *testing.T) {
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 || strings.HasPrefix(p.rel(), "proto/boxbuild/") {
			continue
		}
		if len(strings.Fields(p.Doc)) < 5 {
			t.Errorf("%s has no package comment", p.rel())
		}
	}
}

// TestSizes checks that no hand-written file or function has grown beyond what a reader can hold.
func TestSizes(t *testing.T) {
	for _, p := range list(t) {
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			src, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(src, []byte("\n")); n > maxFileLines {
				t.Errorf("%s/%s has %d lines, more than %d", p.rel(), name, n, maxFileLines)
			}
		}
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(src, []byte("// Code generated")) {
				continue
			}
			rel := p.rel() + "/" + name
			if n := bytes.Count(src, []byte("\n")); n > maxFileLines {
				t.Errorf("%s has %d lines, more than %d", rel, n, maxFileLines)
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, path, src, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Body == nil {
					continue
				}
				n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
				if id := rel + ":" + fn.Name.Name; n > maxFunctionLines && reasons[id] == "" {
					t.Errorf("%s has %d lines, more than %d", id, n, maxFunctionLines)
				}
			}
		}
	}
}

// TestFrontendSizes checks that the Dockerfile frontend stays in passes that can be read one by one: its files, and those
// of its tests, are shorter than elsewhere.
func TestFrontendSizes(t *testing.T) {
	files, err := filepath.Glob("../../../frontend/dockerfile/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(src, []byte("\n")); n > maxFrontendLines {
			t.Errorf("%s has %d lines, more than %d", file, n, maxFrontendLines)
		}
	}
}

// TestTopLevel checks that nothing has been added to the top level.
func TestTopLevel(t *testing.T) {
	allowed := map[string]bool{}
	for _, n := range strings.Fields("cmd solver frontend snapshot exporter executor proto worker Makefile go.mod go.sum README.md LICENSE") {
		allowed[n] = true
	}
	out, err := exec.Command("git", "-C", "../../..", "ls-files").Output()
	if err != nil {
		t.Skip("not a git checkout")
	}
	for _, f := range strings.Fields(string(out)) {
		top, _, _ := strings.Cut(f, "/")
		if !allowed[top] && !strings.HasPrefix(top, ".") {
			t.Errorf("%s must not stand at the top level", top)
			allowed[top] = true
		}
	}
}

// TestNames checks that no package has a name that says nothing.
func TestNames(t *testing.T) {
	for _, p := range list(t) {
		for _, part := range strings.Split(p.rel(), "/") {
			switch part {
			case "util", "utils", "common", "types", "pkg", "errdefs", "helpers", "misc":
				t.Errorf("%s: %q is no name for a package", p.rel(), part)
			}
		}
	}
}
