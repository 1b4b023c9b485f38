package images

import (
	"context"
	"errors"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
)

// Sources are what a lease.Manager has to know of the store: snapshots, which keep the blobs of their layers too, blobs,
// and images, which keep both. A layer that was pulled cannot be exported without its blob, since no other tar has its
// diff ID; so the blob lives as long as the tree.
func (l *Layers) Sources() []lease.Source {
	snapshots := lease.Snapshots(l.Snapshots)
	list, remove := snapshots.List, snapshots.Remove
	snapshots.List = func(ctx context.Context) iter.Seq2[lease.Info, error] {
		return func(yield func(lease.Info, error) bool) {
			for info, err := range list(ctx) {
				if err == nil {
					info.Refs, err = l.blobRefs(info.Refs, snapshot.ID(info.Name))
				}
				if !yield(info, err) {
					return
				}
			}
		}
	}
	snapshots.Remove = func(ctx context.Context, name string) error {
		err := remove(ctx, name)
		if err == nil {
			l.DiffIDs.Forget(snapshot.ID(name))
		}
		return err
	}
	return []lease.Source{
		snapshots,
		{
			Kind: lease.Blob, Class: lease.Plain, List: l.listBlobs,
			Stat: func(_ context.Context, name string) error {
				_, err := l.Blobs.Stat(digest.Digest(name))
				if errors.Is(err, blob.ErrNotFound) {
					return errors.Join(snapshot.ErrNotFound, err)
				}
				return err
			},
			Remove: func(_ context.Context, name string) error { return l.Blobs.Delete(digest.Digest(name)) },
		},
		{Kind: lease.Image, Class: lease.Pinned, List: l.listImages},
	}
}

// blobRefs adds the blobs of the layer that id is the top of.
func (l *Layers) blobRefs(refs []lease.Item, id snapshot.ID) ([]lease.Item, error) {
	d, ok := l.DiffIDs.Known(id)
	if !ok {
		return refs, nil
	}
	blobs, _, err := l.Images.Blobs(d.DiffID)
	for _, b := range blobs {
		refs = append(refs, blobItem(b.Digest))
	}
	return refs, err
}

func (l *Layers) listBlobs(ctx context.Context) iter.Seq2[lease.Info, error] {
	return func(yield func(lease.Info, error) bool) {
		for b, err := range l.Blobs.All(ctx) {
			if !yield(lease.Info{Item: blobItem(b.Digest), Size: b.Size, Created: b.Written, Used: b.Written}, err) {
				return
			}
		}
	}
}

func (l *Layers) listImages(context.Context) iter.Seq2[lease.Info, error] {
	return func(yield func(lease.Info, error) bool) {
		all, err := l.Images.List()
		if err != nil {
			yield(lease.Info{}, err)
			return
		}
		index, err := l.indexes()
		if err != nil {
			yield(lease.Info{}, err)
			return
		}
		for _, img := range all {
			info := lease.Info{Item: lease.Item{Kind: lease.Image, Name: string(img.ID)}, Created: img.Created, Used: img.Tagged}
			for _, ly := range img.Layers {
				info.Refs = append(info.Refs, lease.ID(ly.Snapshot))
				for _, b := range ly.Blobs {
					info.Refs = append(info.Refs, blobItem(b.Digest))
				}
			}
			for _, m := range img.Manifests {
				info.Refs = append(info.Refs, blobItem(m.Descriptor.Digest))
			}
			info.Refs = append(info.Refs, index[img.ID]...)
			if !yield(info, nil) {
				return
			}
		}
	}
}

// indexes returns the indexes and manifests that names have, or that have none, by the images that they lead to.
func (l *Layers) indexes() (map[digest.Digest][]lease.Item, error) {
	names, err := l.Images.Names()
	if err != nil {
		return nil, err
	}
	unnamed, err := l.Images.Unnamed()
	if err != nil {
		return nil, err
	}
	out := make(map[digest.Digest][]lease.Item)
	for _, n := range append(names, unnamed...) {
		for _, id := range n.Images {
			for _, d := range n.Blobs() {
				out[id] = append(out[id], blobItem(d.Digest))
			}
		}
	}
	return out, nil
}

// Sync puts on the disk what images are about to depend on: the blobs and, where the snapshotter can, all snapshots. An
// image is put into the store after it.
func (l *Layers) Sync(ctx context.Context, imgs ...*image.Image) error {
	var blobs []digest.Digest
	var snapshots []snapshot.ID
	for _, img := range imgs {
		for _, ly := range img.Layers {
			snapshots = append(snapshots, ly.Snapshot)
			for _, b := range ly.Blobs {
				if l.Blobs.Has(b) {
					blobs = append(blobs, b.Digest)
				}
			}
		}
		for _, m := range img.Manifests {
			blobs = append(blobs, m.Descriptor.Digest)
		}
	}
	if err := l.Blobs.Sync(blobs...); err != nil {
		return err
	}
	if s, ok := l.Snapshots.(snapshot.Syncer); ok {
		return s.Sync(ctx, snapshots...)
	}
	return nil
}
