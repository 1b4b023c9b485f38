package git

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/git/gittest"
)

// TestBundle checks that a bundle of a commit has its history under the ref's name, and that a repository whose server is
// gone can be read from it: by name, and by hash; and that a bundle without the commit says so.
func TestBundle(t *testing.T) {
	r, first, second := sample(t)
	s := gittest.Serve(t, gittest.Smart)
	url := s.Publish(r, "r.git")
	ctx := context.Background()
	for _, ref := range []string{"", "refs/heads/master", "refs/tags/annotated"} {
		c := newClient(t)
		dir := t.TempDir()
		// Shallow first, as a build before has left it.
		if err := c.Checkout(ctx, &Source{Remote: Remote{URL: url}, Commit: second}, t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if err := c.CheckoutBundle(ctx, &Source{Remote: Remote{URL: url}, Commit: second, Ref: ref}, dir); err != nil {
			t.Fatal(err)
		}
		if got := files(t, dir); len(got) != 1 || !strings.HasPrefix(got[0], "f-rw-r--r-- bundle=") {
			t.Fatalf("the checkout has %q", got)
		}
		file := filepath.Join(dir, "bundle")
		other := gittest.New(t)
		if out := other.Git("ls-remote", file); !strings.Contains(out, second+"\t"+bundleRef(ref)) {
			t.Errorf("%q: the bundle has %q", ref, out)
		}
		other.Git("fetch", file, "+refs/*:refs/got/*")
		other.Git("cat-file", "-e", first)

		away := Remote{URL: "http://127.0.0.1:1/none.git", Bundle: func(context.Context) (io.ReadCloser, error) { return os.Open(file) }}
		for _, q := range []*Query{
			{Remote: away, Checksum: second},
			{Remote: away, Ref: second, Checksum: second[:10]},
			{Remote: away, Ref: strings.TrimPrefix(bundleRef(ref), "refs/heads/"), Checksum: second},
		} {
			dir, err := checkOut(t, newClient(t), q, nil)
			if err != nil {
				t.Errorf("%q of a bundle: %v", q.Ref, err)
				continue
			}
			want, err := checkOut(t, c, &Query{Remote: Remote{URL: url}, Ref: second}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Join(files(t, dir), " "), strings.Join(files(t, want), " "); got != want {
				t.Errorf("%q of a bundle: got %s, want %s", q.Ref, got, want)
			}
		}
		missing := strings.Repeat("1", len(second))
		err := newClient(t).Checkout(ctx, &Source{Remote: away, Commit: missing}, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), "not found in bundle") {
			t.Errorf("a bundle without the commit: got %v", err)
		}
		if _, err := newClient(t).Resolve(ctx, &Query{Remote: away, Ref: "nothing", Checksum: second}); err == nil {
			t.Error("a ref that the bundle lacks was found")
		}
	}
	bad := Remote{URL: url, Bundle: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("no bundle")), nil }}
	if err := newClient(t).Checkout(ctx, &Source{Remote: bad, Commit: second}, t.TempDir()); err == nil {
		t.Error("what is no bundle was imported")
	}
}

// TestObjects checks that a tag and its commit are given as they are stored, and a commit alone without a tag.
func TestObjects(t *testing.T) {
	r, first, _ := sample(t)
	s := gittest.Serve(t, gittest.Smart)
	url := s.Publish(r, "r.git")
	tag := strings.TrimSpace(r.Git("rev-parse", "annotated"))
	for hash, wantTag := range map[string]bool{tag: true, first: false} {
		got, err := newClient(t).Objects(context.Background(), &Source{Remote: Remote{URL: url}, Commit: hash})
		if err != nil {
			t.Fatal(err)
		}
		if (len(got.Tag) > 0) != wantTag || wantTag && !strings.HasPrefix(string(got.Tag), "object ") || !strings.HasPrefix(string(got.Commit), "tree ") {
			t.Errorf("%s: got %q and %q", hash, got.Tag, got.Commit)
		}
	}
}

// TestHostileRefs checks that nothing that a definition says of a repository becomes an option of the git program or runs
// anything, whichever of the three results it asks for, a bundle among them (CVE-2026-15793, CVE-2019-13139).
func TestHostileRefs(t *testing.T) {
	outside, intact := canary(t)
	r, _, second := sample(t)
	url := gittest.Serve(t, gittest.Smart).Publish(r, "r.git")
	c := newClient(t)
	log := filepath.Join(t.TempDir(), "arguments")
	c.wrap = append([]string{"/bin/sh", "-c", `printf '%s\n' "$@" >> ` + log + `; exec "$@"`, "sh"}, c.wrap...)
	run := "touch " + outside + "/ran"
	ctx := context.Background()
	for _, evil := range []string{
		"--upload-pack=" + run, "--upload-pack=" + strings.ReplaceAll(run, " ", "${IFS}"), "-u" + outside, "--exec=x", "--output=" + outside + "/ran",
		"-", "--", "ext::sh -c " + run, "+refs/*:refs/*", "*", "a:refs/heads/b", "refs/heads/main:../../x", "^main", "main..", "../../" + outside, "a\x00b", "$(" + run + ")",
		"@{-1}", "`" + run + "`", "refs/tags/--all", "refs/heads/../../../config",
	} {
		for _, q := range []*Query{{Ref: evil}, {Checksum: evil}, {Ref: evil, Checksum: second, ByCommit: true}, {Checksum: evil, ByCommit: true}, {Ref: "main", Checksum: evil}} {
			q.Remote = Remote{URL: url}
			got, err := c.Resolve(ctx, q)
			if err == nil && (got.Commit != second || q.Checksum != second) {
				t.Errorf("%q is %+v", evil, got)
			}
		}
		for _, src := range []Source{{Commit: evil}, {Commit: second, Ref: evil}, {Commit: evil, Ref: evil}} {
			for _, keep := range []bool{false, true} {
				src.Remote, src.KeepDir = Remote{URL: url}, keep
				_ = c.Checkout(ctx, &src, t.TempDir()) // it may not matter: all that is needed is the commit
				_ = c.CheckoutBundle(ctx, &src, t.TempDir())
			}
		}
		for _, remote := range []string{evil, "https://" + evil, "ssh://host/" + evil, "ssh://" + evil + "/x", "git@" + evil + ":x", "git@host:" + evil} {
			if strings.Contains(evil, "::") || strings.HasPrefix(evil, "-") {
				if _, err := c.Resolve(ctx, &Query{Remote: Remote{URL: remote}, Ref: second, Checksum: second}); err != nil {
					continue
				}
				if err := c.CheckoutBundle(ctx, &Source{Remote: Remote{URL: remote}, Commit: strings.Repeat("1", 40)}, t.TempDir()); err == nil {
					t.Errorf("the repository %q is there", remote)
				}
			}
		}
		intact()
	}
	words, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"\n--upload-pack", "\n-u" + outside, "\n--exec", "\n--output", "\next::", "\n-\n", "\n--all"} {
		if strings.Contains(string(words), bad) {
			t.Errorf("git was given the argument %q", bad)
		}
	}
	if !strings.Contains(string(words), "\nls-remote\n--\n") || !strings.Contains(string(words), "\nbundle\n") {
		t.Error("the arguments are not those of git")
	}
}
