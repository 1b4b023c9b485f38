package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// Derive makes an image of another, with one more layer and another config, and returns its ID. It is what `docker commit`
// does. A layer with nothing in it is left out.
func (s *Service) Derive(ctx context.Context, d *worker.Derivation) (digest.Digest, error) {
	var names []string
	if d.Name != "" {
		n, err := image.Normalize(d.Name)
		if err != nil {
			return "", worker.Invalidf("invalid reference format: %q", d.Name)
		}
		names = []string{n}
	}
	l := s.deps.Leases.Acquire("commit")
	defer l.Release()
	ctx = lease.With(ctx, l)
	var c frontend.ImageConfig
	var layers []image.Layer
	if d.Base != nil {
		if err := json.Unmarshal(d.Base.Config, &c); err != nil {
			return "", fmt.Errorf("reading the config of image %s: %w", d.Base.ID, err)
		}
		layers = append(layers, d.Base.Layers...)
	}
	ly, some, err := s.deriveLayer(ctx, d)
	if err != nil {
		return "", fmt.Errorf("making a layer: %w", err)
	}
	h := d.History
	if h.EmptyLayer = !some; some {
		layers = append(layers, ly)
	}
	c.History = append(c.History, h)
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []digest.Digest{}
	for _, ly := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, ly.DiffID)
	}
	if err := d.Edit(&c); err != nil {
		return "", err
	}
	img, err := finish(&c, layers)
	if err == nil {
		if d.Base != nil {
			img.Parent = d.Base.ID
		}
		err = s.store(ctx, image.Update{Images: []*image.Image{img}, Names: names})
	}
	if err != nil {
		return "", fmt.Errorf("storing the image: %w", err)
	}
	return img.ID, nil
}

// deriveLayer makes a snapshot of the tar of d on the layers that there are.
func (s *Service) deriveLayer(ctx context.Context, d *worker.Derivation) (_ image.Layer, some bool, err error) {
	sn := s.deps.Layers.Snapshots
	draft := layer.NewDraft("commit")
	id := snapshot.ID(draft)
	if err := reserve(ctx, lease.ID(id)); err != nil {
		return image.Layer{}, false, err
	}
	mounts, err := sn.Prepare(ctx, draft, d.Parent)
	if err != nil {
		return image.Layer{}, false, err
	}
	discard := true
	defer func() {
		if discard {
			err = errors.Join(err, sn.Discard(context.WithoutCancel(ctx), draft))
		}
	}()
	t, ok := layer.TargetOf(mounts)
	if !ok {
		return image.Layer{}, false, errors.New("draft cannot be written to")
	}
	res, err := applyFrom(ctx, t, d.Tar)
	if err != nil || res.Entries == 0 {
		return image.Layer{}, false, err
	}
	discard = false // gone whatever Commit returns
	if err := sn.Commit(ctx, draft, id); err != nil {
		return image.Layer{}, false, err
	}
	derived, err := s.deps.Layers.DiffIDs.Wait(ctx, id)
	return derived.layer(id), true, err
}

// applyFrom applies what tar writes.
func applyFrom(ctx context.Context, t layer.Target, tar func(ctx context.Context, w io.Writer) error) (layer.Result, error) {
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.CloseWithError(tar(ctx, w))
	}()
	res, err := layer.Apply(ctx, t, r, layer.Options{Limits: layer.Limits{Ratio: -1}})
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	<-written
	return res, err
}
