package container

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"github.com/boxbuild/boxbuild/worker"
)

// Remove implements worker.Containers.
func (m *Manager) Remove(ctx context.Context, ref string, opt worker.RemoveContainerOptions) (err error) {
	begin := time.Now()
	defer func() { m.meter("delete", begin, err) }()
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	if opt.Link {
		return worker.Conflictf("Conflict, cannot remove the default link name of the container")
	}
	if c.status().Phase == Removing {
		return inProgress(c.id)
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	return c.remove(ctx, opt)
}

func inProgress(id string) error {
	return worker.Conflictf("removal of container %s is already in progress", id)
}

// remove removes the container as a user wants it. The turn is held.
func (c *ctr) remove(ctx context.Context, opt worker.RemoveContainerOptions) error {
	rec := c.get()
	switch phase := rec.Status.Phase; {
	case phase == Gone:
		return noSuch(c.id)
	case phase == Paused && !opt.Force:
		return worker.Conflictf("cannot remove container %q: container is paused and must be unpaused first", "/"+rec.Name)
	case rec.Status.Up() && !opt.Force:
		return worker.Conflictf("cannot remove container %q: container is %s: stop the container before removing or force remove",
			"/"+rec.Name, phase)
	}
	c.cancelRestart()
	c.change(func(rec *record) {
		rec.Want, rec.Stopped = WantRemove, true
		rec.Mounts = slices.Clone(rec.Mounts)
		for i := range rec.Mounts { // Delete removes those that are to go; a try before this one may have wanted it otherwise
			rec.Mounts[i].Remove = opt.Volumes && rec.Mounts[i].Anonymous
		}
	})
	if rec.Status.Alive() {
		c.publish(events.ActionKill, map[string]string{"signal": strconv.Itoa(int(syscall.SIGKILL))})
	}
	if err := c.reach(ctx, WantRemove); err != nil {
		return worker.Errorf(class(err), "unable to remove container %q: %v", c.id, err)
	}
	return nil
}

// class is the class of an error, for one with another text.
func class(err error) error {
	for _, c := range []error{errdefs.ErrNotFound, errdefs.ErrConflict, errdefs.ErrInvalidArgument} {
		if errors.Is(err, c) {
			return c
		}
	}
	return errdefs.ErrInternal
}

// Delete implements Controller. That the record is gone is what removes a container; a daemon that is killed after that
// sweeps up the rest. For one that goes by itself it is the other way round: it is found without its directory, and goes
// on to be removed.
func (c *ctr) Delete(ctx context.Context, now Status) (Status, error) {
	m, rec := c.m, c.get()
	ctx = context.WithoutCancel(ctx)
	if !rec.autoRemove() {
		c.disown(rec)
		if err := m.records.remove(c.id); err != nil {
			now.Phase = Dead
			return now, err
		}
		c.dropVolumes(ctx, rec) // which the directory has the names of
	}
	c.failPending(nil)
	m.warn("removing the directory of a container", os.RemoveAll(c.dir()))
	if err := m.deps.Snapshots.Discard(ctx, c.draft()); err != nil {
		m.log.Error("removing the writable layer of a container", "container", c.id, "error", err)
	}
	if rec.autoRemove() {
		c.dropVolumes(ctx, rec)
		m.records.forget(c.id)
	}
	m.leave(c)
	m.forgetExecs(c)
	now.Phase, now.Pid = Gone, 0
	c.change(func(rec *record) { rec.Status = now })
	c.publish(events.ActionDestroy, nil)
	c.tell(true)
	return now, nil
}

// dropVolumes lets go of the container's volumes, and removes those that are to go with it.
func (c *ctr) dropVolumes(ctx context.Context, rec *record) {
	for _, p := range rec.Mounts {
		if p.Type != mount.TypeVolume {
			continue
		}
		c.m.deps.Volumes.Drop(p.Name, c.id)
		if p.Remove || p.Anonymous && rec.autoRemove() {
			if err := c.m.deps.Volumes.Remove(ctx, p.Name, false); err != nil && !errdefs.IsConflict(err) {
				c.m.warn("removing a volume of a container", err)
			}
		}
	}
}
