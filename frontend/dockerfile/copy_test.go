package dockerfile

import (
	"errors"
	"path"
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// TestDestination checks where files go, and that a slash at the end stays: it makes the destination a directory.
func TestDestination(t *testing.T) {
	for _, c := range []struct{ dir, dst, want string }{
		{"/", "a", "/a"},
		{"/w", "a", "/w/a"},
		{"/w", "a/", "/w/a/"},
		{"/w", ".", "/w/"},
		{"/w", "./", "/w/"},
		{"/w", "", "/w/"},
		{"/w", "x/.", "/w/x/"},
		{"/w", "..", "/"},
		{"/w", "../../../x", "/x"},
		{"/w", "/abs//x/", "/abs/x/"},
		{"/w", "/", "/"},
		{"/", ".", "/"},
	} {
		if got := destination(c.dir, c.dst); got != c.want {
			t.Errorf("destination(%q, %q) = %q, want %q", c.dir, c.dst, got, c.want)
		}
	}
}

// TestHasWildcards checks that an escaped wildcard is none.
func TestHasWildcards(t *testing.T) {
	for in, want := range map[string]bool{
		"a": false, "": false, "a*": true, "a?b": true, "[a]": true, `a\*`: false, `a\\*`: true, `a\`: false,
	} {
		if got := hasWildcards(in); got != want {
			t.Errorf("hasWildcards(%q) = %v", in, got)
		}
	}
}

// TestBadPattern checks that a source that is no pattern, though it has a wildcard, is an error of its line, wherever it is
// copied from.
func TestBadPattern(t *testing.T) {
	for source, bad := range map[string]bool{
		"/q/[a": true, "/q/[a*": true, "/q/b[": true, "/[q/b": true, "/z*[/b": true, "--parents /q/[a": true,
		"--parents /q/[a/./b": true, "--parents /q/./[a": true, "[]a]": true,
		`[ a, "b" ]`: true, // meant to be JSON
		"/q/[[]a":    false, `/q/\\[a`: false, "--parents /q/**/a": false, "--parents /q*/./[a-c]?": false, "[!a]": false, "[^a]": false,
	} {
		for _, from := range []string{"", "--from=a "} {
			_, err := dockerfileCase(t, "FROM busybox AS a\nFROM busybox\nCOPY "+from+source+" /x/\n").translate()
			if !bad {
				if err != nil {
					t.Errorf("COPY %s%s: %v", from, source, err)
				}
				continue
			}
			var se *frontend.SourceError
			if !errors.Is(err, path.ErrBadPattern) || !errors.As(err, &se) || !slices.Equal(se.Ranges, []solver.Range{{Start: 3, End: 3}}) {
				t.Errorf("COPY %s%s: got %v", from, source, err)
			}
		}
	}
}
