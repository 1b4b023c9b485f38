package image

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image is found by the digest of any document that it, or a name of it, has: alone, and after the repository's name; not
// after another repository's.
func TestDocuments(t *testing.T) {
	s := open(t)
	a := mk("a", "one")
	inRegistry := digest.FromString("manifest in a registry")
	a.Manifests = []Manifest{{Repository: "docker.io/library/a", Descriptor: Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: inRegistry, Size: 1}}}
	put(t, s, a, refA)
	served := Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("index"), Size: 1}
	inner := Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("inner"), Size: 1}
	if err := s.SetServed(refA, []digest.Digest{a.ID}, served, []Descriptor{inner}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{inRegistry, served.Digest, inner.Digest, a.ID} {
		for _, ref := range []string{string(d), d.Encoded(), "a@" + string(d), "a:latest@" + string(d)} {
			if img, err := s.Get(ref, nil); err != nil || img.ID != a.ID {
				t.Errorf("%s: got %v, %v", ref, img, err)
			}
		}
		if _, err := s.Get("b@"+string(d), nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("b@%s: got %v", d, err)
		}
	}
	unknown := digest.FromString("unknown")
	for _, ref := range []string{string(unknown), "a@" + string(unknown)} {
		if _, err := s.Get(ref, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
	other := &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	if _, err := s.Get(string(served.Digest), other); !errors.Is(err, ErrNotFound) {
		t.Errorf("for another platform: got %v", err)
	}
}
