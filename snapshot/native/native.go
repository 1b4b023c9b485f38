// Package native is a snapshotter of plain directories, for where there is no overlayfs: each snapshot is a whole tree,
// and a draft begins as a copy of its parent.
//
// The copy shares blocks where the file system can (btrfs, XFS: FICLONE), and takes time and space in proportion to the
// tree where it cannot. Files are never hard-linked between snapshots: a draft may be written in place, and that would
// write to its parent, which must not change.
//
// There is no directory with the difference of a snapshot to its parent, so a native snapshotter is neither a
// snapshot.Differ nor a snapshot.DraftWriter: differences are found by comparing. Info.Size is what the whole copy
// takes, with shared blocks counted in full.
//
// Life cycle and locks are those of snapshot/store; this package adds none.
package native

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/store"
)

// Snapshotter is a snapshotter of plain directories.
type Snapshotter struct {
	*store.Store
}

var _ snapshot.Snapshotter = (*Snapshotter)(nil)

// Open opens the snapshotter in dir, which is made if it does not exist. The caller closes it.
func Open(ctx context.Context, dir string, opts store.Options) (*Snapshotter, error) {
	s, err := store.Open(ctx, dir, new(driver), opts)
	if err != nil {
		return nil, err
	}
	return &Snapshotter{s}, nil
}

// driver is the store.Driver.
type driver struct {
	noClone atomic.Bool // the file system cannot share blocks, as was seen
}

// Fill implements store.Driver.
func (d *driver) Fill(ctx context.Context, dir string, chain []store.Layer) error {
	fs := filepath.Join(dir, "fs")
	if len(chain) > 0 {
		c := copier{noClone: &d.noClone, linked: make(map[uint64]string)}
		return c.tree(ctx, chain[0].FS(), fs)
	}
	if err := os.Mkdir(fs, 0o755); err != nil {
		return err
	}
	return os.Chmod(fs, 0o755) // whatever the umask
}

// Inspect implements store.Driver. No mark makes sense for whole trees.
func (d *driver) Inspect(string, []store.Layer, bool) (store.Marks, error) { return store.Marks{}, nil }

// Mounts implements store.Driver.
func (d *driver) Mounts(dir string, _ []store.Layer) []snapshot.Mount {
	return []snapshot.Mount{{Type: "bind", Source: filepath.Join(dir, "fs")}}
}

// Remount implements store.Driver. Whether fsync does nothing cannot be chosen for a directory.
func (d *driver) Remount(dir string, chain []store.Layer, _ bool) ([]snapshot.Mount, error) {
	return d.Mounts(dir, chain), nil
}

// View implements store.Driver.
func (d *driver) View(chain []store.Layer) []snapshot.Mount {
	return []snapshot.Mount{{Type: "bind", Source: chain[0].FS(), Options: []string{"ro"}}}
}
