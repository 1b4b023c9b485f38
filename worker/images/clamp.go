package images

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
)

// A Clamping says how layers are written again.
type Clamping struct {
	From    int       // layers below that number stay as they are, as the base image's must
	Epoch   time.Time // what was modified later was modified then
	Form    exporter.Form
	Windows bool // see Packed
}

// Clamp returns layers in which nothing was modified after c.Epoch: those from number c.From on are written again with
// earlier times where they have later ones. The new layers have snapshots of their own, so that an image of them runs as it
// is exported, and blobs in the compression of c.Form. Layers in which nothing is later come back as they are.
//
// What is new is held by the lease in ctx.
func (l *Layers) Clamp(ctx context.Context, layers []image.Layer, c Clamping) ([]image.Layer, error) {
	ids := make([]digest.Digest, len(layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2) // as many as read snapshots in the background
	for i, ly := range layers {
		if ids[i] = ly.DiffID; i < c.From {
			continue
		}
		g.Go(func() (err error) {
			ids[i], err = l.clampedDiffID(gctx, ly.Snapshot, c.Epoch)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := make([]image.Layer, len(layers))
	u := unpacking{Packed: Packed{Windows: c.Windows}}
	same := true
	for i, ly := range layers {
		u.parentChain = u.chain
		u.chain = image.ChainID(ids[:i+1])
		out[i] = ly
		if same = same && ids[i] == ly.DiffID; !same {
			got, err := l.reapply(ctx, u, ly, ids[i], &c)
			if err != nil {
				return nil, fmt.Errorf("rewriting layer %s: %w", ly.DiffID, err)
			}
			out[i] = got
		}
		u.parent = out[i].Snapshot
	}
	return out, nil
}

func (l *Layers) clampedDiffID(ctx context.Context, id snapshot.ID, epoch time.Time) (digest.Digest, error) {
	h := &countHash{h: digest.SHA256.Hash()}
	if err := layer.DiffSnapshot(ctx, l.Snapshots, id, h, layer.DiffOptions{Epoch: &epoch}); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h.h), nil
}

// reapply makes the snapshot of a layer on the chain that u has, from what old says with the times of c. diffID is what
// comes out.
func (l *Layers) reapply(ctx context.Context, u unpacking, old image.Layer, diffID digest.Digest, c *Clamping) (image.Layer, error) {
	if id, ok, err := l.chain(ctx, u.chain, u.Windows); err != nil {
		return image.Layer{}, err
	} else if ok {
		if d, known := l.DiffIDs.Known(id); known && d.DiffID == diffID {
			return d.layer(id), nil
		}
	}
	desc, err := l.packClamped(ctx, old.Snapshot, diffID, c)
	if err != nil {
		return image.Layer{}, err
	}
	u.DiffID, u.Blob = diffID, desc
	got, err := l.unpack(ctx, u)
	got.DiffID = diffID
	return got, err
}

// packClamped makes a blob of a layer.
func (l *Layers) packClamped(ctx context.Context, id snapshot.ID, diffID digest.Digest, c *Clamping) (exporter.Descriptor, error) {
	none := exporter.Descriptor{}
	format, mediaType := layer.Gzip, ocispec.MediaTypeImageLayerGzip
	if c.Form.Compression == exporter.Zstd {
		format, mediaType = layer.Zstd, ocispec.MediaTypeImageLayerZstd
	}
	w, err := l.Blobs.Create()
	if err != nil {
		return none, err
	}
	defer w.Close()
	z, err := l.Compressor.NewWriter(ctx, w, format, c.Form.Level)
	if err != nil {
		return none, err
	}
	h := &countHash{h: digest.SHA256.Hash()}
	werr := layer.DiffSnapshot(ctx, l.Snapshots, id, io.MultiWriter(z, h), layer.DiffOptions{Epoch: &c.Epoch})
	if got := digest.NewDigest(digest.SHA256, h.h); werr == nil && got != diffID {
		werr = fmt.Errorf("%w: it was %s and is %s", layer.ErrDiffID, diffID, got)
	}
	if werr != nil {
		z.Abort(werr)
	}
	if err := z.Close(); werr != nil || err != nil {
		return none, cmp.Or(werr, err) // where one failed because of the other, the first one says so
	}
	if held := lease.From(ctx); held != nil {
		if err := held.Reserve(ctx, blobItem(w.Digest())); err != nil {
			return none, err
		}
	}
	desc, err := w.Commit(exporter.Descriptor{MediaType: mediaType})
	if err != nil {
		return none, err
	}
	return desc, l.Images.SetBlob(diffID, desc, "")
}
