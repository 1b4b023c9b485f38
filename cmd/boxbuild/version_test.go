package main

import "testing"

// The client tells of the commit that the linker was given.
func TestCommit(t *testing.T) {
	old := revision
	defer func() { revision = old }()
	revision = "0123abcd"
	if got := commit(); got != revision {
		t.Errorf("the commit is %q, want %q", got, revision)
	}
}
