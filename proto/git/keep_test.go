package git

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/git/gittest"
)

// nested makes a repository with a submodule that has one itself, both with relative URLs.
func nested(t *testing.T, s *gittest.Server) (url string) {
	t.Helper()
	leaf := gittest.New(t)
	leaf.Write("f", "leaf")
	leafHash := leaf.Commit("leaf")
	s.Publish(leaf, "libs/leaf.git")
	mid := gittest.New(t)
	mid.Write(".gitmodules", "[submodule \"leaf\"]\n\tpath = deep/leaf\n\turl = ../leaf.git\n")
	mid.Write("f", "mid")
	mid.Git("add", "-A")
	mid.Gitlink("deep/leaf", leafHash)
	mid.Git("commit", "-q", "-m", "mid")
	s.Publish(mid, "libs/mid.git")
	top := gittest.New(t)
	top.Write(".gitmodules", "[submodule \"a/name\"]\n\tpath = mods/mid\n\turl = ../../libs/mid.git\n")
	top.Write("f", "top")
	top.Git("add", "-A")
	top.Gitlink("mods/mid", mid.Git("rev-parse", "HEAD"))
	top.Git("commit", "-q", "-m", "top")
	top.Git("tag", "v1")
	top.Git("tag", "-a", "-m", "x", "v1.0")
	return s.Publish(top, "top/r.git")
}

// TestSubmodules checks nested submodules: as part of the whole, as a subdirectory, in one that leads through them, and
// left out.
func TestSubmodules(t *testing.T) {
	s := gittest.Serve(t, gittest.Smart)
	url := nested(t, s)
	c := newClient(t)
	const f, modules = "f-rw-r--r-- ", "[submodule \"leaf\"]\n\tpath = deep/leaf\n\turl = ../leaf.git"
	mid := []string{f + ".gitmodules=" + modules, "d deep", "d deep/leaf", f + "deep/leaf/f=leaf", f + "f=mid"}
	for _, tt := range []struct {
		subdir string
		skip   bool
		want   []string
		err    string
	}{
		{"mods", true, []string{"d mid"}, ""},
		{"mods/mid", false, mid, ""},
		{"mods/mid/deep", false, []string{"d leaf", f + "leaf/f=leaf"}, ""},
		{"mods/mid/deep/leaf", false, []string{f + "f=leaf"}, ""},
		{"mods/mid", true, nil, ""},
		{"mods/mid/deep", true, nil, "in a submodule, which is not fetched"},
		{"mods/mid/none", false, nil, `"none" is not there`},
	} {
		dir, err := checkOut(t, c, &Query{Remote: Remote{URL: url}}, func(s *Source) {
			s.Subdir, s.SkipSubmodules = tt.subdir, tt.skip
		})
		if (tt.err == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("subdir %q: %v, want %q", tt.subdir, err, tt.err)
		}
		if err == nil {
			wantFiles(t, dir, tt.want...)
		}
	}
	dir, err := checkOut(t, c, &Query{Remote: Remote{URL: url}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(files(t, filepath.Join(dir, "mods/mid")), "\n")
	if want := strings.Join(mid, "\n"); got != want {
		t.Errorf("the submodule is\n%s\nwant\n%s", got, want)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
		t.Error("there is a .git directory")
	}
}

// TestKept checks that a kept .git directory is a sound repository, in which the tree is unchanged, the tags of the
// commit are known, and no credential and no path of this machine is left.
func TestKept(t *testing.T) {
	s := gittest.Serve(t, gittest.Smart)
	url := nested(t, s)
	c := newClient(t)
	s.Require("Basic dXNlcjpzZWNyZXQ=")
	withUser := strings.Replace(url, "http://", "http://user:secret@", 1)
	for _, ref := range []string{"", "v1.0", "v1"} {
		t.Run("ref "+ref, func(t *testing.T) {
			dir, err := checkOut(t, c, &Query{Remote: Remote{URL: withUser}, Ref: ref, KeepTag: true}, func(s *Source) { s.KeepDir = true })
			if err != nil {
				t.Fatal(err)
			}
			git := func(sub string, args ...string) string {
				cmd := exec.Command("git", args...)
				cmd.Dir, cmd.Env = filepath.Join(dir, sub), gittest.Environ()
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("git %v: %v", args, err)
				}
				return strings.TrimSuffix(string(out), "\n")
			}
			for _, sub := range []string{"", "mods/mid", "mods/mid/deep/leaf"} {
				if got := git(sub, "status", "--porcelain"); got != "" {
					t.Errorf("the tree %q differs: %s", sub, got)
				}
				git(sub, "fsck", "--strict")
				if got := git(sub, "rev-list", "--count", "HEAD"); got != "1" {
					t.Errorf("%q has %s commits", sub, got)
				}
				if got := git(sub, "remote", "get-url", "origin"); !strings.HasPrefix(got, "http://xxxxx:xxxxx@127.0.0.1:") {
					t.Errorf("the remote of %q is %s", sub, got)
				}
			}
			if got := git("", "describe", "--tags"); got != "v1.0" {
				t.Errorf("it describes itself as %q", got)
			}
			want := "refs/tags/v1\nrefs/tags/v1.0"
			if ref == "" {
				want = "refs/heads/main\n" + want
			}
			if got := git("", "for-each-ref", "--format=%(refname)"); got != want {
				t.Errorf("refs are\n%s\nwant\n%s", got, want)
			}
			if got := git("", "submodule", "status", "--recursive"); strings.HasPrefix(got, "-") || strings.HasPrefix(got, "+") {
				t.Errorf("submodules: %s", got)
			}
			// What git copies from this machine's templates, and what has times of its own.
			for _, name := range []string{"hooks", "description", "branches", "logs"} {
				if _, err := os.Lstat(filepath.Join(dir, ".git", name)); !os.IsNotExist(err) {
					t.Errorf("the repository has %s: %v", name, err)
				}
			}
			_ = filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
				if err == nil && e.Type().IsRegular() {
					b, _ := os.ReadFile(p)
					for _, text := range []string{"secret", "dXNlcjpzZWNyZXQ", c.opt.Dir, dir} {
						if strings.Contains(string(b), text) {
							t.Errorf("%s has %q", p, text)
						}
					}
				}
				return err
			})
		})
	}
}

// recorder is a git program that writes down how it is called.
func recorder(t *testing.T) (program, log string) {
	t.Helper()
	real, err := exec.LookPath("git")
	if err != nil {
		t.Skip("needs git")
	}
	dir := t.TempDir()
	program, log = filepath.Join(dir, "git"), filepath.Join(dir, "log")
	script := "#!/bin/sh\nfor a; do printf '%s\\n' \"$a\" >>" + log + "; done\nprintf 'env %s\\n' \"$(env | cut -d= -f1 | tr '\\n' ' ')\" >>" + log +
		"\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return program, log
}

// TestCredentials checks that secrets let git in, in each form, and are in no argument, no error, no message, and no file.
func TestCredentials(t *testing.T) {
	r, first, _ := sample(t)
	s := gittest.Serve(t, gittest.Smart)
	url := s.Publish(r, "r.git")
	s.Require("Basic dXNlcjpzZWNyZXQ=")
	with := strings.Replace(url, "http://", "http://user:secret@", 1)
	program, log := recorder(t)
	t.Setenv("GIT_DIR", "/nonexistent")
	t.Setenv("GIT_SSH_COMMAND", "touch /nonexistent")
	t.Setenv("GIT_CONFIG_PARAMETERS", "'alias.x=!touch'")
	for name, tt := range map[string]struct {
		remote Remote
		ok     bool
	}{
		"in the URL": {Remote{URL: with}, true},
		"header":     {Remote{URL: url, Header: "Basic dXNlcjpzZWNyZXQ="}, true},
		"none":       {Remote{URL: url}, false},
		"wrong":      {Remote{URL: url, Header: "Basic c2VjcmV0"}, false},
		"wrong URL":  {Remote{URL: strings.Replace(url, "http://", "http://secret@", 1)}, false},
		"two lines":  {Remote{URL: url, Header: "Basic x\nX: secret"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := New(Options{Dir: t.TempDir(), Program: program})
			if err != nil {
				t.Fatal(err)
			}
			var said strings.Builder
			ctx := WithLogger(t.Context(), func(b []byte) { said.Write(b) })
			_, err = c.Resolve(ctx, &Query{Remote: tt.remote, Ref: "main"})
			if (err == nil) != tt.ok {
				t.Errorf("Resolve: %v", err)
			}
			err = c.Checkout(ctx, &Source{Remote: tt.remote, Commit: first}, t.TempDir())
			if (err == nil) != tt.ok {
				t.Errorf("Checkout: %v", err)
			}
			calls, _ := os.ReadFile(log)
			all := string(calls) + said.String()
			if err != nil {
				all += err.Error()
			}
			_ = filepath.WalkDir(c.opt.Dir, func(p string, e os.DirEntry, err error) error {
				if err == nil && e.Type().IsRegular() {
					b, _ := os.ReadFile(p)
					all += string(b)
				}
				return err
			})
			for _, text := range []string{"secret", "dXNlcjpzZWNyZXQ", "c2VjcmV0", "GIT_DIR", "GIT_CONFIG_PARAMETERS"} {
				if strings.Contains(all, text) {
					t.Errorf("%q is in what others can read", text)
				}
			}
		})
	}
}

// TestSSH checks what ssh is called with: the agent of the client and nothing of this machine's.
func TestSSH(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	script := "#!/bin/sh\nfor a; do printf '%s\\n' \"$a\" >>" + log + "; done\nprintf 'agent=%s\\n' \"$SSH_AUTH_SOCK\" >>" + log + "\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("SSH_AUTH_SOCK", "/the/daemons/own")
	c := newClient(t)
	for name, tt := range map[string]struct {
		remote Remote
		want   []string
		not    string
	}{
		"agent": {
			Remote{URL: "git@host.example:a/b", AgentSocket: "/client", KnownHosts: "host.example ssh-ed25519 AAAA\n"},
			[]string{"agent=/client\n", "StrictHostKeyChecking=yes\n", "\ngit@host.example\n", "git-upload-pack 'a/b'", "IdentityFile=none\n"},
			"StrictHostKeyChecking=no",
		},
		"nothing": {
			Remote{URL: "ssh://user:pw@host.example:2222/a"},
			[]string{"agent=\n", "IdentityAgent=none\n", "StrictHostKeyChecking=no\n", "\n2222\n", "\nuser@host.example\n"},
			"pw",
		},
	} {
		_ = os.Remove(log)
		if _, err := c.Resolve(t.Context(), &Query{Remote: tt.remote, Ref: "main"}); err == nil {
			t.Errorf("%s: no error", name)
		}
		b, _ := os.ReadFile(log)
		for _, w := range tt.want {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s: called with\n%swant %q", name, b, w)
			}
		}
		if strings.Contains(string(b), tt.not) || strings.Contains(string(b), "daemons") {
			t.Errorf("%s: called with\n%s", name, b)
		}
	}
}
