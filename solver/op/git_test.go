package op

import (
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
)

func gitKey(g Git) string {
	var h solver.Hasher
	g.WriteKey(&h)
	return h.Document()
}

// TestGitKey checks what of a pinned repository names its content: the commit and what is made of it, not where it came
// from or who was let in; but a kept .git directory has both ref and remote.
func TestGitKey(t *testing.T) {
	base := Git{Remote: "https://host/r.git", Ref: "refs/heads/main", Commit: strings.Repeat("a", 40)}
	for _, tt := range []struct {
		name   string
		change func(*Git)
		same   bool
	}{
		{"remote", func(g *Git) { g.Remote = "ssh://other/x" }, true},
		{"ref", func(g *Git) { g.Ref = "refs/tags/v1" }, true},
		{"secrets", func(g *Git) { g.AuthTokenSecret, g.AuthHeaderSecret, g.SSH, g.KnownHosts = "a", "b", "c", "d" }, true},
		{"checksum", func(g *Git) { g.Checksum = "aaaa" }, true},
		{"by commit", func(g *Git) { g.FetchByCommit = true }, true},
		{"keep in a subdir", func(g *Git) { g.Subdir = "/"; g.KeepGitDir = true }, false},
		{"commit", func(g *Git) { g.Commit = strings.Repeat("b", 40) }, false},
		{"subdir", func(g *Git) { g.Subdir = "x" }, false},
		{"keep", func(g *Git) { g.KeepGitDir = true }, false},
		{"submodules", func(g *Git) { g.SkipSubmodules = true }, false},
		{"time", func(g *Git) { g.CommitTime = true }, false},
		{"root as subdir", func(g *Git) { g.Subdir = "/" }, true},
	} {
		g := base
		tt.change(&g)
		if got := gitKey(g) == gitKey(base); got != tt.same {
			t.Errorf("%s: equal keys: %v, want %v", tt.name, got, tt.same)
		}
		if !g.Pinned() {
			t.Errorf("%s: not pinned", tt.name)
		}
	}
	sub, keep := base, base
	sub.Subdir, keep.Subdir = "x", "x"
	keep.KeepGitDir = true
	if gitKey(sub) != gitKey(keep) {
		t.Error("keeping the .git directory, which a subdirectory has not, changes the key")
	}
	kept, other := base, base
	kept.KeepGitDir, other.KeepGitDir = true, true
	other.Ref = "refs/heads/x"
	if gitKey(kept) == gitKey(other) {
		t.Error("the ref is in a kept .git directory but not in its key")
	}
	if unpinned := (Git{Remote: base.Remote, Ref: "main"}); unpinned.Pinned() ||
		gitKey(unpinned) == gitKey(Git{Remote: "https://other/r.git", Ref: "main"}) {
		t.Error("the key of an unpinned repository does not name it")
	}
}

// TestGitQuestion checks that what a pin depends on is in the question: who has to have signed, above all.
func TestGitQuestion(t *testing.T) {
	for name, g := range map[string]Git{
		"signature": {Signature: &GitSignature{PublicKeys: "k"}},
		"bundle":    {Bundle: "b", BundleSession: "s", BundleStore: "t"},
		"checksum":  {Checksum: "c"},
	} {
		base := Git{Remote: "https://host/r.git", Ref: "main"}
		g.Remote, g.Ref = base.Remote, base.Ref
		if gitKey(*g.Question()) == gitKey(*base.Question()) {
			t.Errorf("%s is not asked for", name)
		}
		plain := g
		g.Subdir, g.CommitTime, g.KeepGitDir = "x", true, true
		kept := plain
		kept.KeepGitDir = true
		if gitKey(*kept.Question()) != gitKey(*plain.Question()) {
			t.Errorf("%s: whether the tag or its commit is wanted is asked for", name)
		}
		if gitKey(*g.Question()) != gitKey(*plain.Question()) {
			t.Errorf("%s: what is done with the commit is asked for", name)
		}
	}
}

// TestGitString checks that a repository is shown without scheme and credentials, and that no key of a pinned one has
// them: keys are kept as documents.
func TestGitString(t *testing.T) {
	hash := strings.Repeat("a", 40)
	for _, tt := range []struct {
		g    Git
		want string
	}{
		{Git{Remote: "https://user:pass@host/a/b.git", Ref: "main"}, "git://host/a/b.git#main"},
		{Git{Remote: "https://host//a/../b.git"}, "git://host/b.git"},
		{Git{Remote: "git@host:a/b.git", Subdir: "x"}, "git://host/a/b.git#:x"},
		{Git{Remote: "ssh://git@host:22/a", Ref: "v1", Subdir: "x"}, "git://host:22/a#v1:x"},
		{Git{Remote: "https://user:pa ss@ho st/%zz"}, "git://invalid"},
		{Git{Remote: "git://host/a", Commit: hash}, "git://host/a#" + hash},
	} {
		if got := tt.g.String(); got != tt.want {
			t.Errorf("String() = %q, want %q", got, tt.want)
		}
		tt.g.Commit, tt.g.KeepGitDir = hash, true
		if doc := gitKey(tt.g); strings.Contains(doc, "pa") && strings.Contains(doc, "user") {
			t.Errorf("the key has credentials:\n%s", doc)
		}
	}
}

// TestRedactGit checks that nothing is left of credentials.
func TestRedactGit(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:pass@host/a.git?ref=x#y:z": "https://xxxxx:xxxxx@host/a.git?ref=x#y:z",
		"https://token@host/a.git":               "https://xxxxx@host/a.git",
		"https://:pass@host/a.git":               "https://:xxxxx@host/a.git",
		"https://a@b:c@host/a.git":               "https://xxxxx:xxxxx@host/a.git",
		"https://u:p a s s@host/%zz":             "https://xxxxx:xxxxx@host/%zz",
		"https://u:p@host":                       "https://xxxxx:xxxxx@host",
		"https://host/a@b.git":                   "https://host/a@b.git",
		"ssh://git@host/a":                       "ssh://git@host/a",
		"SSH://git:pw@host/a":                    "ssh://git:xxxxx@host/a",
		"git@host:a":                             "git@host:a",
		"":                                       "",
	} {
		if got := RedactGit(in); got != want {
			t.Errorf("RedactGit(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestRedactURL checks that a URL of a file is shown without password, and without a user who is a token (CVE-2023-26054).
func TestRedactURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:pass@host/f?x=y": "https://user:xxxxx@host/f?x=y",
		"https://token@host/f":         "https://xxxxx@host/f",
		"http://:pass@host/f":          "http://:xxxxx@host/f",
		"HTTP://token@host/f":          "http://xxxxx@host/f",
		"ssh://git@host/f":             "ssh://git@host/f",
		"https://u:p@ho st/%zz":        "https://xxxxx:xxxxx@ho st/%zz",
		"https://host/a@b":             "https://host/a@b",
		"busybox@sha256:x":             "busybox@sha256:x",
		"":                             "",
	} {
		if got := RedactURL(in); got != want {
			t.Errorf("RedactURL(%q) = %q, want %q", in, got, want)
		}
	}
}
