package run

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/boxbuild/boxbuild/proto/git"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A GitMeta is what a reference to a repository turned out to be.
type GitMeta struct {
	Ref string // the full name; empty if a hash was asked for
	// Hash is that of the annotated tag, or of the commit if there is none; Commit is that of the commit. Both are of one
	// answer of the remote.
	Hash, Commit string
}

// Pin returns src, pinned.
func (m *GitMeta) Pin(src *op.Git) *op.Git {
	pinned := *src
	pinned.Ref, pinned.Commit = m.Ref, m.Commit
	if src.Keeps() {
		pinned.Commit = m.Hash
	}
	return &pinned
}

// has says whether one of the hashes begins with sum.
func (m *GitMeta) has(sum string) bool {
	return strings.HasPrefix(m.Hash, sum) || strings.HasPrefix(m.Commit, sum)
}

// GitMeta asks the remote what src means, unless known, which may be nil, is what it has said already and what src wants. Of the
// client it takes secrets and the SSH agent.
func (r *Runner) GitMeta(ctx context.Context, src *op.Git, known *GitMeta) (*GitMeta, error) {
	remote, done, err := r.gitRemote(ctx, src)
	if err != nil {
		return nil, err
	}
	defer done()
	m := known
	if m == nil || !m.has(src.Checksum) {
		if m, err = r.askGit(ctx, src, remote); err != nil {
			return nil, err
		}
	}
	if src.Signature != nil {
		if err := r.verifyGit(ctx, src, m, remote); err != nil {
			return nil, fmt.Errorf("verifying the signature of %s: %w", m.Pin(src), err)
		}
	}
	return m, nil
}

func (r *Runner) askGit(ctx context.Context, src *op.Git, remote *git.Remote) (*GitMeta, error) {
	found, err := r.deps.Git.Resolve(ctx, &git.Query{
		Remote: *remote, Ref: src.Ref, Checksum: src.Checksum, KeepTag: true, ByCommit: src.FetchByCommit,
	})
	if git.Denied(err) && src.AuthTokenSecret != "" {
		err = fmt.Errorf("%w (a secret can let the build in: --secret id=%s)", err, src.AuthTokenSecret)
	}
	if err != nil {
		return nil, err
	}
	return &GitMeta{Ref: found.Ref, Hash: found.Commit, Commit: cmp.Or(found.Peeled, found.Commit)}, nil
}

// PinGit finds the commit that src means, as GitMeta does.
func (r *Runner) PinGit(ctx context.Context, src *op.Git) (*op.Git, error) {
	m, err := r.GitMeta(ctx, src, nil)
	if err != nil {
		return nil, err
	}
	return m.Pin(src), nil
}

// GitObjects returns what Git has of the commit and of the tag that src was found to mean. They are fetched if need be.
func (r *Runner) GitObjects(ctx context.Context, src *op.Git, m *GitMeta) (*git.Objects, error) {
	remote, done, err := r.gitRemote(ctx, src)
	if err != nil {
		return nil, err
	}
	defer done()
	return r.deps.Git.Objects(ctx, &git.Source{Remote: *remote, Commit: m.Hash, Ref: m.Ref})
}
