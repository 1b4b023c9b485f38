package dockerfile

import (
	"path"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver/op"
)

// TestParseGitRef checks what is asked of a repository. Errors and forms are compared with BuildKit's in
// testdata/buildkit.
func TestParseGitRef(t *testing.T) {
	for in, want := range map[string]op.Git{
		"https://h/r.git":                       {Remote: "https://h/r.git"},
		"https://h/r.git#ref:a/../b/":           {Remote: "https://h/r.git", Ref: "ref", Subdir: "b"},
		"https://h/r.git#:../../etc":            {Remote: "https://h/r.git", Subdir: "etc"},
		"https://h/r.git?subdir=/x/../y":        {Remote: "https://h/r.git", Subdir: "y"},
		"https://h/r.git?subdir=../../x":        {Remote: "https://h/r.git", Subdir: "x"},
		"https://h/r.git?tag=v1":                {Remote: "https://h/r.git", Ref: "refs/tags/v1"},
		"https://h/r.git?branch=refs/heads/b":   {Remote: "https://h/r.git", Ref: "refs/heads/b"},
		"https://h/r.git?commit=ab":             {Remote: "https://h/r.git", Checksum: "ab"},
		"https://h/r.git?mtime=commit":          {Remote: "https://h/r.git", CommitTime: true},
		"https://h/r.git?submodules":            {Remote: "https://h/r.git"},
		"https://h/r.git?submodules=0":          {Remote: "https://h/r.git", SkipSubmodules: true},
		"https://h/r.git?keep-git-dir=true":     {Remote: "https://h/r.git", KeepGitDir: true},
		"https://u:p@h/r.git?fetch-by-commit#x": {Remote: "https://u:p@h/r.git", Ref: "x", FetchByCommit: true},
		"git@h:a/b.git#v1:c":                    {Remote: "git@h:a/b.git", Ref: "v1", Subdir: "c", SSH: "default"},
		"git@h:a?tag=v1":                        {Remote: "git@h:a", Ref: "refs/tags/v1", SSH: "default"},
		"ssh://git@h:22/a":                      {Remote: "ssh://git@h:22/a", SSH: "default"},
		"github.com/a/b#c:d":                    {Remote: "https://github.com/a/b", Ref: "c", Subdir: "d"},
	} {
		g, err := parseGitRef(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		want.AuthTokenSecret, want.AuthHeaderSecret, want.Written = op.GitAuthToken, op.GitAuthHeader, op.RedactGit(in)
		if got := g.op(); *got != want {
			t.Errorf("%q:\n got %+v\nwant %+v", in, *got, want)
		}
	}
	if g, err := parseGitRef("https://h/r.git?commit=ab&checksum=cd"); err == nil {
		t.Errorf("two commits: %+v", g)
	}
}

// FuzzGitRef checks that no reference makes the parser crash, that it means the same each time, that a subdirectory stays
// inside, and that no password is shown.
func FuzzGitRef(f *testing.F) {
	for _, s := range []string{
		"https://h/r.git", "https://u:p@h/r.git?ref=a&subdir=b#c:d", "git@h:p?tag=x#r:s", "ssh://git@h:22/a?branch=b", "git://h/x#:y",
		"github.com/a/b#x:y", "https://h/r.git?keep-git-dir&submodules=0&mtime=commit&fetch-by-commit=1&checksum=ab", "HTTPS://h/a%2egit?x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if classifyContext(text) != gitSource {
			return
		}
		g, err := parseGitRef(text)
		again, err2 := parseGitRef(text)
		if (err == nil) != (err2 == nil) || (err != nil && err.Error() != err2.Error()) {
			t.Fatalf("%q: %v, then %v", text, err, err2)
		}
		if err != nil {
			return
		}
		o := g.op()
		if *o != *again.op() {
			t.Errorf("%q means %+v, then %+v", text, o, again.op())
		}
		if o.Subdir != "" && (path.Clean("/"+o.Subdir) != "/"+o.Subdir || strings.HasPrefix(o.Subdir+"/", "../")) {
			t.Errorf("%q has the subdirectory %q", text, o.Subdir)
		}
		if scheme, rest, ok := strings.Cut(o.Written, "://"); ok && strings.HasPrefix(strings.ToLower(scheme), "http") {
			authority := rest[:len(rest)-len(strings.TrimLeft(rest, "x:"))]
			if at := strings.IndexByte(rest, '@'); at >= 0 && !strings.ContainsAny(rest[:at], "/?#") && authority+"@" != rest[:at+1] {
				t.Errorf("%q is shown as %q", text, o.Written)
			}
		}
	})
}
