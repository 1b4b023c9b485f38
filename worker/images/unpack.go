package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
)

// A Packed is a layer as a manifest and a config describe it.
type Packed struct {
	DiffID digest.Digest
	Blob   exporter.Descriptor
	Origin string // the repository that has the blob; may be empty
	// Windows says that the layer is of an image whose configuration says that it is for Windows. Its tree is what the layer
	// has below "Files", if it is of Windows' form, and the layers that are made on top of that will be of it, too.
	Windows bool
	// Fetch makes the blob be in the store, and returns when it is. It is called only if it is needed, and may be called
	// when the blob is there already. nil if it must be there.
	Fetch func(ctx context.Context) error
}

// Unpack makes snapshots of layers, lowest first, and returns the layers with these. What the store has is not applied
// again; the same chain is applied once however many ask for it, and each waits only as long as its ctx lasts.
//
// A layer is taken for what its diff ID says only after its bytes have been hashed: also one whose tree is there already
// under that diff ID, if this blob of it has not been seen before. ErrDiffID of package layer tells that they differ.
//
// progress, which may be nil, is called with the blob's digest, from one goroutine at a time. The snapshots and blobs are
// held by the lease in ctx. They are not synced.
func (l *Layers) Unpack(ctx context.Context, layers []Packed, progress exporter.Progress) ([]image.Layer, error) {
	out := make([]image.Layer, 0, len(layers))
	notes := make([]image.Note, 0, len(layers))
	u := unpacking{progress: progress}
	for _, p := range layers {
		if err := errors.Join(blob.Validate(p.DiffID), blob.Validate(p.Blob.Digest)); err != nil {
			return nil, fmt.Errorf("unpacking: %w", err)
		}
	}
	for _, p := range layers {
		u.Packed = p
		if u.parentChain = u.chain; u.chain == "" {
			u.chain = p.DiffID
		} else {
			u.chain = image.ChainID([]digest.Digest{u.chain, p.DiffID})
		}
		got, err := l.unpack(ctx, u)
		if err != nil {
			return nil, fmt.Errorf("unpacking layer %s: %w", p.Blob.Digest, err)
		}
		u.parent = got.Snapshot
		got.DiffID, got.Blobs = p.DiffID, []exporter.Descriptor{p.Blob}
		if p.Origin != "" {
			got.Origins = []string{p.Origin}
		}
		out = append(out, got)
		notes = append(notes, image.Note{DiffID: p.DiffID, Blob: p.Blob, Origin: p.Origin})
	}
	return out, l.Images.SetBlobs(notes...)
}

// Have returns the snapshots of the lowest layers that are there, held by the lease in ctx. A pull need not wait for
// the blobs of these to begin with the others. windows is what Packed.Windows of them will be.
func (l *Layers) Have(ctx context.Context, diffIDs []digest.Digest, windows bool) ([]snapshot.ID, error) {
	var out []snapshot.ID
	for n := range diffIDs {
		id, ok, err := l.chain(ctx, image.ChainID(diffIDs[:n+1]), windows)
		if err != nil || !ok {
			return out, err
		}
		out = append(out, id)
	}
	return out, nil
}

// Seen says whether a blob is known, by hashing, to be a form of the layer with that diff ID.
func (l *Layers) Seen(diffID, d digest.Digest) (bool, error) {
	blobs, _, err := l.Images.Blobs(diffID)
	for _, b := range blobs {
		if b.Digest == d {
			return true, err
		}
	}
	return false, err
}

// An unpacking is a layer on its way.
type unpacking struct {
	Packed
	chain, parentChain digest.Digest
	parent             snapshot.ID
	progress           exporter.Progress
}

func (u *unpacking) report(n int64, done bool) {
	if u.progress != nil {
		u.progress(string(u.Blob.Digest), n, u.Blob.Size, done)
	}
}

func (l *Layers) unpack(ctx context.Context, u unpacking) (image.Layer, error) {
	if err := reserve(ctx, blobItem(u.Blob.Digest)); err != nil {
		return image.Layer{}, err
	}
	id, ok, err := l.chain(ctx, u.chain, u.Windows)
	if err != nil {
		return image.Layer{}, err
	}
	if ok {
		d, err := l.confirm(ctx, u, id)
		return d.layer(id), err
	}
	// Whoever waits reserves for itself: the one who began may leave.
	id = chainSnapshot(u.chain, u.Windows)
	if err := reserve(ctx, lease.ID(id)); err != nil {
		return image.Layer{}, err
	}
	if u.Windows {
		if err := reserve(ctx, lease.ID(plainSnapshot(u.chain))); err != nil {
			return image.Layer{}, err
		}
	}
	return l.unpacks.do(ctx, id, func(ctx context.Context) (image.Layer, error) {
		got, err := l.applyLayer(ctx, u, id)
		if errors.Is(err, layer.ErrNotWindows) {
			u.Windows = false
			got, err = l.applyLayer(ctx, u, plainSnapshot(u.chain))
		}
		return got, err
	})
}

// confirm makes sure that a blob is a form of a layer which is there.
func (l *Layers) confirm(ctx context.Context, u unpacking, id snapshot.ID) (Derived, error) {
	seen, err := l.Seen(u.DiffID, u.Blob.Digest)
	if err != nil {
		return Derived{}, err
	}
	if d, ok := l.DiffIDs.Known(id); ok && d.DiffID == u.DiffID && seen {
		u.report(u.Blob.Size, true)
		return d, nil
	}
	r, err := l.open(ctx, u)
	if err != nil {
		return Derived{}, err
	}
	defer r.Close()
	d, err := hashLayer(ctx, r, u.DiffID)
	if err != nil {
		return Derived{}, err
	}
	l.DiffIDs.Set(id, d)
	u.report(u.Blob.Size, true)
	return d, nil
}

// hashLayer reads a layer and compares what it is with its diff ID.
func hashLayer(ctx context.Context, r io.Reader, want digest.Digest) (Derived, error) {
	dec, _, err := layer.Decompress(r)
	if err != nil {
		return Derived{}, err
	}
	defer dec.Close()
	h := &countHash{h: want.Algorithm().Hash()}
	in := io.TeeReader(dec, h)
	d := Derived{DiffID: want}
	// The tree is there, so the tar has been read by somebody: what matters is the digest, which is of all bytes.
	for tr := tar.NewReader(in); ctx.Err() == nil; {
		hdr, err := tr.Next()
		if err != nil {
			break
		}
		d.Files += hdr.Size
	}
	if err := copyContext(ctx, io.Discard, in); err != nil {
		return Derived{}, err
	}
	if got := digest.NewDigest(want.Algorithm(), h.h); got != want {
		return Derived{}, fmt.Errorf("%w: got %s instead of %s", layer.ErrDiffID, got, want)
	}
	d.Size = h.n
	return d, nil
}

func (l *Layers) open(ctx context.Context, u unpacking) (*blob.Reader, error) {
	if u.Fetch != nil && !l.Blobs.Has(u.Blob) {
		if err := u.Fetch(ctx); err != nil {
			return nil, err
		}
	}
	return l.Blobs.Open(u.Blob.Digest)
}

// applyLayer makes the snapshot id of one layer.
func (l *Layers) applyLayer(ctx context.Context, u unpacking, id snapshot.ID) (image.Layer, error) {
	r, err := l.open(ctx, u)
	if err != nil {
		return image.Layer{}, err
	}
	defer r.Close()
	d := layer.NewDraft("unpack")
	mounts, err := l.Snapshots.Prepare(ctx, d, u.parent)
	if err != nil {
		return image.Layer{}, err
	}
	committed := false
	defer func() {
		if !committed {
			_ = l.Snapshots.Discard(context.WithoutCancel(ctx), d)
		}
	}()
	t, ok := layer.TargetOf(mounts)
	if !ok {
		return image.Layer{}, fmt.Errorf("draft on %q cannot be written to", u.parent)
	}
	res, err := layer.Apply(ctx, t, r, layer.Options{
		DiffID: u.DiffID, Limits: l.Limits, Windows: u.Windows, Progress: func(n int64) { u.report(n, false) },
	})
	if err != nil {
		return image.Layer{}, err
	}
	derived := Derived{DiffID: u.DiffID, Size: res.Size, Files: res.Files}
	l.DiffIDs.Set(id, derived)
	committed = true
	if err := l.Snapshots.Commit(ctx, d, id); err != nil && !errors.Is(err, snapshot.ErrExists) {
		return image.Layer{}, err
	}
	u.report(u.Blob.Size, true)
	return derived.layer(id), nil
}
