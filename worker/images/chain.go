package images

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
)

// Windows is what the configuration of an image for Windows calls its system. The layers of such an image are unpacked in
// another way than others; see Packed.
const Windows = "windows"

// chain finds the snapshot of a chain of layers, of an image for Windows or another, held for the lease in ctx.
func (l *Layers) chain(ctx context.Context, chain digest.Digest, windows bool) (snapshot.ID, bool, error) {
	ids := []snapshot.ID{chainSnapshot(chain, windows)}
	if windows {
		ids = append(ids, plainSnapshot(chain))
	}
	if id, ok := l.Images.Snapshot(chain); ok && id != ids[0] {
		ids = append([]snapshot.ID{id}, ids...)
	}
	for _, id := range ids {
		err := hold(ctx, lease.ID(id))
		if err == nil {
			_, err = l.Snapshots.Stat(ctx, id)
		}
		fits := false
		if err == nil {
			fits, err = l.fits(ctx, id, windows)
		}
		switch {
		case fits:
			return id, true, nil
		case err != nil && !errors.Is(err, snapshot.ErrNotFound):
			return "", false, fmt.Errorf("looking for the layers of %s: %w", chain, err)
		}
	}
	return "", false, nil
}

// fits says whether the tree of a chain's snapshot is what the chain is for an image of that kind. It is, for Windows, if it
// was unpacked as that, or was built here: then its blobs are made of it.
func (l *Layers) fits(ctx context.Context, id snapshot.ID, windows bool) (bool, error) {
	is, err := layer.IsWindows(ctx, l.Snapshots, id)
	if err != nil || is || !windows {
		return is == windows, err
	}
	hex := len(id) == 64 && !strings.HasPrefix(string(id), plainPrefix)
	return !hex, nil
}

// Usable says whether the layers of an image of the store are as its configuration wants them. Those of images for Windows
// are not if a version of this program unpacked them that knew no such layers.
func (l *Layers) Usable(ctx context.Context, img *image.Image) (bool, error) {
	if img.Platform.OS != Windows || len(img.Layers) == 0 {
		return true, nil
	}
	return l.fits(ctx, img.Layers[len(img.Layers)-1].Snapshot, true)
}

// chainSnapshot is the ID of the snapshot that holds a chain of layers which were applied, as opposed to built.
func chainSnapshot(chain digest.Digest, windows bool) snapshot.ID {
	if windows {
		return layer.WindowsID(chain)
	}
	return snapshot.ID(chain.Encoded()[:64])
}

const plainPrefix = "plain"

// plainSnapshot is chainSnapshot for a layer of an image for Windows that has the form of all others.
func plainSnapshot(chain digest.Digest) snapshot.ID {
	return snapshot.ID(plainPrefix + chain.Encoded()[:64-len(plainPrefix)])
}
