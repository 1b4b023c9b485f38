package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// A user who is not root is told that he cannot have a daemon, before anything is made for it.
func TestNeedsRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	err := run([]string{"--root", root}, process{
		env:       config.Env{Lookup: func(string) (string, bool) { return "", false }, UID: 7, Home: "/nowhere"},
		needsRoot: true, stdout: io.Discard, stderr: io.Discard,
	})
	if err == nil || !strings.Contains(err.Error(), "started by root, and this is user 7") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("there is a root directory")
	}
}
