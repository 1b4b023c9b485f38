package registry

import (
	_ "crypto/sha256" // the two algorithms that a digest may name
	_ "crypto/sha512"
	"fmt"
	"hash"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor names content in a repository: its media type, digest and size in bytes.
type Descriptor = v1.Descriptor

// ParseDigest reads "sha256:" and 64, or "sha512:" and 128, lower-case hex digits. Nothing else is a digest: whatever
// passes here is safe in a path, a file name and a URL.
func ParseDigest(s string) (v1.Hash, error) {
	h, err := v1.NewHash(s)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("digest %q is not sha256 or sha512 in lower-case hex: %w", s, err)
	}
	return h, nil
}

// CheckDigest says whether h, wherever it came from, is what ParseDigest could have returned.
func CheckDigest(h v1.Hash) error {
	_, err := ParseDigest(h.String())
	return err
}

// SumDigest returns the sha256 digest of b.
func SumDigest(b []byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: digest.SHA256.FromBytes(b).Encoded()}
}

// hasher returns a hash for a digest that was checked.
func hasher(h v1.Hash) hash.Hash {
	w, err := v1.Hasher(h.Algorithm)
	if err != nil {
		panic("registry: hashing with an unchecked digest " + h.String())
	}
	return w
}

// verify compares what went into w with h.
func verify(w hash.Hash, h v1.Hash) error {
	if got := fmt.Sprintf("%x", w.Sum(nil)); got != h.Hex {
		return fmt.Errorf("%w: got %s:%s, want %s", ErrDigest, h.Algorithm, got, h)
	}
	return nil
}

// verifyBytes compares the digest of b with h.
func verifyBytes(b []byte, h v1.Hash) error {
	w := hasher(h)
	w.Write(b)
	return verify(w, h)
}

// FromOCI converts a descriptor of the image specification's own Go types. The platform's features are kept.
func FromOCI(d ocispec.Descriptor) (Descriptor, error) {
	h, err := ParseDigest(d.Digest.String())
	if err != nil {
		return Descriptor{}, err
	}
	out := Descriptor{
		MediaType: types.MediaType(d.MediaType), Digest: h, Size: d.Size, URLs: d.URLs,
		Annotations: d.Annotations, Data: d.Data, ArtifactType: d.ArtifactType,
	}
	if p := d.Platform; p != nil {
		out.Platform = &v1.Platform{
			OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
		}
	}
	return out, nil
}

// ToOCI converts a descriptor to the image specification's own Go types.
func ToOCI(d Descriptor) ocispec.Descriptor {
	out := ocispec.Descriptor{
		MediaType: string(d.MediaType), Digest: digest.Digest(d.Digest.String()), Size: d.Size, URLs: d.URLs,
		Annotations: d.Annotations, Data: d.Data, ArtifactType: d.ArtifactType,
	}
	if d.Platform != nil {
		p := ociPlatform(*d.Platform)
		out.Platform = &p
	}
	return out
}

func ociPlatform(p v1.Platform) ocispec.Platform {
	return ocispec.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	}
}
