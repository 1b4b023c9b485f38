package dockerfile

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
)

// TestLongArguments checks that a command which Linux would not execute is an error of its line, also if a step before it
// would run for long; that one byte less is fine, and that a script which is a file may be longer.
func TestLongArguments(t *testing.T) {
	most := 32*os.Getpagesize() - 1
	script := func(n int) string { return strings.Repeat(": a comment for nobody\n", n/23+1)[:n-1] + "\n" }
	// A line of a Dockerfile has a limit, too.
	long := func(n int) string {
		return "\"" + strings.Repeat(strings.Repeat("x", 50_000)+"\\\n", n/50_000) + strings.Repeat("x", n%50_000) + "\""
	}
	for name, c := range map[string]struct {
		text string
		line int // of the error; 0 for none
	}{
		"fits":        {"FROM busybox\nRUN <<E\n" + script(most) + "E\n", 0},
		"too long":    {"FROM busybox\nRUN make\nRUN <<E\n" + script(most+1) + "E\n", 3},
		"shell's own": {"FROM busybox\nRUN cat <<E\n" + script(most) + "E\n", 2},
		"file":        {"FROM busybox\nRUN <<E\n#!/bin/sh\n" + script(2*most) + "E\n", 0},
		"words":       {"FROM busybox\nRUN [\"x\"," + strings.Repeat(long(most)+",\\\n", 14) + long(most) + "]\n", 0},
		"a long word": {"FROM busybox\nRUN [\"x\",\"y\"," + long(most+1) + "]\n", 2},
		"unused":      {"FROM busybox AS a\nRUN <<E\n" + script(2*most) + "E\nFROM busybox\nRUN true\n", 0},
	} {
		_, err := dockerfileCase(t, c.text).translate()
		if c.line == 0 {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var se *frontend.SourceError
		if !errors.As(err, &se) || se.Ranges[0].Start != c.line || !strings.Contains(err.Error(), fmt.Sprintf("takes at most %d", most)) {
			t.Errorf("%s: got %v, want an error of line %d", name, err, c.line)
		}
	}
}
