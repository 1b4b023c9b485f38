package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/container/tree"
)

// A place is something that every container has, whatever its image: what is mounted on, or what programs look for to find
// out that they are in a container. They are docker's (daemon/initlayer).
type place struct {
	path string
	dir  bool
	link string // where it leads to, if it is a symbolic link
}

var places = []place{
	{path: "/.dockerenv"},
	{path: "/dev/console"},
	{path: "/dev/pts", dir: true},
	{path: "/dev/shm", dir: true},
	{path: "/etc/hostname"},
	{path: "/etc/hosts"},
	{path: "/etc/mtab", link: "/proc/mounts"},
	{path: "/etc/resolv.conf"},
	{path: "/proc", dir: true},
	{path: "/sys", dir: true},
}

// base sees to it that there is the tree on which the writable layer stands: the image's, with all places. That they are
// below the layer is what makes them no changes of the container's, and no part of what is committed.
func (cr *creation) base(ctx context.Context) error {
	id := worker.BaseOf(cr.rec.Snapshot)
	err := cr.lease.Reserve(ctx, lease.ID(id))
	if err == nil {
		_, err = cr.m.deps.Snapshots.Stat(ctx, id)
	}
	if errors.Is(err, snapshot.ErrNotFound) {
		err = cr.m.makeBase(ctx, id, cr.rec.Snapshot)
	}
	if err == nil && !cr.rec.autoRemove() { // else it is removed anyway after a power cut
		err = cr.m.syncBase(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("making the tree below the writable layer: %w", err)
	}
	cr.rec.Base = id
	return nil
}

// makeBase makes the base id of the tree parent, which the caller holds. It is no error if somebody else has.
func (m *Manager) makeBase(ctx context.Context, id, parent snapshot.ID) error {
	d := layer.NewDraft("base")
	mounts, err := m.deps.Snapshots.Prepare(ctx, d, parent)
	if err != nil {
		return err
	}
	if err := m.putPlaces(ctx, mounts); err != nil {
		return errors.Join(err, m.deps.Snapshots.Discard(context.WithoutCancel(ctx), d))
	}
	m.mu.Lock()
	m.fresh[id] = struct{}{}
	m.mu.Unlock()
	if err := m.deps.Snapshots.Commit(ctx, d, id); !errors.Is(err, snapshot.ErrExists) {
		return err
	}
	return nil
}

// syncBase has a base that was made a moment ago written to the disk: the record of a container must not survive what it
// stands on. The caller holds the base.
func (m *Manager) syncBase(ctx context.Context, id snapshot.ID) error {
	m.mu.Lock()
	_, fresh := m.fresh[id]
	m.mu.Unlock()
	s, ok := m.deps.Snapshots.(snapshot.Syncer)
	if !fresh || !ok {
		return nil
	}
	if err := s.Sync(ctx, id); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.fresh, id)
	m.mu.Unlock()
	return nil
}

func (m *Manager) putPlaces(ctx context.Context, mounts []snapshot.Mount) error {
	root, err := m.open(ctx, mounts)
	if err != nil {
		return err
	}
	defer root.Close()
	for i := range places {
		if err := places[i].put(root); err != nil {
			return fmt.Errorf("making %s: %w", places[i].path, err)
		}
	}
	return nil
}

// put makes a place, instead of what the image has there, but for a directory. No symbolic link is followed: one on the way
// is replaced too.
func (p *place) put(root *os.File) error {
	dir, err := unix.Openat(int(root.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { unix.Close(dir) }()
	names := strings.Split(strings.Trim(p.path, "/"), "/")
	base := len(names) - 1
	if p.dir {
		base++
	}
	for _, name := range names[:base] {
		next, err := openDirectory(dir, name)
		if err != nil {
			return err
		}
		unix.Close(dir)
		dir = next
	}
	if p.dir {
		return nil
	}
	switch err := unix.Unlinkat(dir, names[base], 0); {
	case errors.Is(err, unix.EISDIR):
		return nil
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	}
	if p.link != "" {
		return unix.Symlinkat(p.link, dir, names[base])
	}
	fd, err := unix.Openat(dir, names[base], unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o755)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// openDirectory opens the directory name in dir. What is there and is none is replaced.
func openDirectory(dir int, name string) (int, error) {
	open := func() (int, error) {
		return unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	fd, err := open()
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if err = unix.Unlinkat(dir, name, 0); err == nil {
			err = unix.ENOENT
		}
	}
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return -1, err
	}
	return open()
}

// workingDir makes the working directory in the writable layer d, so that files can be copied there before the start. What
// cannot be made is left to the start, which says why.
func (cr *creation) workingDir(ctx context.Context, d snapshot.Draft) error {
	dir := path.Clean("/" + cr.rec.Config.WorkingDir)
	if dir == "/" {
		return nil
	}
	mounts, err := cr.m.keeper.Mounts(ctx, d, cr.rec.autoRemove())
	if err != nil {
		return err
	}
	root, err := cr.m.open(ctx, mounts)
	if err != nil {
		return fmt.Errorf("making the working directory: %w", err)
	}
	defer root.Close()
	f, err := tree.MountPoint(root, dir, true)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && !fi.IsDir() {
		return worker.Invalidf("Cannot mkdir: %s is not a directory", cr.rec.Config.WorkingDir)
	}
	return nil
}

// makeTargets makes what is missing of the places at which mounts, those above first, will be mounted on the container's own
// files. As with docker they stay when the container ends. What cannot be made is left to the sandbox, which says why.
func makeTargets(root *os.File, mounts []executor.Mount) {
	for i := range mounts {
		m := &mounts[i]
		if covered(mounts[:i], m.Target) {
			continue
		}
		dir := m.Source == nil
		if !dir {
			fi, err := m.Source.Stat()
			if err != nil {
				continue
			}
			dir = fi.IsDir()
		}
		if f, err := tree.MountPoint(root, path.Clean(m.Target), dir); err == nil {
			f.Close()
		}
	}
}

// covered says whether a target lies in what is mounted before.
func covered(above []executor.Mount, target string) bool {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if contains(dir, target) {
			return true
		}
	}
	for i := range above {
		if contains(above[i].Target, target) {
			return true
		}
	}
	return false
}
