package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"github.com/boxbuild/boxbuild/worker"
)

// Volumes are what a Manager needs of the volumes, see package worker/volume.
type Volumes interface {
	// Ensure makes a volume unless there is one of that name, and says whether it did.
	Ensure(ctx context.Context, req *volume.CreateRequest) (v *volume.Volume, created bool, err error)
	Inspect(ctx context.Context, name string) (*volume.Volume, error)
	Remove(ctx context.Context, name string, force bool) error
	// Hold keeps a volume from being removed until Drop.
	Hold(name, container string) error
	Drop(name, container string)
	// Holders are the containers that hold it.
	Holders(name string) []string
	// Mount returns the directory of a volume, which is in use until Unmount.
	Mount(ctx context.Context, name string, use *worker.VolumeUse) (*os.File, error)
	Unmount(ctx context.Context, name, container string) error
	// InUse is Mount that was called by a daemon before this one.
	InUse(ctx context.Context, name, container string) error
	// Settle ends what nobody uses; it is called when all containers have been found again.
	Settle(ctx context.Context) error
}

const (
	// ownFile is the file in a container's directory with the names of the volumes that go when the directory is there and
	// the container is not: the daemon was killed before the container was made, or while it was removed with its volumes.
	ownFile = "volumes"
	// anonymousLabel is docker's.
	anonymousLabel = "com.docker.volume.anonymous"
)

// own gives an anonymous volume its name, which it writes down before there is a volume.
func (cr *creation) own(req *volume.CreateRequest) error {
	req.Name = newID()
	req.Labels = maps.Clone(req.Labels)
	if req.Labels == nil {
		req.Labels = make(map[string]string)
	}
	req.Labels[anonymousLabel] = ""
	f, err := os.OpenFile(filepath.Join(cr.m.dir(cr.rec.ID), ownFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, req.Name)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("writing down the name of a volume: %w", err)
	}
	return nil
}

// disown keeps the volumes of a container that is about to be removed without them.
func (c *ctr) disown(rec *record) {
	for _, p := range rec.Mounts {
		if p.Remove {
			return
		}
	}
	if err := os.Remove(filepath.Join(c.dir(), ownFile)); !errors.Is(err, fs.ErrNotExist) {
		c.m.warn("keeping the volumes of a container", err)
	}
}

// sweepVolumes removes the volumes that go with the directory of no container.
func (m *Manager) sweepVolumes(ctx context.Context, dir string) {
	names, err := os.ReadFile(filepath.Join(dir, ownFile))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			m.warn("looking for the volumes of a container that is none", err)
		}
		return
	}
	for _, name := range strings.Fields(string(names)) {
		if err := m.deps.Volumes.Remove(ctx, name, false); !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			m.warn("removing a volume of a container that is none", err)
		}
	}
}
