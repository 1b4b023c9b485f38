package main

import (
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// The daemon tells of the commit that the linker was given, as of its version: where the compiler notes none, as in a build
// without version control, docker version and the metrics would have an empty one.
func TestRevision(t *testing.T) {
	old := revision
	defer func() { revision = old }()
	revision = "0123abcd"
	if got := about(new(config.Daemon), nil).GetRevision(); got != revision {
		t.Errorf("the revision is %q, want %q", got, revision)
	}
}
