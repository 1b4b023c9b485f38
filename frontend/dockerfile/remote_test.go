package dockerfile

import "testing"

// TestClassify checks which sources are fetched, and how. The kinds are those that BuildKit's dfgitutil.ParseGitRef and
// its isHTTPSource give. A file may have any name, so only forms that are clear count.
func TestClassify(t *testing.T) {
	// As a context the deprecated short form is a repository.
	short := map[string]bool{"github.com/a/b": true, "github.com/a/b#ref:dir": true}
	for src, want := range map[string]sourceKind{
		"":                                       fileSource,
		"a":                                      fileSource,
		"dir/a.git":                              fileSource,
		"user@host":                              fileSource,
		"a/user@host:x":                          fileSource,
		"./git@github.com:a/b":                   fileSource,
		"../git@github.com:a/b":                  fileSource,
		"ftp://host/x":                           fileSource,
		"file:///etc/passwd":                     fileSource,
		"file:///srv/a.git":                      fileSource,
		"ext::sh -c id":                          fileSource,
		"HTTP://host/x":                          fileSource,
		"http:/host/x":                           fileSource,
		"git+ssh://host/x.git":                   fileSource,
		"git://host:bad port/x":                  fileSource,
		"git@host:p?%zz":                         fileSource,
		"http://host/x":                          urlSource,
		"http://":                                urlSource,
		"http://host":                            urlSource,
		"http://host:bad port/x.git":             urlSource,
		"https://host/x.tar.gz?x=y.git":          urlSource,
		"https://host/a.git/b":                   urlSource,
		"https://host/a.git/":                    urlSource,
		"https://host/a.GIT":                     urlSource,
		"https://host/a#b.git":                   urlSource,
		"https://host/a.git":                     gitSource,
		"HTTPS://host/a.git":                     gitSource,
		"https://host/a%2Egit":                   gitSource,
		"https://host/.git":                      gitSource,
		"https://host/a.git#ref:dir":             gitSource,
		"https://host/a.git?branch=b&x=y":        gitSource,
		"https://user:pass@host/a.git":           gitSource,
		"git://host/a":                           gitSource,
		"GIT://host/a":                           gitSource,
		"ssh://git@host/a":                       gitSource,
		"git@github.com:moby/buildkit.git":       gitSource,
		"git@github.com:moby/buildkit#v1:sub":    gitSource,
		"git@github.com:moby/buildkit?ref=v1":    gitSource,
		"other_user@a-b.example:dir/file":        gitSource,
		"a@b:":                                   gitSource,
		"a.b@host:x":                             fileSource,
		"github.com/a/b":                         fileSource,
		"github.com/a/b#ref:dir":                 fileSource,
		"github.com/%zz":                         fileSource,
		"github.com":                             fileSource,
		"gitlab.com/a/b":                         fileSource,
		"https://github.com/docker/docker":       urlSource,
		"https://github.com/docker/docker.git#x": gitSource,
	} {
		if got := classify(src); got != want {
			t.Errorf("classify(%q) = %d, want %d", src, got, want)
		}
		if short[src] {
			want = gitSource
		}
		if got := classifyContext(src); got != want {
			t.Errorf("classifyContext(%q) = %d, want %d", src, got, want)
		}
	}
}

// TestMasked checks that neither a name nor the history of an image has what is before the host in a URL, in any form of ADD,
// and that all else is as it was written (CVE-2023-26054).
func TestMasked(t *testing.T) {
	for text, want := range map[string]string{
		"ADD https://user:pass@h/f /":                          "ADD https://xxxxx:xxxxx@h/f /",
		"ADD https://token@h/f /":                              "ADD https://xxxxx@h/f /",
		"ADD http://u:p@ss@h/f http://:pass@i:80/g?x=y@z /":    "ADD http://xxxxx:xxxxx@h/f http://:xxxxx@i:80/g?x=y@z /",
		`ADD ["https://u:p@h/f","https://v:q@i/g", "/"]`:       `ADD ["https://xxxxx:xxxxx@h/f","https://xxxxx:xxxxx@i/g", "/"]`,
		"ADD 'https://u:p@h' \"https://token@i\" /":            "ADD 'https://xxxxx:xxxxx@h' \"https://xxxxx@i\" /",
		"ADD --checksum=x ssh://git:pass@h/r.git#main:sub /":   "ADD --checksum=x ssh://git:xxxxx@h/r.git#main:sub /",
		"ADD HTTPS://u:p@h/r.git /":                            "ADD https://xxxxx:xxxxx@h/r.git /",
		"ADD git@github.com:a/b.git https://h/a@b c://d e@f /": "ADD git@github.com:a/b.git https://h/a@b c://d e@f /",
	} {
		if got := masked(text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}
