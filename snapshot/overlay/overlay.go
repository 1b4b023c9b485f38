// Package overlay is a snapshotter on overlayfs: a snapshot is a directory with its difference to its parent, and a
// tree is mounted as an overlay of all of them. It works for root and for root in a user namespace.
//
// # Life cycle
//
// That of package snapshot/store, which keeps the directories; a draft there is
//
//	new-<draft>/fs    the upper directory
//	new-<draft>/work  overlayfs's own, removed at commit
//
// # What a difference consists of
//
// Plain files, whiteouts (character devices 0:0) and opaque directories, and nothing else: drafts are mounted so that
// overlayfs writes no redirects (renaming a directory of a lower layer fails with EXDEV, on which every program
// copies), no metadata-only copies and no index. So a layer tar can be made from the directory alone, and the
// directory from a layer tar alone. The root directory of a layer has all of the tree's root: its owner, mode, extended
// attributes and times are copied from the parent when the draft is made.
//
// Overlayfs does not look for the opaque mark on the root directory of a layer. The snapshotter does: layers below one
// that is opaque are left out of the mount. Layers that add nothing are left out too; many steps of a build make none.
//
// # Sync
//
// Drafts are mounted with "volatile": fsync(2) in the mount does nothing, and neither does unmounting, which would
// otherwise write out the whole file system. Commits are written out by the store, see its package comment. Drafts that
// are kept are mounted without it, unless they are to be lax: what a container has synced is to be on the disk.
//
// Locks are those of snapshot/store; this package has none.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/snapshot/store"
)

// Snapshotter is a snapshotter on overlayfs.
type Snapshotter struct {
	*store.Store
}

var (
	_ snapshot.Snapshotter = (*Snapshotter)(nil)
	_ snapshot.Differ      = (*Snapshotter)(nil)
	_ snapshot.DraftWriter = (*Snapshotter)(nil)
)

// Open opens the snapshotter in dir, which is made if it does not exist. The error wraps errors.ErrUnsupported if no
// overlay can be mounted there. The caller closes it.
func Open(ctx context.Context, dir string, opts store.Options) (*Snapshotter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening overlay snapshots: %w", err)
	}
	d, err := probe(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("opening overlay snapshots in %s: %w", dir, err)
	}
	s, err := store.Open(ctx, dir, d, opts)
	if err != nil {
		return nil, err
	}
	return &Snapshotter{s}, nil
}

// Upper implements snapshot.Differ.
func (s *Snapshotter) Upper(_ context.Context, id snapshot.ID) (string, bool, error) {
	dir, err := s.FS(id)
	return dir, err == nil, err
}

// DraftUpper implements snapshot.DraftWriter.
func (s *Snapshotter) DraftUpper(_ context.Context, d snapshot.Draft) (string, bool, error) {
	dir, err := s.DraftFS(d)
	return dir, err == nil, err
}

// driver is the store.Driver: what was found out of the kernel and the file system.
type driver struct {
	lower  []string // mount options of every overlay
	upper  []string // those of one that is written to
	synced []string // those of one that is written to and can be mounted again
	opaque string   // the name of the mark of an opaque directory
}

// inUserNamespace says whether root here is not the machine's. Then overlayfs keeps its marks in user.* attributes.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

// probePrefix begins the names of directories in which is tried what the kernel can do.
const probePrefix = ".probe-"

// probe finds out which of the options that are wanted the kernel knows, by mounting in dir.
func probe(ctx context.Context, dir string) (*driver, error) {
	// What a daemon has left that was killed here. Only one uses the directory at a time.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), probePrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	tmp, err := os.MkdirTemp(dir, probePrefix)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	m := snapshot.Mount{Type: "overlay"}
	for _, name := range []string{"a", "b", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(tmp, name), 0o700); err != nil {
			return nil, err
		}
	}
	m.Lower = []string{tmp + "/a", tmp + "/b"}
	m.Upper, m.Work = tmp+"/upper", tmp+"/work"

	d := &driver{opaque: "trusted.overlay.opaque"}
	d.lower = []string{"index=off", "redirect_dir=nofollow", "metacopy=off"}
	if inUserNamespace() {
		d.opaque = "user.overlay.opaque"
		d.lower = append(d.lower, "userxattr")
	}
	// volatile: Linux 5.10. uuid=off: 5.14; without it 6.6 and later write an attribute into each upper directory.
	for _, wanted := range [][]string{{"volatile", "uuid=off"}, {"volatile"}, {}} {
		m.Options = append(append([]string(nil), d.lower...), wanted...)
		var f *os.File
		if f, err = mount.Open(ctx, []snapshot.Mount{m}); err == nil {
			f.Close()
			d.upper = m.Options
			d.synced = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "volatile" })
			return d, nil
		}
		if !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
}

// Mounts implements store.Driver.
func (d *driver) Mounts(dir string, chain []store.Layer) []snapshot.Mount {
	fs := filepath.Join(dir, "fs")
	if len(chain) == 0 {
		return []snapshot.Mount{{Type: "bind", Source: fs}}
	}
	return []snapshot.Mount{{
		Type: "overlay", Options: d.upper, Lower: lowers(chain), Upper: fs, Work: filepath.Join(dir, "work"),
	}}
}

// Remount implements store.Driver. A mount with "volatile" leaves a mark which says that it was not synced, and overlayfs
// refuses another one while that is there: it is up to who mounts to know whether the files can be relied on. Here they
// can, as long as the machine has not gone down meanwhile, and after that who asked for a lax mount has no use for them.
func (d *driver) Remount(dir string, chain []store.Layer, lax bool) ([]snapshot.Mount, error) {
	mounts := d.Mounts(dir, chain)
	if mounts[0].Type != "overlay" {
		return mounts, nil
	}
	if err := os.RemoveAll(filepath.Join(dir, "work", "work", "incompat")); err != nil {
		return nil, err
	}
	if !lax {
		mounts[0].Options = d.synced
	}
	return mounts, nil
}

// View implements store.Driver.
func (d *driver) View(chain []store.Layer) []snapshot.Mount {
	dirs := lowers(chain)
	if len(dirs) == 1 {
		return []snapshot.Mount{{Type: "bind", Source: dirs[0], Options: []string{"ro"}}}
	}
	return []snapshot.Mount{{
		Type: "overlay", Options: append([]string{"ro"}, d.lower...), Lower: dirs,
	}}
}

// lowers returns the directories of the layers that count. A bottom is never empty in the sense of the mark, so there
// is one at least.
func lowers(chain []store.Layer) []string {
	dirs := make([]string, 0, len(chain))
	for _, l := range chain {
		if !l.Empty {
			dirs = append(dirs, l.FS())
		}
		if l.Opaque {
			break
		}
	}
	return dirs
}
