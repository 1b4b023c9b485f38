package run

import (
	"context"
	"strings"

	"github.com/boxbuild/boxbuild/proto/git"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A GitMeta is what a reference to a repository turned out to be.
type GitMeta struct {
	Ref    string // the full name; empty for a hash
	Hash   string // of what Ref names: of the tag, for an annotated one
	Commit string // that Hash leads to
	// Objects are nil unless they were asked for.
	Objects *git.Objects
}

// GitMeta asks the remote what src means, and with objects fetches the commit.
func (r *Runner) GitMeta(ctx context.Context, src *op.Git, objects bool) (*GitMeta, error) {
	whole := *src
	whole.KeepGitDir, whole.Subdir = true, "" // so that it is pinned to the tag itself
	found, err := r.PinGit(ctx, &whole)
	if err != nil {
		return nil, err
	}
	m := &GitMeta{Ref: found.Ref, Hash: found.Commit, Commit: found.Commit}
	if strings.HasPrefix(found.Ref, "refs/tags/") {
		whole.KeepGitDir = false
		at, err := r.PinGit(ctx, &whole)
		if err != nil {
			return nil, err
		}
		m.Commit = at.Commit
	}
	if !objects {
		return m, nil
	}
	remote, done, err := r.gitRemote(ctx, src)
	if err != nil {
		return nil, err
	}
	defer done()
	m.Objects, err = r.deps.Git.Objects(ctx, &git.Source{Remote: *remote, Commit: m.Hash, Ref: m.Ref})
	return m, err
}
