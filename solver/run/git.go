package run

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/boxbuild/boxbuild/proto/git"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/session"
)

// PinGit finds the commit that src means. Of the client it takes secrets and the SSH agent.
func (r *Runner) PinGit(ctx context.Context, src *op.Git) (*op.Git, error) {
	remote, done, err := r.gitRemote(ctx, src)
	if err != nil {
		return nil, err
	}
	defer done()
	found, err := r.deps.Git.Resolve(ctx, &git.Query{
		Remote: *remote, Ref: src.Ref, Checksum: src.Checksum, KeepTag: src.Keeps(), ByCommit: src.FetchByCommit,
	})
	if git.Denied(err) && src.AuthTokenSecret != "" {
		err = fmt.Errorf("%w (a secret can let the build in: --secret id=%s)", err, src.AuthTokenSecret)
	}
	if err != nil {
		return nil, err
	}
	pinned := *src
	pinned.Ref, pinned.Commit = found.Ref, found.Commit
	return &pinned, nil
}

// GitTime returns the time of the commit that a pinned src has, as its committer gave it.
func (r *Runner) GitTime(ctx context.Context, src *op.Git) (time.Time, error) {
	remote, done, err := r.gitRemote(ctx, src)
	if err != nil {
		return time.Time{}, err
	}
	defer done()
	return r.deps.Git.CommitTime(ctx, gitSource(src, remote))
}

func gitSource(src *op.Git, remote *git.Remote) *git.Source {
	return &git.Source{
		Remote: *remote, Commit: src.Commit, Ref: src.Ref, Subdir: src.Subdir, KeepDir: src.Keeps(),
		SkipSubmodules: src.SkipSubmodules, CommitTime: src.CommitTime,
	}
}

// runGit writes the tree of a pinned source.
func (r *Runner) runGit(ctx context.Context, step *solver.Step, src *op.Git) ([]solver.Result, error) {
	if !src.Pinned() {
		return nil, fmt.Errorf("fetching %s: it is not pinned", src)
	}
	remote, done, err := r.gitRemote(ctx, src)
	if err != nil {
		return nil, err
	}
	defer done()
	d := &draft{r: r, name: snapshot.Draft(newName())}
	m, err := r.deps.Snapshots.Prepare(ctx, d.name, "")
	if err != nil {
		return nil, err
	}
	defer d.discard(ctx)
	// The git program needs a path, and the mounts of a draft have none; what has nothing below it needs no mount.
	target, ok := layer.TargetOf(m)
	if !ok {
		return nil, errors.New("fetching a Git repository: the snapshotter gives no directory to write to")
	}
	if step.Log != nil {
		ctx = git.WithLogger(ctx, func(data []byte) { step.Log(solver.Stderr, data) })
	}
	if err := r.deps.Git.Checkout(ctx, gitSource(src, remote), target.Dir); err != nil {
		return nil, err
	}
	id, err := d.commit(ctx)
	if err != nil {
		return nil, err
	}
	return []solver.Result{ResultOf(id)}, nil
}

// gitRemote returns the remote of src with all that lets us in. done is called when it is not used any more.
func (r *Runner) gitRemote(ctx context.Context, src *op.Git) (remote *git.Remote, done func(), err error) {
	if r.deps.Git == nil {
		return nil, nil, errors.New("this daemon fetches no Git repositories")
	}
	remote = &git.Remote{URL: src.Remote, KnownHosts: src.KnownHosts}
	if remote.Header, err = gitHeader(ctx, src); err != nil {
		return nil, nil, err
	}
	if src.SSH == "" {
		return remote, func() {}, nil
	}
	s, err := session.Listen(ctx, r.deps.SocketDir, src.SSH, session.SocketFile{})
	if errors.Is(err, session.ErrNotFound) {
		return nil, nil, fmt.Errorf("reaching %s: %w: give the build an SSH agent (--ssh %s)", src, err, src.SSH)
	}
	if err != nil {
		return nil, nil, err
	}
	remote.AgentSocket = s.Path
	return remote, func() { _ = s.Close() }, nil // what is left of it are files in a temporary directory
}

// gitHeader returns the Authorization header that the client's secrets give for src; empty for none. One for the host
// goes before one for all, and a header before a token, as in BuildKit.
func gitHeader(ctx context.Context, src *op.Git) (string, error) {
	u, err := url.Parse(src.Remote)
	if err != nil || (!strings.EqualFold(u.Scheme, "http") && !strings.EqualFold(u.Scheme, "https")) {
		return "", nil //nolint:nilerr // no other protocol has headers
	}
	s := session.From(ctx)
	for _, suffix := range []string{"." + u.Host, ""} {
		for _, secret := range []struct {
			id    string
			token bool
		}{{src.AuthHeaderSecret, false}, {src.AuthTokenSecret, true}} {
			if secret.id == "" {
				continue
			}
			v, err := s.Secret(ctx, secret.id+suffix)
			if errors.Is(err, session.ErrNotFound) {
				continue
			}
			if err != nil {
				return "", fmt.Errorf("retrieving Git auth secret %s: %w", secret.id+suffix, err)
			}
			value := headerValue(v)
			if secret.token {
				value = "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+value))
			}
			return value, nil
		}
	}
	return "", nil
}
