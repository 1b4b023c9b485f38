package git

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/git/gittest"
)

func newClient(t testing.TB) *Client {
	t.Helper()
	c, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// files returns the paths below dir with their modes and contents: "d0755 sub", "f0644 sub/a=text", "l link->target".
// What is in a .git directory is left out.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			out = append(out, "d "+rel)
			if e.Name() == ".git" {
				return filepath.SkipDir
			}
		case info.Mode()&os.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			out = append(out, "l "+rel+"->"+to)
		default:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out = append(out, "f"+info.Mode().Perm().String()+" "+rel+"="+strings.TrimSuffix(string(b), "\n"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkOut resolves a ref and writes its tree into a new directory.
func checkOut(t testing.TB, c *Client, q *Query, change func(*Source)) (string, error) {
	t.Helper()
	ctx := context.Background()
	got, err := c.Resolve(ctx, q)
	if err != nil {
		return "", err
	}
	src := &Source{Remote: q.Remote, Commit: got.Commit, Ref: got.Ref}
	if change != nil {
		change(src)
	}
	dir := t.TempDir()
	return dir, c.Checkout(ctx, src, dir)
}

func wantFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("files are\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// sample makes a repository with two commits, tags and branches.
func sample(t testing.TB, args ...string) (r *gittest.Repo, first, second string) {
	r = gittest.New(t, args...)
	r.Write("a", "one")
	r.Write("dir/run", "script")
	if err := os.Chmod(filepath.Join(r.Dir, "dir/run"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.Symlink("../a", "dir/link")
	first = r.Commit("first")
	r.Git("tag", "light")
	r.Git("tag", "-a", "-m", "message", "annotated")
	r.Git("branch", "side/way")
	r.Write("a", "two")
	second = r.Commit("second")
	r.Git("update-ref", "refs/pull/1/head", first)
	return r, first, second
}

var (
	filesOne = []string{"f-rw-r--r-- a=one", "d dir", "l dir/link->../a", "f-rwxr-xr-x dir/run=script"}
	filesTwo = []string{"f-rw-r--r-- a=two", "d dir", "l dir/link->../a", "f-rwxr-xr-x dir/run=script"}
)

// TestServers checks that every ref is found and written from every kind of server, and both kinds of hashes.
func TestServers(t *testing.T) {
	for _, kind := range gittest.Kinds {
		for _, format := range []string{"sha1", "sha256"} {
			t.Run(string(kind)+"/"+format, func(t *testing.T) {
				t.Parallel()
				r, first, second := sample(t, "--object-format="+format)
				s := gittest.Serve(t, kind)
				url := s.Publish(r, "r.git")
				c := newClient(t)
				for _, tt := range []struct {
					ref, full, commit string
				}{
					{"", "refs/heads/main", second},
					{"main", "refs/heads/main", second},
					{"refs/heads/main", "refs/heads/main", second},
					{"heads/main", "refs/heads/main", second},
					{"light", "refs/tags/light", first},
					{"annotated", "refs/tags/annotated", first},
					{"refs/tags/annotated", "refs/tags/annotated", first},
					{"side/way", "refs/heads/side/way", first},
					{"refs/pull/1/head", "refs/pull/1/head", first},
					{"pull/1/head", "refs/pull/1/head", first},
					{first, "", first},
					{second, "", second},
				} {
					q := &Query{Remote: Remote{URL: url}, Ref: tt.ref}
					got, err := c.Resolve(context.Background(), q)
					if err != nil {
						t.Errorf("Resolve(%q): %v", tt.ref, err)
						continue
					}
					if want := (Resolved{tt.full, tt.commit}); got != want {
						t.Errorf("Resolve(%q) = %v, want %v", tt.ref, got, want)
					}
					// A client of its own: nothing is there from the ref before.
					dir, err := checkOut(t, newClient(t), q, nil)
					if err != nil {
						t.Errorf("checking out %q: %v", tt.ref, err)
						continue
					}
					want := filesTwo
					if tt.commit == first {
						want = filesOne
					}
					wantFiles(t, dir, want...)
				}
			})
		}
	}
}
