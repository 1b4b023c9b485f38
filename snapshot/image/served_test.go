package image

import (
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What a registry was given under a name is the name's alone, is kept, and lasts until the name means something else; it is
// not noted for a name that has been moved since.
func TestServed(t *testing.T) {
	s := open(t)
	a, b := mk("a", "one"), mk("b", "two")
	put(t, s, a, refA, refB)
	put(t, s, b)
	desc := func(mediaType, d string) Descriptor {
		return Descriptor{MediaType: mediaType, Digest: digest.FromString(d), Size: 1}
	}
	manifest, index := desc(ocispec.MediaTypeImageManifest, "manifest"), desc(ocispec.MediaTypeImageIndex, "index")
	served := func(name string) digest.Digest {
		t.Helper()
		n, err := s.Name(name)
		if err != nil {
			t.Fatal(err)
		}
		if n.Served == nil {
			return ""
		}
		return n.Served.Digest
	}
	for _, tt := range []struct {
		name string
		ids  []digest.Digest
		want digest.Digest
	}{
		{refA, []digest.Digest{b.ID}, ""},
		{refA, []digest.Digest{a.ID, b.ID}, ""},
		{refA, []digest.Digest{a.ID}, manifest.Digest},
	} {
		if err := s.SetServed(tt.name, tt.ids, manifest, nil); err != nil || served(tt.name) != tt.want {
			t.Errorf("%v: got %q, %v, want %q", tt.ids, served(tt.name), err, tt.want)
		}
	}
	if err := s.SetServed("docker.io/library/none:1", []digest.Digest{a.ID}, manifest, nil); err != nil {
		t.Errorf("no such name: %v", err)
	}
	if err := s.SetServed(refB, []digest.Digest{a.ID}, index, []Descriptor{manifest}); err != nil {
		t.Fatal(err)
	}
	n, err := s.Name(refB)
	if err != nil || n.OwnIndex() == nil || n.OwnIndex().Digest != index.Digest || len(n.Manifests()) != 1 {
		t.Errorf("an index: %+v, %v", n, err)
	}
	r, err := s.Roots()
	if err != nil || !slices.Contains(r.Blobs, manifest.Digest) || !slices.Contains(r.Blobs, index.Digest) {
		t.Errorf("kept are %v, %v", r.Blobs, err)
	}
	if got, err := s.Get(refA, nil); err != nil || got.Served[refA] != manifest.Digest || got.Served[refB] != index.Digest {
		t.Errorf("got %v, %v", got.Served, err)
	}
	if err := s.Tag(b.ID, refA); err != nil || served(refA) != "" {
		t.Errorf("after it was moved: %q, %v", served(refA), err)
	}
}

// A manifest that an index led to is a digest of the image from when it is named itself, and stays one.
func TestInner(t *testing.T) {
	s := open(t)
	a := mk("a", "one")
	for _, tt := range []struct {
		inner bool
		want  int
	}{{true, 0}, {false, 1}, {true, 1}} {
		a.Manifests = []Manifest{{Repository: "x/a", Descriptor: Descriptor{Digest: digest.FromString("1")}, Inner: tt.inner}}
		put(t, s, a, refA)
		if got, err := s.Get(refA, nil); err != nil || len(got.RepoDigests()) != tt.want {
			t.Errorf("inner %v: got %v, %v, want %d", tt.inner, got.RepoDigests(), err, tt.want)
		}
	}
}
