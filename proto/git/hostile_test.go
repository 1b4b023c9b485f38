package git

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/git/gittest"
)

// canary makes a directory outside of everything, and returns a function that checks that it is as it was.
func canary(t *testing.T) (dir string, intact func()) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "secret"))
		all, _ := os.ReadDir(dir)
		if err != nil || string(b) != "canary" || len(all) != 1 {
			t.Errorf("the directory outside was changed: %v %q %v", all, b, err)
		}
	}
}

// noCanary checks that no byte of the canary is below dir.
func noCanary(t *testing.T, dir string) {
	t.Helper()
	_ = filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), "canary") {
				t.Errorf("%s has what is outside", p)
			}
		}
		return nil
	})
}

// TestSubdirOutside checks that a subdirectory is a directory of the tree, whatever it is called: no symlink leads out of
// it, nor to anything in it.
func TestSubdirOutside(t *testing.T) {
	outside, intact := canary(t)
	r := gittest.New(t)
	r.Write("real/a", "inside")
	r.Symlink(outside, "out")
	r.Symlink("real", "in")
	r.Write("real/deep/b", "b")
	r.Symlink(outside, "real/link")
	commit := r.Commit("x")
	url := gittest.Serve(t, gittest.Smart).Publish(r, "r.git")
	c := newClient(t)
	for sub, want := range map[string]string{
		"out":           `git subpath "out" contains non-directory "out"`,
		"in":            "contains non-directory",
		"in/deep":       `contains non-directory "in"`,
		"real/link":     `contains non-directory "real/link"`,
		"real/a":        `contains non-directory "real/a"`,
		"real/a/b":      "contains non-directory",
		"../..":         "", // the root, as path.Clean has it
		"real/../../..": "",
		"a/../../b":     `"b" is not there`,
		"none":          `"none" is not there`,
		".git":          `invalid path ".git"`,
		":(glob)*":      "is not there",
		"re*":           "is not there",
		"-x":            "is not there",
		outside:         "is not there",
		"/real/":        "",
		"real/deep/":    "",
	} {
		dir := t.TempDir()
		err := c.Checkout(context.Background(), &Source{Remote: Remote{URL: url}, Commit: commit, Subdir: sub}, dir)
		if (want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("subdir %q: %v, want %q", sub, err, want)
		}
		noCanary(t, dir)
	}
	dir := t.TempDir()
	src := &Source{Remote: Remote{URL: url}, Commit: commit, Subdir: "/real"}
	if err := c.Checkout(context.Background(), src, dir); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, "f-rw-r--r-- a=inside", "d deep", "f-rw-r--r-- deep/b=b", "l link->"+outside)
	intact()
}

// TestTrees checks trees that no git writes by itself: they are refused, or do no harm.
func TestTrees(t *testing.T) {
	outside, intact := canary(t)
	r := gittest.New(t)
	blob := r.Input("#!/bin/sh\ntouch "+outside+"/ran\n", "hash-object", "-w", "--stdin")
	link := r.Input(outside, "hash-object", "-w", "--stdin")
	sub := r.Input("100755 blob "+blob+"\tpost-checkout\n", "mktree")
	config := r.Input("100755 blob "+blob+"\tconfig\n", "mktree")
	s := gittest.Serve(t, gittest.Smart)
	c := newClient(t)
	for name, tt := range map[string]struct{ tree, want string }{
		"git directory":  {"040000 tree " + config + "\t.git\n", "invalid path"},
		"other case":     {"040000 tree " + config + "\t.GIT\n", "invalid path"},
		"short name":     {"040000 tree " + config + "\tgit~1\n", "invalid path"},
		"dots":           {"040000 tree " + sub + "\t..\n", "invalid path"},
		"dot":            {"040000 tree " + sub + "\t.\n", "invalid path"},
		"symlink as dir": {"120000 blob " + link + "\ta\n040000 tree " + sub + "\ta\n", ""},
		"file twice":     {"120000 blob " + link + "\ta\n100644 blob " + blob + "\ta\n", ""},
		"gitlink twice":  {"120000 blob " + link + "\ta\n160000 commit " + strings.Repeat("1", 40) + "\ta\n", "no url found"},
		"modules link":   {"120000 blob " + link + "\t.gitmodules\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			commit := r.Tree(tt.tree)
			src := &Source{Remote: Remote{URL: s.Publish(r, "r.git")}, Commit: commit}
			for _, keep := range []bool{false, true} {
				src.KeepDir = keep
				dir := t.TempDir()
				err := c.Checkout(context.Background(), src, dir)
				if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("keeping %v: %v, want %q", keep, err, tt.want)
				}
				noCanary(t, dir)
				intact()
			}
		})
	}
}

// TestBombs checks that a tree of a few objects that would fill a disk is refused before anything is written.
func TestBombs(t *testing.T) {
	r := gittest.New(t)
	blob := r.Input("some text\n", "hash-object", "-w", "--stdin")
	entry := "100644 blob " + blob
	for range 12 { // 10^12 files
		var b strings.Builder
		for i := range 10 {
			fmt.Fprintf(&b, "%s\td%d\n", entry, i)
		}
		entry = "040000 tree " + r.Input(b.String(), "mktree")
	}
	commit := r.Tree(entry + "\ttop\n")
	url := gittest.Serve(t, gittest.Smart).Publish(r, "r.git")
	for _, tt := range []struct {
		opt  Options
		want string
	}{
		{Options{MaxEntries: 5000}, "more than the 5000 entries allowed"},
		{Options{MaxTree: 50000}, "more than the 50000 bytes allowed"},
	} {
		tt.opt.Dir = t.TempDir()
		c, err := New(tt.opt)
		if err != nil {
			t.Fatal(err)
		}
		for _, sub := range []string{"", "top/d1"} {
			dir := t.TempDir()
			err = c.Checkout(context.Background(), &Source{Remote: Remote{URL: url}, Commit: commit, Subdir: sub}, dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("subdir %q: %v, want %q", sub, err, tt.want)
			}
			wantFiles(t, dir)
		}
	}
}

// TestAttributes checks that what .gitattributes says about lines counts, in a subdirectory too, and that no program that
// it names is run: there is no configuration which knows one.
func TestAttributes(t *testing.T) {
	outside, intact := canary(t)
	r := gittest.New(t)
	r.Write("sub/dos", "a\nb\n")
	r.Write("sub/id", "$Id$\n")
	r.Write("sub/filtered", "plain")
	r.Git("add", "-A")
	r.Write(".gitattributes", "dos text eol=crlf\nid ident\nfiltered filter=evil diff=evil merge=evil\n")
	r.Write(".gitconfig", "[filter \"evil\"]\n\tsmudge = touch "+outside+"/ran\n")
	r.Write(".gitmodules", "[include]\n\tpath = "+outside+"/secret\n[filter \"evil\"]\n\tsmudge = touch "+outside+"/ran\n")
	commit := r.Commit("x")
	id := r.Git("rev-parse", "HEAD:sub/id")
	url := gittest.Serve(t, gittest.Smart).Publish(r, "r.git")
	for _, sub := range []string{"", "sub"} {
		dir := t.TempDir()
		src := &Source{Remote: Remote{URL: url}, Commit: commit, Subdir: sub}
		if err := newClient(t).Checkout(context.Background(), src, dir); err != nil {
			t.Fatal(err)
		}
		if sub == "" {
			dir = filepath.Join(dir, "sub")
		}
		wantFiles(t, dir, "f-rw-r--r-- dos=a\r\nb\r", "f-rw-r--r-- filtered=plain", "f-rw-r--r-- id=$Id: "+id+" $")
	}
	intact()
}

// TestHostileSubmodules checks that a submodule brings nothing in but what its commit has, by the protocols that the
// repository itself may use.
func TestHostileSubmodules(t *testing.T) {
	outside, intact := canary(t)
	marker := filepath.Join(outside, "ran")
	inner := gittest.New(t)
	inner.Write("f", "inner")
	commit := inner.Commit("inner")
	s := gittest.Serve(t, gittest.Smart)
	good := s.Publish(inner, "inner.git")
	local := gittest.New(t)
	local.Write("f", "canary")
	localCommit := local.Commit("local")
	for name, tt := range map[string]struct{ modules, want string }{
		"ext":       {"path = a\n\turl = \"ext::sh -c touch% " + marker + "\"", "only http, https, ssh and git"},
		"path":      {"path = a\n\turl = " + local.Dir, "only http, https, ssh and git"},
		"command":   {"path = a\n\turl = " + good + "\n\tupdate = !touch " + marker, "is not run"},
		"none":      {"path = a\n\turl = " + good + "\n\tupdate = none", ""},
		"elsewhere": {"path = ../a\n\turl = " + good, "no url found"},
	} {
		t.Run(name, func(t *testing.T) {
			r := gittest.New(t)
			r.Write(".gitmodules", "[submodule \"x\"]\n\t"+tt.modules+"\n")
			r.Git("add", "-A")
			hash := commit
			if strings.Contains(tt.modules, local.Dir) {
				hash = localCommit
			}
			r.Gitlink("a", hash)
			r.Git("commit", "-q", "-m", "x")
			url := s.Publish(r, "r.git")
			dir, err := checkOut(t, newClient(t), &Query{Remote: Remote{URL: url}}, nil)
			if (tt.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			noCanary(t, dir)
			intact()
		})
	}
}

// TestSubmoduleURLs checks which URLs of submodules are followed, and that credentials of the repository go to what is
// inside their scope only.
func TestSubmoduleURLs(t *testing.T) {
	parent := Remote{URL: "https://u:p@host/group/r.git", Header: "basic x", AgentSocket: "/s", KnownHosts: "k"}
	for url, want := range map[string]string{
		"../s.git":                     "https://u:p@host/group/s.git",
		"../../s.git":                  "https://u:p@host/s.git",
		"./sub":                        "https://u:p@host/group/r.git/sub + header",
		"https://host/group/r.git/sub": "https://host/group/r.git/sub + header",
		"https://host/group/r.git2":    "https://host/group/r.git2",
		"https://evil/group/r.git":     "https://evil/group/r.git",
		"http://host/group/r.git":      "http://host/group/r.git",
		"git@host:x":                   "git@host:x",
		"git://host/x":                 "git://host/x",
		"ssh://git@host/x":             "ssh://git@host/x",
		"--upload-pack=touch x":        "only http, https, ssh and git",
		"ext::sh -c touch% x":          "only http, https, ssh and git",
		"ext://sh/x":                   "only http, https, ssh and git",
		"EXT://sh/x":                   "only http, https, ssh and git",
		"fd::17":                       "only http, https, ssh and git",
		"file:///etc":                  "only http, https, ssh and git",
		"/etc":                         "only http, https, ssh and git",
		"host:path":                    "only http, https, ssh and git",
		"-oProxyCommand=x@host:a":      "only http, https, ssh and git",
		"ssh://-oProxyCommand=x/x":     "names no host",
		"ssh://-x@host/x":              "begins with a dash",
		"ssh://host/-x":                "begins with a dash",
		"git@host:-x":                  "begins with a dash",
		"http:///x":                    "names no host",
		"http://host/a\n[core]":        "control character",
		"../../../s":                   "leaves its parent's host",
		"../../../../../etc":           "leaves its parent's host",
	} {
		conf := map[string]*module{"a": {name: "n", path: "a", url: url}}
		tr := &tree{remote: parent}
		sub, err := tr.submodule(conf, gitlink{"a", strings.Repeat("1", 40)})
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", url, err, want)
			}
			continue
		}
		got := sub.remote.URL
		if sub.remote.Header != "" {
			got += " + header"
		}
		if got != want || sub.remote.AgentSocket != "/s" || sub.remote.KnownHosts != "k" {
			t.Errorf("%q: %q, %+v, want %q", url, got, sub.remote, want)
		}
	}
	hub := Remote{URL: "https://github.com/a/b.git", Header: "h"}
	if sub, err := hub.submodule("https://github.com/c/d"); err != nil || sub.Header != "h" {
		t.Errorf("another repository of GitHub's: %+v, %v", sub, err)
	}
	scp := Remote{URL: "git@host:group/r.git"}
	for rel, want := range map[string]string{"../s.git": "git@host:group/s.git", "../../s.git": "git@host:s.git", "./s": "git@host:group/r.git/s"} {
		if sub, err := scp.submodule(rel); err != nil || sub.URL != want {
			t.Errorf("%q: %q, %v, want %q", rel, sub.URL, err, want)
		}
	}
	if _, err := scp.submodule("../../../s"); err == nil {
		t.Error("a submodule leaves the host of its parent")
	}
}

// TestModuleNames checks that no name of a submodule becomes a path outside of a kept .git directory, or inside the one
// of another submodule.
func TestModuleNames(t *testing.T) {
	inner := gittest.New(t)
	inner.Write("f", "inner")
	commit := inner.Commit("inner")
	s := gittest.Serve(t, gittest.Smart)
	s.Publish(inner, "inner.git")
	for _, name := range []string{"", ".", "..", "a/../../evil", "a/..", "/evil", "-evil", "a//b", `a\..\b`} {
		if err := checkModuleName(name); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
	named := func(names ...string) (subs []*submodule) {
		for _, n := range names {
			subs = append(subs, &submodule{name: n})
		}
		return subs
	}
	if err := checkNested(named("first/x/y", "z", "first")); err == nil {
		t.Error("one repository is inside another")
	}
	if err := checkNested(named("firs/t", "first", "firs")); err == nil {
		t.Error("one repository is inside another")
	}
	if err := checkNested(named("firs/t", "first", "a/b", "a/c")); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{
		"../../evil":  "invalid submodule name",
		"first/hooks": "inside that of",
		"with space":  "",
	} {
		r := gittest.New(t)
		r.Write(".gitmodules", "[submodule \"first\"]\n\tpath = one\n\turl = ../inner.git\n"+
			"[submodule \""+name+"\"]\n\tpath = two\n\turl = ../inner.git\n")
		r.Git("add", "-A")
		r.Gitlink("one", commit)
		r.Gitlink("two", commit)
		r.Git("commit", "-q", "-m", "x")
		url := s.Publish(r, "r.git")
		dir, err := checkOut(t, newClient(t), &Query{Remote: Remote{URL: url}}, func(s *Source) { s.KeepDir = true })
		if (want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("name %q: %v, want %q", name, err, want)
		}
		if err == nil {
			wantFiles(
				t, dir, "d .git",
				"f-rw-r--r-- .gitmodules="+strings.TrimSuffix(r.Git("show", "HEAD:.gitmodules"), "\n"),
				"d one", "f-rw-r--r-- one/.git=gitdir: ../.git/modules/first", "f-rw-r--r-- one/f=inner",
				"d two", "f-rw-r--r-- two/.git=gitdir: ../.git/modules/"+name, "f-rw-r--r-- two/f=inner",
			)
		}
	}
}

// TestEndlessSubmodules checks that a chain of submodules ends.
func TestEndlessSubmodules(t *testing.T) {
	r := gittest.New(t)
	r.Write(".gitmodules", "[submodule \"x\"]\n\tpath = a\n\turl = ../r.git\n")
	hash := r.Commit("0")
	for range maxDepth + 1 {
		r.Git("read-tree", "--empty")
		r.Git("add", ".gitmodules")
		r.Gitlink("a", hash)
		r.Git("commit", "-q", "-m", "x")
		hash = r.Git("rev-parse", "HEAD")
	}
	url := gittest.Serve(t, gittest.Smart).Publish(r, "r.git")
	_, err := checkOut(t, newClient(t), &Query{Remote: Remote{URL: url}}, nil)
	if err == nil || !strings.Contains(err.Error(), "more than 32 levels of submodules") {
		t.Errorf("%v", err)
	}
}
