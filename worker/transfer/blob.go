package transfer

import (
	"context"
	"io"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver/op"
)

// OpenBlob opens a blob of a registry. It is checked at its end. The store is not asked: that it has the same bytes is no
// reason to believe that the repository would give them to this user.
func (s *Service) OpenBlob(ctx context.Context, b *op.Blob) (io.ReadCloser, error) {
	ref, err := registry.ParseRef(b.Ref)
	if err != nil {
		return nil, err
	}
	d, err := registry.ParseDigest(string(b.Digest))
	if err != nil {
		return nil, err
	}
	desc, err := s.deps.Client.Stat(ctx, ref.Repo, d)
	if err != nil {
		return nil, err
	}
	return s.deps.Client.Blob(ctx, ref.Repo, desc)
}
