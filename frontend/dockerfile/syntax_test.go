package dockerfile

import (
	"errors"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
)

// TestSyntax checks which frontends a Dockerfile may ask for: any release of Docker's own, wherever it is mirrored. The
// build argument goes before the directive.
func TestSyntax(t *testing.T) {
	for _, c := range []struct{ text, arg, refused string }{
		{text: "FROM x"},
		{text: "# syntax=docker/dockerfile:1\nFROM x"},
		{text: "#syntax = docker/dockerfile:1.7-labs --flag\nFROM x"},
		{text: "# syntax=docker/dockerfile-upstream:master\nFROM x"},
		{text: "# syntax=docker.io/docker/dockerfile@sha256:" + strings.Repeat("a", 64) + "\nFROM x"},
		{text: "# syntax=mirror.example.com:5000/docker/dockerfile:1\nFROM x"},
		{text: "// syntax=docker/dockerfile:1\nFROM x"},
		{text: "# SYNTAX=other/thing\nFROM x", refused: `"other/thing"`},
		{text: "#!/usr/bin/env build\n# syntax=other/thing\n", refused: `"other/thing"`},
		{text: `{"syntax": "other/thing"}`, refused: `"other/thing"`},
		{text: "# syntax=Bad Name\nFROM x", refused: `"Bad"`},
		{text: "# a comment\n# syntax=other/thing\nFROM x"},
		{text: "# syntax=other/thing\nFROM x", arg: "docker/dockerfile:1"},
		{text: "# syntax=other/thing\nFROM x", arg: "dockerfile.v0"},
		{text: "FROM x", arg: "third/one args", refused: `"third/one"`},
	} {
		args := map[string]string{}
		if c.arg != "" {
			args["BUILDKIT_SYNTAX"] = c.arg
		}
		err := (&source{name: "Dockerfile", text: []byte(c.text)}).checkSyntax(args)
		switch {
		case err == nil && c.refused != "":
			t.Errorf("%q with %q is accepted", c.text, c.arg)
		case err != nil && (c.refused == "" || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%q with %q: %v", c.text, c.arg, err)
		}
	}
}

// TestSyntaxPosition checks that a refused directive is shown.
func TestSyntaxPosition(t *testing.T) {
	c := dockerfileCase(t, "# check=skip=all\n# syntax=a/b\nFROM busybox\n")
	_, err := c.translate()
	var se *frontend.SourceError
	if !errors.As(err, &se) || len(se.Ranges) != 1 || se.Ranges[0].Start != 2 {
		t.Errorf("got %v", err)
	}
}
