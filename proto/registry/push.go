package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// commitPatience is how many StallTimeouts a registry may take to store what it was sent.
const commitPatience = 10

// How says how a blob came to be in a repository.
type How int

// The ways.
const (
	Uploaded How = iota
	Existed      // it was there already
	Mounted      // the registry took it from another repository
)

// String returns the way in a word, for progress lines.
func (h How) String() string { return [...]string{"pushed", "exists", "mounted"}[h] }

// HasBlob says whether a repository has a blob.
func (c *Client) HasBlob(ctx context.Context, repo Repo, desc Descriptor) (bool, error) {
	if err := errors.Join(repo.check(), checkDescriptor(desc)); err != nil {
		return false, err
	}
	var has bool
	err := c.retry(ctx, func() (err error) {
		has, err = c.hasBlob(ctx, repo, desc)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", repo.At(desc.Digest), err)
	}
	return has, nil
}

func (c *Client) hasBlob(ctx context.Context, repo Repo, desc Descriptor) (bool, error) {
	resp, err := c.once(ctx, c.origin(repo.Host), &request{
		method: http.MethodHead, repo: repo.Path, rest: "blobs/" + desc.Digest.String(),
		scopes: []string{pushScope(repo.Path)}, about: repo.At(desc.Digest).String(),
		expect: []int{http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed},
	})
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK, nil
}

// Mount asks the registry to take a blob from another repository on the same host. It returns false if the registry
// would rather have it uploaded.
func (c *Client) Mount(ctx context.Context, repo Repo, desc Descriptor, from Repo) (bool, error) {
	if err := errors.Join(repo.check(), from.check(), checkDescriptor(desc)); err != nil {
		return false, err
	}
	if repo.Host != from.Host || repo.Path == from.Path {
		return false, nil
	}
	var at *url.URL
	err := c.retry(ctx, func() (err error) {
		at, err = c.mount(ctx, repo, desc, from)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("mounting %s from %s: %w", repo.At(desc.Digest), from, err)
	}
	if at != nil {
		c.abandon(ctx, repo, at)
	}
	return at == nil, nil
}

// PushBlob sees to it that a repository has a blob: it looks whether it is there, then asks the registry to mount it from
// each of mountFrom, of which those on other hosts are passed over, and only then uploads what open returns. open may be
// called several times, also after an earlier reader was read in part; its bytes are what desc says, which the registry
// verifies. An upload that fails begins again in a new session.
//
// An upload takes one of the registry's transfer slots.
func (c *Client) PushBlob(
	ctx context.Context, repo Repo, desc Descriptor, open func() (io.ReadCloser, error), mountFrom []Repo,
) (How, error) {
	if err := errors.Join(repo.check(), checkDescriptor(desc)); err != nil {
		return 0, err
	}
	release, err := c.acquire(ctx, slotKey{repo.Host, true})
	if err != nil {
		return 0, err
	}
	defer release()
	p := &blobPush{c: c, repo: repo, desc: desc, open: open, chunk: c.opts.Hosts[repo.Host].ChunkSize}
	for _, from := range mountFrom {
		if from.Host == repo.Host && from.Path != repo.Path && from.check() == nil && !slices.Contains(p.from, from) {
			p.from = append(p.from, from)
		}
	}
	var how How
	err = c.retry(ctx, func() (err error) {
		how, err = p.attempt(ctx)
		var status *StatusError
		if errors.As(err, &status) && status.Status == http.StatusRequestEntityTooLarge && p.chunk == 0 &&
			desc.Size > fallbackChunk {
			p.chunk = fallbackChunk
			how, err = p.attempt(ctx)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("pushing %s: %w", repo.At(desc.Digest), err)
	}
	return how, nil
}

// PushManifest stores a manifest or index under ref, which is a tag or the document's digest. Everything it refers to
// must be in the repository.
func (c *Client) PushManifest(ctx context.Context, ref Ref, mediaType types.MediaType, b []byte) (Descriptor, error) {
	desc := Descriptor{MediaType: mediaType, Digest: SumDigest(b), Size: int64(len(b))}
	if err := ref.check(); err != nil {
		return Descriptor{}, err
	}
	if ref.Tag == "" {
		if err := verifyBytes(b, ref.Digest); err != nil {
			return Descriptor{}, fmt.Errorf("pushing %s: %w", ref, err)
		}
		desc.Digest = ref.Digest
	}
	at := ref
	if ref.Tag != "" { // the tag is what is to be set, even if the digest is known
		at = ref.Repo.Tag(ref.Tag)
	}
	err := c.retry(ctx, func() error {
		resp, err := c.once(ctx, c.origin(ref.Host), &request{
			method: http.MethodPut, repo: ref.Path, rest: "manifests/" + at.name(), scopes: []string{pushScope(ref.Path)},
			header: http.Header{"Content-Type": {string(mediaType)}}, about: ref.String(),
			body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
			size: int64(len(b)), patience: commitPatience * c.opts.StallTimeout,
			expect: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted, http.StatusNoContent},
		})
		if err != nil {
			return err
		}
		defer drain(resp.Body)
		if said := resp.Header.Get("Docker-Content-Digest"); said != "" && said != desc.Digest.String() {
			return fmt.Errorf("%w: the registry calls %s %s", ErrDigest, desc.Digest, printable(said, 160))
		}
		return nil
	})
	if err != nil {
		return Descriptor{}, fmt.Errorf("pushing %s: %w", ref, err)
	}
	return desc, nil
}

// Ping says whether a registry lets us in: with the credentials that it would get if it asks for some. Docker Hub may be
// called by any of its names.
func (c *Client) Ping(ctx context.Context, host string) error {
	if canonicalHost(host) == dockerHub {
		host = dockerHub
	}
	if err := (Repo{host, "library/x"}).check(); err != nil { // a path of one word is no canonical one on Docker Hub
		return fmt.Errorf("reaching %s: %w", host, err)
	}
	err := c.retry(ctx, func() error {
		resp, err := c.once(ctx, c.origin(host), &request{method: http.MethodGet, expect: []int{http.StatusOK}, about: host})
		if err == nil {
			drain(resp.Body)
		}
		return err
	})
	var status *StatusError
	switch {
	case errors.As(err, &status) && status.Status == http.StatusUnauthorized:
		return fmt.Errorf("the login is not accepted: %w", err)
	case err != nil:
		return fmt.Errorf("reaching %s: %w", host, err)
	}
	return nil
}

// abandon ends an upload session that is not wanted, as far as the registry is reached within a moment: it would
// otherwise keep what it has until its own clean-up.
func (c *Client) abandon(ctx context.Context, repo Repo, at *url.URL) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	resp, err := c.once(ctx, c.origin(repo.Host), &request{
		method: http.MethodDelete, url: at, repo: repo.Path, scopes: []string{pushScope(repo.Path)}, about: repo.String(),
		expect: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted},
	})
	if err == nil {
		resp.Body.Close()
	}
}
