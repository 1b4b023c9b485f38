package transfer

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/exporter/archive"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/images"
)

// Import takes an image of an OCI layout into the store, for the build whose lease ctx carries, and returns it pinned. It
// gets no name. Layers that the store has are not read from files.
func (s *Service) Import(ctx context.Context, src *op.OCILayout, files archive.Files) (*op.Image, error) {
	p := src.Platform
	if p.OS == "" {
		p = s.deps.Platform
	}
	m, err := archive.Pick(ctx, files, src.Digest, p)
	if err != nil {
		return nil, err
	}
	opt := archive.ReadOptions{Blobs: s.deps.Blobs, Limits: s.deps.Layers.Limits}
	if l := lease.From(ctx); l != nil {
		opt.Keep = func(ctx context.Context, d digest.Digest) error {
			return l.Reserve(ctx, lease.Item{Kind: lease.Blob, Name: string(d)})
		}
	}
	packed := make([]images.Packed, len(m.Layers))
	for i, l := range m.Layers {
		packed[i] = images.Packed{DiffID: l.DiffID, Blob: l.Blob, Windows: m.Platform.OS == images.Windows, Fetch: func(ctx context.Context) error {
			return archive.PutLayer(ctx, files, l.Blob, opt)
		}}
	}
	layers, err := s.deps.Layers.Unpack(ctx, packed, nil)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", src, err)
	}
	img := &image.Image{ID: digest.FromBytes(m.Config), Config: m.Config, Platform: m.Platform, Layers: layers}
	s.rememberLocal(img)
	return &op.Image{Ref: src.Ref, Digest: img.ID, Platform: src.Platform, LayerLimit: src.LayerLimit}, nil
}
