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

// TestClassify checks which sources are fetched. A file may have any name, so only forms that are clear count.
func TestClassify(t *testing.T) {
	for src, want := range map[string]sourceKind{
		"a":                                   fileSource,
		"dir/a.git":                           fileSource,
		"github.com/a/b":                      fileSource,
		"user@host":                           fileSource,
		"a/user@host:x":                       fileSource,
		"./git@github.com:a/b":                fileSource,
		"ftp://host/x":                        fileSource,
		"http://host/x":                       urlSource,
		"https://host/x.tar.gz?x=y.git":       urlSource,
		"https://host/a.git/b":                urlSource,
		"https://host/a.git":                  gitSource,
		"https://host/a.git#ref:dir":          gitSource,
		"https://host/a.git?branch=b&x=y":     gitSource,
		"git://host/a":                        gitSource,
		"ssh://git@host/a":                    gitSource,
		"git@github.com:moby/buildkit.git":    gitSource,
		"git@github.com:moby/buildkit#v1:sub": gitSource,
	} {
		if got := classify(src); got != want {
			t.Errorf("classify(%q) = %d, want %d", src, got, want)
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
