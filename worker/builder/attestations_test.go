package builder_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// An attested is an image in a registry with what attests it.
type attested struct {
	r                  *rig
	image, attestation ocispec.Descriptor
	index              ocispec.Index
	sbom, provenance   ocispec.Descriptor
}

// put stores a manifest and describes it.
func (a *attested) put(tag string, m ocispec.Manifest) ocispec.Descriptor {
	a.r.t.Helper()
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	if m.Config.Digest == "" {
		m.Config = a.blob(ocispec.MediaTypeEmptyJSON, "{}", nil)
	}
	b := marshal(a.r.t, m)
	d := a.r.registry.PutManifest("app", tag, m.MediaType, b)
	return ocispec.Descriptor{
		MediaType: m.MediaType, Digest: digest.Digest(d), Size: int64(len(b)), ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}
}

func (a *attested) blob(mediaType, text string, annotations map[string]string) ocispec.Descriptor {
	d := a.r.registry.PutBlob("app", []byte(text))
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: int64(len(text)), Annotations: annotations}
}

// sign adds a signature of a kind to the registry.
func (a *attested) sign(kind, text string) ocispec.Descriptor {
	return a.put("", ocispec.Manifest{
		ArtifactType: kind, Subject: &a.attestation, Layers: []ocispec.Descriptor{a.blob(kind, text, map[string]string{"signed": "yes"})},
	})
}

func newAttested(t *testing.T) *attested {
	r := newRig(t)
	r.registry.Referrers = true
	a := &attested{r: r}
	l := layer(t, "sh", "a shell")
	d, raw := r.registry.PutImage("app", "", config(t, l), l)
	a.image = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(d), Size: int64(len(raw)), Platform: &amd64}
	const inToto, kind = "application/vnd.in-toto+json", "in-toto.io/predicate-type"
	a.sbom = a.blob(inToto, `{"sbom":1}`, map[string]string{kind: "https://spdx.dev/Document"})
	a.provenance = a.blob(inToto, `{"provenance":1}`, map[string]string{kind: "https://slsa.dev/provenance/v1"})
	a.attestation = a.put("", ocispec.Manifest{Layers: []ocispec.Descriptor{a.sbom, a.provenance}})
	a.attestation.Platform = &op.Platform{OS: "unknown", Architecture: "unknown"}
	a.attestation.Annotations = map[string]string{
		"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": string(a.image.Digest),
	}
	a.index = ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{a.image, a.attestation}}
	return a
}

// chain is what is found out about the image under an index.
func (a *attested) chain(predicates ...string) (*frontend.AttestationChain, digest.Digest, error) {
	a.r.t.Helper()
	a.index.SchemaVersion = 2
	root := digest.Digest(a.r.registry.PutManifest("app", "latest", a.index.MediaType, marshal(a.r.t, a.index)))
	img, err := a.r.move.Resolve(a.r.t.Context(), &op.Image{Ref: a.r.name("app"), Platform: amd64, Resolve: op.ResolveForcePull})
	if err != nil {
		a.r.t.Fatal(err)
	}
	c, err := a.r.move.Attestations(a.r.t.Context(), img, a.r.move.Whole(a.r.t.Context(), img), predicates)
	return c, root, err
}

// TestAttestations checks what is in the chain from an index to what signs the attestations of an image: as much as there is,
// of several signatures the one that BuildKit takes, and of the attestations those that were asked for.
func TestAttestations(t *testing.T) {
	a := newAttested(t)
	const bundle, cosign = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.cosign.artifact.sig.v1+json"
	check := func(name string, signature, layer *ocispec.Descriptor, extra []ocispec.Descriptor, predicates ...string) {
		t.Helper()
		c, root, err := a.chain(predicates...)
		if err != nil || c == nil {
			t.Errorf("%s: got %v, %v", name, c, err)
			return
		}
		want := []digest.Digest{root, a.attestation.Digest}
		var signed []digest.Digest
		if signature != nil {
			signed = []digest.Digest{signature.Digest}
			want = append(want, signature.Digest, layer.Digest)
		}
		for _, d := range extra {
			want = append(want, d.Digest)
		}
		slices.Sort(want)
		if c.Root != root || c.ImageManifest != a.image.Digest || c.Attestation != a.attestation.Digest || !slices.Equal(c.Signatures, signed) {
			t.Errorf("%s: got %s, %s, %s, %s", name, c.Root, c.ImageManifest, c.Attestation, c.Signatures)
		}
		if got := slices.Sorted(maps.Keys(c.Blobs)); !slices.Equal(got, want) {
			t.Errorf("%s: the blobs are %s, want %s", name, got, want)
		}
		for d, b := range c.Blobs {
			if digest.FromBytes(b.Data) != d || b.Descriptor.Digest != d || b.Descriptor.Size != int64(len(b.Data)) || b.Descriptor.MediaType == "" {
				t.Errorf("%s: %s is %+v", name, d, b.Descriptor)
			}
		}
		if att := c.Blobs[a.attestation.Digest].Descriptor; !maps.Equal(att.Annotations, a.attestation.Annotations) {
			t.Errorf("%s: the attestation is %+v", name, att)
		}
	}
	check("unsigned", nil, nil, nil)
	check("a predicate", nil, nil, []ocispec.Descriptor{a.provenance}, "https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1")
	check("unknown ones", nil, nil, nil, "", "https://example.com/x")
	a.sign("application/vnd.other", "no signature")
	check("something else refers to it", nil, nil, nil)
	one := a.blob(cosign, "older", nil)
	s := a.sign(cosign, "older")
	check("signed", &s, &one, nil)
	for _, text := range []string{"bundle", "a", "b", "c"} { // whatever the order of digests
		b := a.blob(bundle, text, nil)
		s := a.sign(bundle, text)
		c, _, err := a.chain()
		if err != nil || len(c.Signatures) != 1 || c.Signatures[0] == s.Digest && len(c.Blobs[b.Digest].Data) == 0 ||
			!strings.Contains(string(c.Blobs[c.Signatures[0]].Data), bundle) {
			t.Errorf("a bundle beside it: got %+v, %v", c, err)
		}
	}
}

// TestNoAttestations checks images that have no chain, and those whose chain ends early.
func TestNoAttestations(t *testing.T) {
	a := newAttested(t)
	a.index.Manifests = []ocispec.Descriptor{a.image}
	if c, root, err := a.chain("https://slsa.dev/provenance/v1"); err != nil || c.Root != root || c.ImageManifest != a.image.Digest || c.Attestation != "" || len(c.Blobs) != 1 {
		t.Errorf("without attestations: got %+v, %v", c, err)
	}
	a.index.MediaType = "application/vnd.docker.distribution.manifest.list.v2+json"
	if c, _, err := a.chain(); c != nil || err != nil {
		t.Errorf("Docker's index: got %+v, %v", c, err)
	}
	img := &op.Image{Ref: a.r.name("app"), Digest: a.image.Digest, Platform: amd64}
	if c, err := a.r.move.Attestations(t.Context(), img, img.Digest, nil); c != nil || err != nil {
		t.Errorf("no index: got %+v, %v", c, err)
	}
	r := a.r
	if _, _, err := r.build("FROM scratch\nLABEL a=b\n", tags("local:1")); err != nil {
		t.Fatal(err)
	}
	local, err := r.move.Resolve(t.Context(), &op.Image{Ref: "docker.io/library/local:1", Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := r.move.Attestations(t.Context(), local, r.move.Whole(t.Context(), local), nil); c != nil || err != nil {
		t.Errorf("in no registry: got %+v, %v", c, err)
	}
}

// TestHardened checks that the provenance of one of Docker's hardened images is found beside it, and missed if it is not there.
func TestHardened(t *testing.T) {
	a := newAttested(t)
	a.image.Annotations = map[string]string{"com.docker.dhi.build.id": "1"}
	a.index.Manifests, a.index.Annotations = []ocispec.Descriptor{a.image}, map[string]string{ocispec.AnnotationTitle: "dhi/app"}
	if _, _, err := a.chain(); err == nil || !strings.Contains(err.Error(), "hardened") {
		t.Errorf("got %v", err)
	}
	a.attestation = a.put("", ocispec.Manifest{
		ArtifactType: "application/vnd.in-toto+json", Subject: &a.image, Layers: []ocispec.Descriptor{a.provenance},
		Annotations: map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"},
	})
	s := a.sign("application/vnd.dev.sigstore.bundle.v0.3+json", "bundle")
	c, _, err := a.chain()
	if err != nil || c.Attestation != a.attestation.Digest || !slices.Equal(c.Signatures, []digest.Digest{s.Digest}) || len(c.Blobs) != 4 {
		t.Errorf("got %+v, %v", c, err)
	}
}
