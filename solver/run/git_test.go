package run_test

import (
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/git/gittest"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/session"
)

// repository publishes a repository with two commits, the first of which is tagged "v1".
func repository(t *testing.T) (s *gittest.Server, url, first string) {
	t.Helper()
	r := gittest.New(t)
	r.Write("dir/f", "one")
	first = r.Commit("one")
	r.Git("tag", "-a", "-m", "x", "v1")
	r.Write("dir/f", "two")
	r.Commit("two")
	s = gittest.Serve(t, gittest.Smart)
	return s, s.Publish(r, "r.git"), first
}

// pinGit pins src and returns its vertex.
func (r *rig) pinGit(src *op.Git) (*op.Git, *solver.Vertex) {
	r.t.Helper()
	ctx := r.t.Context()
	if r.session != nil {
		ctx = session.With(ctx, r.session)
	}
	pinned, err := r.runner.PinGit(ctx, src)
	if err != nil {
		r.t.Fatal(err)
	}
	return pinned, solver.NewVertex(pinned, nil, solver.Meta{Name: src.String()})
}

// TestGit checks that a repository becomes a snapshot, that its time is known, that what a ref means is asked again and
// what a commit has is not.
func TestGit(t *testing.T) {
	r := newRig(t)
	server, url, first := repository(t)
	src := &op.Git{Remote: url, Ref: "v1", CommitTime: true}
	pinned, v := r.pinGit(src)
	if pinned.Commit != first || pinned.Ref != "refs/tags/v1" || src.Commit != "" {
		t.Fatalf("pinned to %+v, from %+v", pinned, src)
	}
	res, err := r.solve(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	tree, done, err := r.runner.Open(lease.With(t.Context(), r.lease), res)
	if err != nil {
		t.Fatal(err)
	}
	f, err := tree.Open(t.Context(), "/dir/f")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if got := string(text); err != nil || got != "one" {
		t.Errorf("the file has %q, %v", got, err)
	}
	f.Close()
	done()
	if when, err := r.runner.GitTime(t.Context(), pinned); err != nil || when.Unix() != gittest.Time {
		t.Errorf("GitTime = %v, %v", when, err)
	}
	asked := server.Requests()
	byHash, again := r.pinGit(&op.Git{Remote: "http://127.0.0.1:1/elsewhere.git", Ref: first, CommitTime: true})
	if byHash.Commit != first {
		t.Errorf("pinned to %+v", byHash)
	}
	if other, err := r.solve(t.Context(), again); err != nil || other != res {
		t.Errorf("the same commit is %q, %v; it was %q", other, err, res)
	}
	if server.Requests() != asked {
		t.Error("a commit was asked for again")
	}
	if kept, _ := r.pinGit(&op.Git{Remote: url, Ref: "v1", KeepGitDir: true}); kept.Commit == first {
		t.Error("a kept .git directory has the commit of a tag, but not the tag")
	}
	if kept, _ := r.pinGit(&op.Git{Remote: url, Ref: "v1", KeepGitDir: true, Subdir: "dir"}); kept.Commit != first {
		t.Error("a subdirectory has no .git directory, so the tag does not matter")
	}
	for name, bad := range map[string]*op.Git{
		"ref":      {Remote: url, Ref: "none"},
		"scheme":   {Remote: "ext::sh -c id", Ref: "main"},
		"checksum": {Remote: url, Ref: "main", Checksum: first},
		"agent":    {Remote: "git@127.0.0.1:x", Ref: "main", SSH: "default"},
	} {
		if got, err := r.runner.PinGit(t.Context(), bad); err == nil {
			t.Errorf("%s: pinned to %+v", name, got)
		} else if name == "agent" && (!errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "--ssh default")) {
			t.Errorf("without an agent: %v", err)
		}
	}
	unpinned := solver.NewVertex(&op.Git{Remote: url}, nil, solver.Meta{Name: "x"})
	if _, err := r.solve(t.Context(), unpinned); err == nil || !strings.Contains(err.Error(), "not pinned") {
		t.Errorf("an unpinned repository: %v", err)
	}
}

// TestGitFails checks that a checkout that fails leaves no snapshot and no draft.
func TestGitFails(t *testing.T) {
	r := newRig(t)
	_, url, _ := repository(t)
	_, v := r.pinGit(&op.Git{Remote: url, Subdir: "dir/f"})
	if _, err := r.solve(t.Context(), v); err == nil || !strings.Contains(err.Error(), "non-directory") {
		t.Errorf("%v", err)
	}
	for info, err := range r.snaps.All(t.Context()) {
		t.Errorf("left behind: %+v, %v", info, err)
	}
	if left, err := os.ReadDir(filepath.Join(r.dir, "git", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestGitSecrets checks which of a client's secrets lets git in: one for the host before one for all, a header before a
// token; and that none is asked for where it would be of no use.
func TestGitSecrets(t *testing.T) {
	r := newRig(t)
	server, url, _ := repository(t)
	host := strings.TrimPrefix(strings.TrimSuffix(url, "/r.git"), "http://")
	token := func(s string) string {
		return "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+s))
	}
	for name, tt := range map[string]struct {
		secrets map[string]string
		want    string
	}{
		"token":           {map[string]string{"GIT_AUTH_TOKEN": "all\n"}, token("all")},
		"token for host":  {map[string]string{"GIT_AUTH_TOKEN": "all", "GIT_AUTH_TOKEN." + host: "own"}, token("own")},
		"header":          {map[string]string{"GIT_AUTH_HEADER": "Bearer x\n", "GIT_AUTH_TOKEN": "all"}, "Bearer x"},
		"header for host": {map[string]string{"GIT_AUTH_HEADER": "no", "GIT_AUTH_HEADER." + host: "yes", "GIT_AUTH_TOKEN." + host: "no"}, "yes"},
		"host goes first": {map[string]string{"GIT_AUTH_HEADER": "no", "GIT_AUTH_TOKEN." + host: "own"}, token("own")},
	} {
		server.Require(tt.want)
		r.session = &holder{secrets: tt.secrets}
		src := &op.Git{Remote: url, AuthTokenSecret: op.GitAuthToken, AuthHeaderSecret: op.GitAuthHeader}
		pinned, _ := r.pinGit(src)
		if pinned.Commit == "" {
			t.Errorf("%s: not let in", name)
		}
	}
	h := &holder{}
	_, err := r.runner.PinGit(session.With(t.Context(), h), &op.Git{
		Remote: url, AuthTokenSecret: op.GitAuthToken, AuthHeaderSecret: op.GitAuthHeader,
	})
	want := []string{"GIT_AUTH_HEADER." + host, "GIT_AUTH_TOKEN." + host, "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"}
	if err == nil || !strings.Contains(err.Error(), "--secret id=GIT_AUTH_TOKEN") || !slices.Equal(h.asked, want) {
		t.Errorf("without a secret: %v, asked for %v, want %v", err, h.asked, want)
	}
	h = &holder{}
	_, _ = r.runner.PinGit(session.With(t.Context(), h), &op.Git{ // nobody listens there
		Remote: "git://127.0.0.1:1/x", AuthTokenSecret: op.GitAuthToken, AuthHeaderSecret: op.GitAuthHeader,
	})
	if len(h.asked) > 0 {
		t.Errorf("asked for %v, which git:// has no use for", h.asked)
	}
}
