package dockerfile

import "testing"

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
