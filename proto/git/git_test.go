package git

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/proto/git/gittest"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

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

// TestServers checks that every ref is found, and each commit written, from every kind of server and with both kinds of
// hashes. Commits that are no branch's any more are what servers differ in most.
func TestServers(t *testing.T) {
	for _, kind := range gittest.Kinds {
		for _, format := range []string{"sha1", "sha256"} {
			if format == "sha256" && kind == gittest.Daemon {
				continue // it speaks what the smart server speaks
			}
			t.Run(string(kind)+"/"+format, func(t *testing.T) {
				t.Parallel()
				r, first, second := sample(t, "--object-format="+format)
				url := gittest.Serve(t, kind).Publish(r, "r.git")
				c := newClient(t)
				for ref, want := range map[string]Resolved{
					"":                    {Ref: "refs/heads/main", Commit: second},
					"main":                {Ref: "refs/heads/main", Commit: second},
					"heads/main":          {Ref: "refs/heads/main", Commit: second},
					"light":               {Ref: "refs/tags/light", Commit: first},
					"refs/tags/annotated": {Ref: "refs/tags/annotated", Commit: first},
					"side/way":            {Ref: "refs/heads/side/way", Commit: first},
					"refs/pull/1/head":    {Ref: "refs/pull/1/head", Commit: first},
					"pull/1/head":         {Ref: "refs/pull/1/head", Commit: first},
					first:                 {Ref: "", Commit: first},
				} {
					q := &Query{Remote: Remote{URL: url}, Ref: ref}
					if got, err := c.Resolve(context.Background(), q); err != nil || got != want {
						t.Errorf("Resolve(%q) = %v, %v, want %v", ref, got, err, want)
					}
				}
				for ref, want := range map[string][]string{"": filesTwo, "annotated": filesOne, first: filesOne} {
					// A client of its own has nothing from the ref before.
					dir, err := checkOut(t, newClient(t), &Query{Remote: Remote{URL: url}, Ref: ref}, nil)
					if err != nil {
						t.Errorf("checking out %q: %v", ref, err)
						continue
					}
					wantFiles(t, dir, want...)
				}
			})
		}
	}
}

// TestOldProtocol checks servers that give single commits only if a ref names them, or no shallow clones of them.
func TestOldProtocol(t *testing.T) {
	r := gittest.New(t)
	r.Write("a", "one")
	hidden := r.Commit("first") // no ref names it
	r.Write("a", "two")
	r.Commit("second")
	s := gittest.Serve(t, gittest.Smart)
	s.OldProtocol()
	url := s.Publish(r, "r.git")
	c := newClient(t)
	dir, err := checkOut(t, c, &Query{Remote: Remote{URL: url}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, "f-rw-r--r-- a=two")
	// The mirror is shallow by now.
	dir, err = checkOut(t, c, &Query{Remote: Remote{URL: url}, Ref: hidden}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, "f-rw-r--r-- a=one")
	missing := strings.Repeat("1", 40)
	_, err = checkOut(t, c, &Query{Remote: Remote{URL: url}, Ref: missing}, nil)
	if err == nil || !strings.Contains(err.Error(), "the repository has no commit "+missing) {
		t.Errorf("a commit that is not there: %v", err)
	}
}

// TestResolveErrors checks what is refused, and BuildKit's words where it refuses the same.
func TestResolveErrors(t *testing.T) {
	r, first, second := sample(t)
	url := gittest.Serve(t, gittest.Smart).Publish(r, "r.git")
	tag := r.Git("rev-parse", "annotated")
	c := newClient(t)
	for _, tt := range []struct {
		ref, sum string
		by       bool
		want     string
	}{
		{"none", "", false, "repository does not contain ref none"},
		{"HEAD", "", false, "repository does not contain ref HEAD"},
		{first[:10], "", false, "by its full hash"},
		{"-x", "", false, `invalid git ref "-x"`},
		{"--upload-pack=touch x", "", false, `invalid git ref "--upload-pack=touch x"`},
		{"a b", "", false, `invalid git ref "a b"`},
		{"a\nb", "", false, "invalid git ref"},
		{"main", "xyz", false, "invalid checksum xyz for Git URL, expected hex commit hash"},
		{"main", first[:8], false, "expected checksum to match " + first[:8] + ", got " + second},
		{first, "0123", false, "expected checksum to match 0123, got " + first},
		{"annotated", "0123", false, "expected checksum to match 0123, got " + tag + " or " + first},
		{"main", "", true, "fetch-by-commit requires a checksum or a commit SHA ref"},
		{"main", "abc", true, `fetch-by-commit requires a full commit SHA checksum, got "abc"`},
	} {
		_, err := c.Resolve(context.Background(), &Query{Remote: Remote{URL: url}, Ref: tt.ref, Checksum: tt.sum, ByCommit: tt.by})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Resolve(%q, %q): %v, want %q", tt.ref, tt.sum, err, tt.want)
		}
	}
	for _, sum := range []string{tag[:7], first[:7]} {
		for keep, want := range map[bool]string{false: first, true: tag} {
			q := &Query{Remote: Remote{URL: url}, Ref: "annotated", Checksum: sum, KeepTag: keep}
			if got, err := c.Resolve(context.Background(), q); err != nil || got.Commit != want || (got.Peeled == first) != keep {
				t.Errorf("Resolve with checksum %s, keeping the tag %v: %v, %v, want %s", sum, keep, got, err, want)
			}
		}
	}
	q := &Query{Remote: Remote{URL: "http://127.0.0.1:1/none.git"}, Ref: "topic", Checksum: first, ByCommit: true}
	if got, err := c.Resolve(context.Background(), q); err != nil || got != (Resolved{Ref: "refs/heads/topic", Commit: first}) {
		t.Errorf("by commit: %v, %v", got, err)
	}
}

// TestMirror checks that a commit is fetched once, that a new one does not fetch the old again, and what is left of it all
// in the time of a commit.
func TestMirror(t *testing.T) {
	r, first, _ := sample(t)
	s := gittest.Serve(t, gittest.Smart)
	url := s.Publish(r, "r.git")
	c := newClient(t)
	ctx := context.Background()
	src := &Source{Remote: Remote{URL: url}, Commit: first, CommitTime: true}
	var wait sync.WaitGroup
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		wait.Go(func() {
			if err := c.Checkout(ctx, src, dir); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	once := s.Requests()
	for _, dir := range dirs {
		wantFiles(t, dir, filesOne...)
		for _, name := range []string{"", "a", "dir", "dir/link", "dir/run"} {
			info, err := os.Lstat(filepath.Join(dir, name))
			if err != nil || info.ModTime().Unix() != gittest.Time {
				t.Errorf("the time of %q is %v, %v", name, info.ModTime(), err)
			}
		}
	}
	if when, err := c.CommitTime(ctx, src); err != nil || when.Unix() != gittest.Time {
		t.Errorf("CommitTime = %v, %v", when, err)
	}
	if s.Requests() != once {
		t.Errorf("%d requests for what was there", s.Requests()-once)
	}
	s2 := gittest.Serve(t, gittest.Smart)
	s2.Publish(r, "r.git")
	if err := c.Checkout(ctx, &Source{Remote: Remote{URL: s2.URL + "/r.git"}, Commit: first}, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if per := s2.Requests(); once > per {
		t.Errorf("three checkouts at once made %d requests, one makes %d", once, per)
	}
}

// TestEvict checks that mirrors go when there are too many bytes, those first that nobody used for longest, and that a
// mirror in use stays.
func TestEvict(t *testing.T) {
	r, first, _ := sample(t)
	s := gittest.Serve(t, gittest.Smart)
	c := newClient(t)
	ctx := context.Background()
	for i, name := range []string{"a.git", "b.git", "c.git"} {
		url := s.Publish(r, name)
		if err := c.Checkout(ctx, &Source{Remote: Remote{URL: url}, Commit: first}, t.TempDir()); err != nil {
			t.Fatal(err)
		}
		m, release := c.acquire(url, 40)
		release()
		when := time.Unix(int64(1000*(i+1)), 0)
		if err := os.Chtimes(m.dir, when, when); err != nil {
			t.Fatal(err)
		}
	}
	has := func(name string) bool {
		m, release := c.acquire(s.URL+"/"+name, 40)
		defer release()
		return c.has(ctx, m, first)
	}
	_, release := c.acquire(s.URL+"/a.git", 40)
	freed, err := c.Prune(ctx, c.Usage()-1)
	if err != nil || freed == 0 {
		t.Errorf("Prune = %d, %v", freed, err)
	}
	if !has("a.git") || has("b.git") || !has("c.git") {
		t.Errorf("left are a: %v, b: %v, c: %v; a is in use and c was used later", has("a.git"), has("b.git"), has("c.git"))
	}
	release()
	if _, err := c.Prune(ctx, 0); err != nil || c.Usage() != 0 {
		t.Errorf("%d bytes are left, %v", c.Usage(), err)
	}
	if err := c.Checkout(ctx, &Source{Remote: Remote{URL: s.URL + "/a.git"}, Commit: first}, t.TempDir()); err != nil {
		t.Errorf("after everything was removed: %v", err)
	}
}

// TestManyFetches checks that packs are joined.
func TestManyFetches(t *testing.T) {
	r := gittest.New(t)
	s := gittest.Serve(t, gittest.Dumb)
	c := newClient(t)
	for i := range maxPacks + 3 {
		r.Write("a", strings.Repeat("x", i))
		r.Commit("x")
	}
	url := s.Publish(r, "r.git")
	m, release := c.acquire(url, 40)
	defer release()
	if err := c.initMirror(context.Background(), m, 40); err != nil {
		t.Fatal(err)
	}
	for _, hash := range strings.Fields(r.Git("rev-list", "--reverse", "main")) {
		r.Git("--git-dir="+m.dir, "-c", "fetch.unpackLimit=1", "fetch", "-q", "file://"+r.Dir+"/.git", hash+":"+keepRef(hash))
	}
	c.consolidate(context.Background(), m)
	packs, _ := filepath.Glob(filepath.Join(m.dir, "objects/pack/*.pack"))
	if len(packs) == 0 || len(packs) > 3 {
		t.Errorf("%d packs", len(packs))
	}
	r.Git("--git-dir="+m.dir, "fsck", "--strict")
}

// TestNoProgram checks what a machine without git says.
func TestNoProgram(t *testing.T) {
	c, err := New(Options{Dir: t.TempDir(), Program: "no-such-program"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Resolve(context.Background(), &Query{Remote: Remote{URL: "http://127.0.0.1:1/a.git"}})
	if !errors.Is(err, ErrNoProgram) || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("%v", err)
	}
}

// TestLeftovers checks that a new client removes what one that was killed has left, and can use its mirrors, locked as
// they are.
func TestLeftovers(t *testing.T) {
	r, first, second := sample(t)
	url := gittest.Serve(t, gittest.Smart).Publish(r, "r.git")
	dir := t.TempDir()
	c, err := New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Checkout(context.Background(), &Source{Remote: Remote{URL: url}, Commit: first}, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	m, release := c.acquire(url, 40)
	release()
	for _, name := range []string{filepath.Join(m.dir, "shallow.lock"), filepath.Join(c.scratch(), "index-1")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if c, err = New(Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if err := c.Checkout(context.Background(), &Source{Remote: Remote{URL: url}, Commit: second}, t.TempDir()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(c.scratch()); err != nil || len(left) > 0 {
		t.Errorf("left in the scratch directory: %v, %v", left, err)
	}
}

// TestCancel checks that git ends with its context while a server does not answer.
func TestCancel(t *testing.T) {
	asked, end := make(chan struct{}), make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-end
	}))
	defer web.Close()
	defer close(end)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	stopped := errors.New("stopped")
	go func() {
		<-asked
		cancel(stopped)
	}()
	_, err := newClient(t).Resolve(ctx, &Query{Remote: Remote{URL: web.URL + "/a.git"}})
	if !errors.Is(err, stopped) {
		t.Errorf("%v", err)
	}
}

// TestUmask checks that files get the usual modes whatever the umask of the process is.
func TestUmask(t *testing.T) {
	r, first, _ := sample(t)
	url := gittest.Serve(t, gittest.Smart).Publish(r, "r.git")
	c := newClient(t)
	c.wrap = []string{"/bin/sh", "-c", `umask 022 && exec "$@"`, "sh"}
	inner := c.wrap
	c.wrap = append([]string{"/bin/sh", "-c", `umask 077 && exec "$@"`, "sh"}, inner...)
	dir := t.TempDir()
	if err := c.Checkout(context.Background(), &Source{Remote: Remote{URL: url}, Commit: first}, dir); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, filesOne...)
}
