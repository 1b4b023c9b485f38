package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A resolveKey is who asks what.
type resolveKey struct {
	ref Ref
	who fingerprint
}

// Resolve returns the descriptor of what a reference names now, in its own repository, also if the reference has a
// digest: that some other repository has the content says nothing about this one. Equal calls under way at the same
// time ask the registry once. Errors are ErrNotFound, ErrUnauthorized, ErrDigest, *StatusError.
func (c *Client) Resolve(ctx context.Context, ref Ref) (Descriptor, error) {
	if err := ref.check(); err != nil {
		return Descriptor{}, err
	}
	who := c.asker(ctx, c.origin(ref.Host), ref.Path)
	desc, err := c.resolves.do(ctx, resolveKey{ref, who.print}, func(ctx context.Context) (Descriptor, error) {
		var desc Descriptor
		err := c.pull(ctx, ref.Host, nil, func(ep *endpoint) (err error) {
			desc, err = c.resolveAt(ctx, ep, ref)
			return err
		})
		return desc, err
	})
	if err != nil {
		return Descriptor{}, resolveError(ref, err)
	}
	return desc, nil
}

// resolveError says in the words that users know from docker and BuildKit what an answer means, and then what it was.
func resolveError(ref Ref, err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%s: not found: %w", ref, err)
	case errors.Is(err, ErrUnauthorized):
		return fmt.Errorf("pull access denied for %s, repository does not exist or may require 'docker login': %w", ref.Repo, err)
	}
	return fmt.Errorf("resolving %s: %w", ref, err)
}

// resolveAt asks by HEAD, and by GET where that does not tell everything.
func (c *Client) resolveAt(ctx context.Context, ep *endpoint, ref Ref) (Descriptor, error) {
	resp, err := c.once(ctx, ep, manifestRequest(http.MethodHead, ref))
	if err == nil {
		resp.Body.Close()
		if desc, ok := describe(resp, ref); ok {
			return desc, nil
		}
	}
	// A refusal of HEAD has no body to say why, and may only mean that the registry does not know HEAD.
	var status *StatusError
	if err != nil && (!errors.As(err, &status) || serverFault(err)) {
		return Descriptor{}, err
	}
	desc, _, err := c.getAt(ctx, ep, ref)
	return desc, err
}

func manifestRequest(method string, ref Ref) *request {
	return &request{
		method: method, repo: ref.Path, rest: "manifests/" + ref.name(), scopes: []string{pullScope(ref.Path)},
		header: http.Header{"Accept": {strings.Join(accepted, ", ")}}, expect: []int{http.StatusOK}, about: ref.String(),
	}
}

// describe makes a descriptor of the headers of an answer. It returns false if they do not tell, or contradict ref; a
// GET then settles it.
func describe(resp *http.Response, ref Ref) (Descriptor, bool) {
	h, err := ParseDigest(resp.Header.Get("Docker-Content-Digest"))
	if err != nil || resp.ContentLength <= 0 || resp.ContentLength > MaxManifest {
		return Descriptor{}, false
	}
	if (ref.Digest != v1.Hash{}) && ref.Digest != h {
		return Descriptor{}, false
	}
	mt := baseType(resp.Header.Get("Content-Type"))
	if !mt.IsImage() && !mt.IsIndex() {
		return Descriptor{}, false
	}
	return Descriptor{MediaType: mt, Digest: h, Size: resp.ContentLength}, true
}

// Get returns what a reference names now and its bytes, in one request. Errors are those of Resolve and Decode.
func (c *Client) Get(ctx context.Context, ref Ref) (Descriptor, []byte, error) {
	return c.get(ctx, ref, func(Descriptor) error { return nil })
}

// get is Get for a document that check has to like, too: what it refuses may be right elsewhere.
func (c *Client) get(ctx context.Context, ref Ref, check func(Descriptor) error) (Descriptor, []byte, error) {
	if err := ref.check(); err != nil {
		return Descriptor{}, nil, err
	}
	var desc Descriptor
	var b []byte
	err := c.pull(ctx, ref.Host, nil, func(ep *endpoint) (err error) {
		if desc, b, err = c.getAt(ctx, ep, ref); err != nil {
			return err
		}
		return check(desc)
	})
	if err != nil {
		return Descriptor{}, nil, fmt.Errorf("pulling the manifest of %s: %w", ref, err)
	}
	return desc, b, nil
}

// Manifest returns the bytes of a manifest or index that a descriptor names. Errors are those of Get.
func (c *Client) Manifest(ctx context.Context, repo Repo, desc Descriptor) ([]byte, error) {
	_, b, err := c.get(ctx, repo.At(desc.Digest), func(got Descriptor) error {
		if desc.Size > 0 && got.Size != desc.Size {
			return fmt.Errorf("%w: it has %d bytes, its descriptor says %d", ErrDigest, got.Size, desc.Size)
		}
		if want := baseType(string(desc.MediaType)); want != "" && want != got.MediaType {
			return fmt.Errorf("%w: it is %s, its descriptor says %s", ErrManifest, got.MediaType, want)
		}
		return nil
	})
	return b, err
}

// getAt fetches a document, verifies it, and decodes it, so that one that is refused is refused before anything is made
// of it.
func (c *Client) getAt(ctx context.Context, ep *endpoint, ref Ref) (Descriptor, []byte, error) {
	resp, err := c.once(ctx, ep, manifestRequest(http.MethodGet, ref))
	if err != nil {
		return Descriptor{}, nil, err
	}
	defer resp.Body.Close()
	b, err := readDocument(resp)
	if err != nil {
		return Descriptor{}, nil, err
	}
	h := ref.Digest
	if said := resp.Header.Get("Docker-Content-Digest"); said != "" {
		d, err := ParseDigest(said)
		switch {
		case err != nil:
			return Descriptor{}, nil, fmt.Errorf("%w: %w", ErrDigest, err)
		case (h == v1.Hash{}):
			h = d
		case h != d && h.Algorithm == d.Algorithm:
			return Descriptor{}, nil, fmt.Errorf("%w: %s calls it %s", ErrDigest, ep.addr, d)
		}
	}
	if (h == v1.Hash{}) {
		h = SumDigest(b)
	} else if err := verifyBytes(b, h); err != nil {
		return Descriptor{}, nil, err
	}
	doc, err := Decode(resp.Header.Get("Content-Type"), b)
	if err != nil {
		return Descriptor{}, nil, err
	}
	return Descriptor{MediaType: doc.MediaType, Digest: h, Size: int64(len(b))}, b, nil
}

func readDocument(resp *http.Response) ([]byte, error) {
	if resp.ContentLength > MaxManifest {
		return nil, fmt.Errorf("a manifest of %d bytes: %w of %d", resp.ContentLength, ErrTooLarge, MaxManifest)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return nil, &transportError{fmt.Errorf("reading a manifest: %w", err)}
	}
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("a manifest: %w of %d bytes", ErrTooLarge, MaxManifest)
	}
	return b, nil
}

// A Fetched is a document as a registry gave it.
type Fetched struct {
	Descriptor
	Bytes []byte
}

// An Image is a manifest for one platform and how it was found.
type Image struct {
	Fetched
	Manifest *v1.Manifest
	Indexes  []Fetched // that led to it, outermost first; none if the reference named the manifest itself
}

// Select follows a descriptor through indexes to the manifest for a platform. An image that is not in an index is taken
// for whatever platform it is. Errors are those of Get, a *PlatformError, and ErrTooLarge for nesting without end.
func (c *Client) Select(ctx context.Context, repo Repo, desc Descriptor, p v1.Platform) (*Image, error) {
	img := &Image{}
	for range maxDepth + 1 {
		b, err := c.Manifest(ctx, repo, desc)
		if err != nil {
			return nil, err
		}
		doc, err := Decode(string(desc.MediaType), b)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest of %s: %w", repo.At(desc.Digest), err)
		}
		desc = Descriptor{MediaType: doc.MediaType, Digest: desc.Digest, Size: int64(len(b))}
		if doc.Image != nil {
			img.Fetched, img.Manifest = Fetched{desc, b}, doc.Image
			return img, nil
		}
		img.Indexes = append(img.Indexes, Fetched{desc, b})
		if desc, err = PickPlatform(doc.Index, p); err != nil {
			return nil, fmt.Errorf("choosing from %s: %w", repo.At(img.Indexes[0].Digest), err)
		}
	}
	return nil, fmt.Errorf("choosing from %s: indexes inside indexes: %w of %d", repo.At(img.Indexes[0].Digest), ErrTooLarge,
		maxDepth)
}
