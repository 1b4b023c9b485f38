package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	snapmount "github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/worker"
)

// A mountPoint is a mount of a container as it was decided on at its creation.
type mountPoint struct {
	Type   mount.Type
	Target string // cleaned, absolute
	Source string `json:",omitempty"` // of a bind, a path of the host; of an image, as the user named it
	Name   string `json:",omitempty"` // of a volume
	// Snapshot is the tree of an image.
	Snapshot snapshot.ID `json:",omitempty"`
	Subpath  string      `json:",omitempty"` // of a volume or an image
	ReadOnly bool        `json:",omitempty"`
	Mode     string      `json:",omitempty"` // as the user wrote it with -v
	// Propagation is of a bind; empty means rprivate.
	Propagation  mount.Propagation `json:",omitempty"`
	NonRecursive bool              `json:",omitempty"`
	ReadOnlyTop  bool              `json:",omitempty"` // ReadOnly is not for the mounts below
	// MakeSource says that a bind whose source does not exist makes it a directory.
	MakeSource bool `json:",omitempty"`
	// Copy says that an empty volume gets what the image has at Target.
	Copy bool `json:",omitempty"`
	// Anonymous volumes are removed with the container, if asked for; Remove says that it was.
	Anonymous bool `json:",omitempty"`
	Remove    bool `json:",omitempty"`
	// Options are those of a tmpfs, as mount(8) has them. Plain says that it came with --tmpfs, of which inspect does not
	// tell under Mounts.
	Options []string `json:",omitempty"`
	Plain   bool     `json:",omitempty"`
}

// openMounts opens what is mounted in the container, in the order in which it has to be: what lies above comes first. The
// mounts are to be closed also if there is an error.
func (c *ctr) openMounts(ctx context.Context, rec *record) (mounts []executor.Mount, err error) {
	if mounts, err = c.openFiles(rec); err != nil {
		return mounts, err
	}
	for i := range rec.Mounts {
		em, err := c.openMount(ctx, &rec.Mounts[i])
		if err != nil {
			return mounts, err
		}
		mounts = append(mounts, em)
	}
	slices.SortStableFunc(mounts, func(a, b executor.Mount) int { return depth(a.Target) - depth(b.Target) })
	return mounts, nil
}

func depth(path string) int { return strings.Count(path, "/") }

func closeMounts(mounts []executor.Mount) {
	for _, m := range mounts {
		if m.Source != nil {
			m.Source.Close()
		}
	}
}

func (c *ctr) openMount(ctx context.Context, p *mountPoint) (em executor.Mount, err error) {
	em = executor.Mount{
		Target: p.Target, ReadOnly: p.ReadOnly, Propagation: string(p.Propagation), NonRecursive: p.NonRecursive, ReadOnlyTop: p.ReadOnlyTop,
	}
	if em.Propagation == "" && p.Type != mount.TypeTmpfs {
		em.Propagation = string(mount.PropagationRPrivate)
	}
	switch p.Type {
	case mount.TypeBind:
		em.Source, err = openBind(p)
	case mount.TypeVolume:
		em.Source, err = c.openVolume(ctx, p)
	case mount.TypeImage:
		em.ReadOnly = true
		em.Source, err = c.openImage(ctx, p)
	case mount.TypeTmpfs:
		err = tmpfs(&em, p.Options)
	case mount.TypeNamedPipe, mount.TypeCluster:
		err = worker.Invalidf("mount type %q is unknown here", p.Type)
	}
	return em, err
}

// openBind opens a path of the host.
func openBind(p *mountPoint) (*os.File, error) {
	f, err := os.OpenFile(p.Source, unix.O_PATH, 0)
	if errors.Is(err, fs.ErrNotExist) && p.MakeSource {
		if err := os.MkdirAll(p.Source, 0o755); err != nil {
			return nil, fmt.Errorf("error while creating mount source path '%s': %w", p.Source, err)
		}
		f, err = os.OpenFile(p.Source, unix.O_PATH, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, worker.Invalidf("invalid mount config for type \"bind\": bind source path does not exist: %s", p.Source)
	}
	if err != nil {
		return nil, err
	}
	if err := checkPropagation(f, p); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (c *ctr) openVolume(ctx context.Context, p *mountPoint) (*os.File, error) {
	f, err := c.m.deps.Volumes.Mount(ctx, p.Name, &worker.VolumeUse{
		Container: c.id, Destination: p.Target, ReadOnly: p.ReadOnly, Propagation: string(p.Propagation),
	})
	if err != nil || p.Subpath == "" {
		return f, err
	}
	defer f.Close()
	return openSubpath(f, p)
}

// openSubpath opens what is below f: whatever symbolic links are there stay in it.
func openSubpath(f *os.File, p *mountPoint) (*os.File, error) {
	sub, err := snapmount.Resolve(f, p.Subpath, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, worker.Invalidf("cannot access path %s: no such file or directory", p.Subpath)
	}
	return sub, err
}

// openImage mounts the tree of an image, which the container's record keeps.
func (c *ctr) openImage(ctx context.Context, p *mountPoint) (_ *os.File, err error) {
	f, err := c.m.viewOf(ctx, p.Snapshot)
	if err != nil || p.Subpath == "" {
		return f, err
	}
	defer f.Close()
	return snapmount.Sub(f, p.Subpath, snapmount.ReadOnly())
}

// viewOf mounts a snapshot that somebody keeps, for reading.
func (m *Manager) viewOf(ctx context.Context, id snapshot.ID) (*os.File, error) {
	d := layer.NewDraft("view")
	mounts, err := m.deps.Snapshots.View(ctx, d, id)
	if err != nil {
		return nil, err
	}
	f, err := m.open(ctx, mounts)
	if err = errors.Join(err, m.deps.Snapshots.Discard(context.WithoutCancel(ctx), d)); err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, err
}

// tmpfs reads the options of a tmpfs. Without any it has docker's.
func tmpfs(em *executor.Mount, opts []string) error {
	em.Type, em.NoExec, em.NoSuid, em.NoDev, em.Mode = executor.Tmpfs, true, true, true, 0o1777
	for _, opt := range opts {
		var err error
		if value, ok := strings.CutPrefix(opt, "size="); ok && !strings.HasSuffix(value, "%") {
			em.Size, err = units.RAMInBytes(value)
		} else {
			err = em.SetOption(opt)
		}
		if err != nil {
			return worker.Invalidf("invalid tmpfs option [%q]", opt)
		}
	}
	return nil
}
