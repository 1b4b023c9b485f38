package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A Host is the build that steps are run for, as far as they need more of it than its lease and its session.
type Host interface {
	// OpenBlob opens b in its registry, or in the OCI layout of the client whose session ctx carries. The content need not
	// be checked: it is where it is read.
	OpenBlob(ctx context.Context, b *op.Blob) (io.ReadCloser, error)
	// Nest solves a definition that a step has made, as a part of the build: what it returns is held by its lease.
	Nest(ctx context.Context, definition []byte) (solver.Result, error)
}

type hostKey struct{}

// WithHost returns a context for the sources and steps of a build.
func WithHost(ctx context.Context, h Host) context.Context {
	return context.WithValue(ctx, hostKey{}, h)
}

func hostOf(ctx context.Context) (Host, error) {
	h, _ := ctx.Value(hostKey{}).(Host)
	if h == nil {
		return nil, errors.New("it is part of no build")
	}
	return h, nil
}

// openBlob opens a blob, whose reader fails at its end if it has not the digest.
func openBlob(ctx context.Context, b *op.Blob) (io.ReadCloser, error) {
	if err := b.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("fetching %s: %w", b, err)
	}
	if b.Layout && b.Store == "" {
		return nil, fmt.Errorf("fetching %s: oci-layout blob source requires store id", b)
	}
	h, err := hostOf(ctx)
	var rc io.ReadCloser
	if err == nil {
		rc, err = h.OpenBlob(ctx, b)
	}
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", b, err)
	}
	return &verified{ReadCloser: rc, b: b, v: b.Digest.Verifier()}, nil
}

// A verified is a blob that is checked while it is read.
type verified struct {
	io.ReadCloser
	b *op.Blob
	v interface {
		io.Writer
		Verified() bool
	}
}

func (r *verified) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	_, _ = r.v.Write(p[:n]) // a hash
	if err == io.EOF && !r.v.Verified() {
		return n, fmt.Errorf("fetching %s: the content has another digest", r.b)
	}
	return n, err
}

// runBlob makes the tree that has a blob as a file, with the time 1970, as BuildKit does.
func (r *Runner) runBlob(ctx context.Context, b *op.Blob, report func(solver.Status)) ([]solver.Result, error) {
	rc, err := openBlob(ctx, b)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	d := r.newDownload(&op.HTTP{Name: b.Name(), Perm: b.Perm, UID: b.UID, GID: b.GID})
	d.report = report
	defer d.discard(ctx)
	if err := d.create(ctx, time.Time{}); err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(d, rc, make([]byte, 256<<10)); err != nil {
		return nil, err
	}
	id, err := d.commit(ctx)
	if err != nil {
		return nil, err
	}
	return []solver.Result{ResultOf(id)}, nil
}
