package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// Import implements worker.Images. The layer is what the files are, not how the tar says it: the same files give the same
// diff ID, and the tar itself is not kept.
func (s *Service) Import(ctx context.Context, r io.Reader, opt worker.ImportOptions) (digest.Digest, error) {
	var names []string
	if opt.Name != "" {
		n, err := image.Normalize(opt.Name)
		if err != nil {
			return "", err
		}
		names = []string{n}
	}
	now := time.Now().UTC()
	c := frontend.ImageConfig{}
	c.Platform = s.deps.Platform
	if opt.Platform != nil && opt.Platform.OS != "" {
		c.Platform = *opt.Platform
	}
	c.Created = &now
	if err := applyChanges(&c, opt.Changes); err != nil {
		return "", &frontend.UsageError{Message: err.Error()}
	}
	l := s.deps.Leases.Acquire("import")
	defer l.Release()
	ctx = lease.With(ctx, l)
	ly, err := s.importLayer(ctx, r)
	if err != nil {
		return "", fmt.Errorf("importing: %w", err)
	}
	comment := opt.Message
	if comment == "" {
		comment = "Imported from -" // as docker says
	}
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{ly.DiffID}}
	c.History = []ocispec.History{{Created: &now, Comment: comment}}
	img, err := finish(&c, []image.Layer{ly})
	if err == nil {
		err = s.store(ctx, image.Update{Images: []*image.Image{img}, Names: names})
	}
	if err != nil {
		return "", fmt.Errorf("importing: %w", err)
	}
	return img.ID, nil
}

// importLayer makes a snapshot of a tar.
func (s *Service) importLayer(ctx context.Context, r io.Reader) (_ image.Layer, err error) {
	sn := s.deps.Layers.Snapshots
	d := layer.NewDraft("import")
	id := snapshot.ID(d)
	if err := reserve(ctx, lease.ID(id)); err != nil {
		return image.Layer{}, err
	}
	mounts, err := sn.Prepare(ctx, d, "")
	if err != nil {
		return image.Layer{}, err
	}
	discard := true
	defer func() {
		if discard {
			err = errors.Join(err, sn.Discard(context.WithoutCancel(ctx), d))
		}
	}()
	t, ok := layer.TargetOf(mounts)
	if !ok {
		return image.Layer{}, errors.New("draft cannot be written to")
	}
	if _, err := layer.Apply(ctx, t, r, layer.Options{Limits: s.deps.Layers.Limits}); err != nil {
		return image.Layer{}, err
	}
	discard = false // gone whatever Commit returns
	if err := sn.Commit(ctx, d, id); err != nil {
		return image.Layer{}, err
	}
	derived, err := s.deps.Layers.DiffIDs.Wait(ctx, id)
	return derived.layer(id), err
}
