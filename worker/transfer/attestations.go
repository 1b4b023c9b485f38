package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver/op"
)

// How attestations are found, in the words of those who make them.
const (
	refersType   = "vnd.docker.reference.type"
	refersDigest = "vnd.docker.reference.digest"
	attestation  = "attestation-manifest"
	predicate    = "in-toto.io/predicate-type"

	typeBundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
	typeCosign = "application/vnd.dev.cosign.artifact.sig.v1+json"
	typeInToto = "application/vnd.in-toto+json"

	// Docker's hardened images have their attestations beside the image, not in the index.
	hardenedBuild = "com.docker.dhi.build.id"
	hardenedTitle = "dhi/"
)

// provenance are the kinds of provenance that the attestations of hardened images are found by.
var provenance = []string{"https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"}

// maxChain bounds what is in a chain: it travels in one message.
const maxChain = 12 << 20

// Attestations returns what a pinned image is attested and signed with, as frontend.Resolver says; root is what its reference
// means. What is in the chain is BuildKit's choice: of several signatures one, and a bundle rather than an older one.
func (s *Service) Attestations(
	ctx context.Context, img *op.Image, root digest.Digest, predicates []string,
) (*frontend.AttestationChain, error) {
	ref, err := reference(img)
	if err != nil {
		return nil, err
	}
	if have, _, err := s.find(ctx, img); err != nil || have != nil && have.ID == root {
		return nil, err // no registry is known to have it
	}
	d, err := registry.ParseDigest(string(root))
	if err != nil {
		return nil, err
	}
	desc, b, err := s.deps.Client.Get(ctx, ref.Repo.At(d))
	if err != nil || string(desc.MediaType) != ocispec.MediaTypeImageIndex {
		return nil, err
	}
	doc, err := registry.Decode(string(desc.MediaType), b)
	if err != nil {
		return nil, err
	}
	c := &chain{client: s.deps.Client, repo: ref.Repo, to: &frontend.AttestationChain{
		Root: root, Blobs: make(map[digest.Digest]frontend.AttestationBlob),
	}}
	if err := c.add(desc, b); err != nil {
		return nil, err
	}
	return c.to, c.follow(ctx, doc.Index, img.Digest, predicates)
}

// A chain is one that is being followed.
type chain struct {
	client *registry.Client
	repo   registry.Repo
	to     *frontend.AttestationChain
	size   int
}

// follow goes from the index to the attestations of one of its images, and to what these are signed with.
func (c *chain) follow(ctx context.Context, index *v1.IndexManifest, image digest.Digest, predicates []string) error {
	i := slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest.String() == string(image) })
	if i < 0 {
		return nil // in an index inside the index
	}
	c.to.ImageManifest = image
	att, err := c.attestation(ctx, index, index.Manifests[i].Digest)
	if err != nil || att == nil {
		return err
	}
	c.to.Attestation = digest.Digest(att.Digest.String())
	b, err := c.client.Manifest(ctx, c.repo, *att)
	if err == nil {
		err = c.add(*att, b)
	}
	if err != nil {
		return err
	}
	if err := c.signature(ctx, att.Digest); err != nil {
		return err
	}
	return c.layers(ctx, att, b, func(d *v1.Descriptor) bool {
		kind := d.Annotations[predicate]
		return kind != "" && slices.Contains(predicates, kind)
	})
}

// attestation returns what attests how an image was made, or nil.
func (c *chain) attestation(ctx context.Context, index *v1.IndexManifest, image v1.Hash) (*v1.Descriptor, error) {
	if isHardened(index) {
		refs, err := c.client.Referrers(ctx, c.repo, image)
		if err != nil {
			return nil, err
		}
		for i, d := range refs {
			if d.ArtifactType == typeInToto && slices.Contains(provenance, d.Annotations[predicate]) {
				return &refs[i], nil
			}
		}
		return nil, fmt.Errorf("nothing attests the hardened image %s", image)
	}
	for i, d := range index.Manifests {
		if d.Annotations[refersType] == attestation && d.Annotations[refersDigest] == image.String() {
			return &index.Manifests[i], nil
		}
	}
	return nil, nil
}

func isHardened(index *v1.IndexManifest) bool {
	return strings.HasPrefix(index.Annotations[ocispec.AnnotationTitle], hardenedTitle) &&
		!slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[hardenedBuild] == "" })
}

// signature adds what attestations are signed with, if they are.
func (c *chain) signature(ctx context.Context, att v1.Hash) error {
	refs, err := c.client.Referrers(ctx, c.repo, att)
	if err != nil {
		return err
	}
	for _, kind := range []string{typeBundle, typeCosign} {
		i := slices.IndexFunc(refs, func(d v1.Descriptor) bool { return d.ArtifactType == kind })
		if i < 0 {
			continue
		}
		c.to.Signatures = []digest.Digest{digest.Digest(refs[i].Digest.String())}
		b, err := c.client.Manifest(ctx, c.repo, refs[i])
		if err == nil {
			err = c.add(refs[i], b)
		}
		if err != nil {
			return err
		}
		return c.layers(ctx, &refs[i], b, func(*v1.Descriptor) bool { return true })
	}
	return nil
}

// layers adds those layers of a manifest that are wanted.
func (c *chain) layers(ctx context.Context, desc *v1.Descriptor, manifest []byte, want func(*v1.Descriptor) bool) error {
	doc, err := registry.Decode(string(desc.MediaType), manifest)
	if err != nil {
		return err
	}
	if doc.Image == nil {
		return errors.New("an attestation is no manifest")
	}
	for i := range doc.Image.Layers {
		l := &doc.Image.Layers[i]
		if _, have := c.to.Blobs[digest.Digest(l.Digest.String())]; have || !want(l) {
			continue
		}
		b, err := c.client.ReadBlob(ctx, c.repo, *l, int64(maxChain-c.size))
		if err == nil {
			err = c.add(*l, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add adds a blob.
func (c *chain) add(desc v1.Descriptor, b []byte) error {
	if c.size += len(b); c.size > maxChain {
		return fmt.Errorf("the attestations and signatures: %w of %d bytes", registry.ErrTooLarge, maxChain)
	}
	oci := registry.ToOCI(desc)
	c.to.Blobs[oci.Digest] = frontend.AttestationBlob{Descriptor: oci, Data: b}
	return nil
}
