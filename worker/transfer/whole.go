package transfer

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/solver/op"
)

// Whole returns the digest of what the reference of a pinned image led to: of the index, if the image is known to have
// come by one, or else the one that it is pinned to.
func (s *Service) Whole(ctx context.Context, img *op.Image) digest.Digest {
	have, r, err := s.find(ctx, img)
	if err != nil {
		return img.Digest
	}
	if have == nil {
		if len(r.indexes) > 0 {
			return digest.Digest(r.indexes[0].Digest.String())
		}
		return img.Digest
	}
	ref, err := reference(img)
	if err != nil {
		return img.Digest
	}
	if n, err := s.deps.Images.Name(ref.Repo.Tag(ref.Tag).String()); err == nil && n.Index != nil {
		return n.Index.Digest
	}
	for _, m := range have.Manifests {
		if m.Repository == ref.Repo.String() && !m.Inner && image.IsIndex(m.Descriptor.MediaType) {
			return m.Descriptor.Digest
		}
	}
	return img.Digest
}
