package run

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/proto/git"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run/signature"
	"github.com/boxbuild/boxbuild/solver/session"
)

// verifyGit checks the signature of what src was found to mean: that of the tag by which it was found, or else of the commit.
func (r *Runner) verifyGit(ctx context.Context, src *op.Git, m *GitMeta, remote *git.Remote) error {
	hash := m.Hash
	if src.FetchByCommit && strings.HasPrefix(m.Ref, "refs/tags/") { // which nobody was asked for
		found, err := r.deps.Git.Resolve(ctx, &git.Query{Remote: *remote, Ref: m.Ref, KeepTag: true})
		if err != nil {
			return err
		}
		hash = found.Commit
	}
	objects, err := r.deps.Git.Objects(ctx, &git.Source{Remote: *remote, Commit: hash, Ref: m.Ref})
	if err != nil {
		return err
	}
	want := src.Signature
	keys, policy := []byte(want.PublicKeys), signature.Policy{RejectExpired: want.RejectExpired}
	var tagErr error
	if len(objects.Tag) > 0 && !want.IgnoreSignedTag {
		if hash != m.Commit && !bytes.HasPrefix(objects.Tag, []byte("object "+m.Commit+"\n")) {
			return errors.New("the tag is not one of that commit, or is one of another tag")
		}
		if tagErr = signature.Git(objects.Tag, keys, policy); tagErr == nil {
			return nil
		}
	}
	if want.RequireSignedTag {
		return cmp.Or(tagErr, errors.New("signed tag required but no signed tag found"))
	}
	return signature.Git(objects.Commit, keys, policy)
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
	checkout := r.deps.Git.Checkout
	if src.CheckoutBundle {
		checkout = r.deps.Git.CheckoutBundle
	}
	if err := checkout(ctx, gitSource(src, remote), target.Dir); err != nil {
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
	if err := checkBundle(src); err != nil {
		return nil, nil, err
	}
	remote = &git.Remote{URL: src.Remote, KnownHosts: src.KnownHosts}
	if src.Bundle != "" {
		remote.Bundle = func(ctx context.Context) (io.ReadCloser, error) { return gitBundle(ctx, src) }
		return remote, func() {}, nil
	}
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

// Schemes of blobs, as in LLB.
const (
	imageBlob  = "docker-image+blob"
	layoutBlob = "oci-layout+blob"
)

// checkBundle refuses what cannot be in one source.
func checkBundle(src *op.Git) error {
	switch {
	case src.CheckoutBundle && src.KeepGitDir:
		return errors.New("git.checkoutbundle is incompatible with git.keepgitdir")
	case src.CheckoutBundle && src.Subdir != "":
		return errors.New("git.checkoutbundle is incompatible with git.subdir")
	case src.Bundle != "" && src.Checksum == "" && src.Commit == "":
		return errors.New("git.bundle requires git.checksum to be set")
	}
	return nil
}

// gitBundle opens the bundle of a source.
func gitBundle(ctx context.Context, src *op.Git) (io.ReadCloser, error) {
	scheme, rest, _ := strings.Cut(src.Bundle, "://")
	ref, dgst, ok := strings.Cut(rest, "@")
	b := &op.Blob{Ref: ref, Digest: digest.Digest(dgst), Layout: scheme == layoutBlob}
	if !ok || scheme != imageBlob && scheme != layoutBlob || b.Digest.Validate() != nil {
		return nil, fmt.Errorf("git.bundle %q is no %s:// or %s:// reference with a digest", src.Bundle, imageBlob, layoutBlob)
	}
	if b.Layout {
		b.Session, b.Store = src.BundleSession, cmp.Or(src.BundleStore, ref)
	}
	return openBlob(ctx, b)
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
