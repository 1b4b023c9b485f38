package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	snapmount "github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/container/tree"
)

// withTree calls f with the files of the container as its processes see them, which is live, volumes included, or as they
// would. One that does not run is not started meanwhile.
func (c *ctr) withTree(ctx context.Context, f func(root *os.File, live bool) error) error {
	if root, err := c.liveRoot(ctx, "root"); err == nil {
		defer root.Close()
		return f(root, true)
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	if c.status().Alive() { // it has been started meanwhile
		c.unlock()
		root, err := c.liveRoot(ctx, "root")
		if err != nil {
			return err
		}
		defer root.Close()
		return f(root, true)
	}
	defer c.unlock()
	if c.status().Phase == Gone {
		return noSuch(c.id)
	}
	return c.idleTree(ctx, func(root *os.File) error { return f(root, false) })
}

// liveRoot opens what of /proc leads to the first process's root or namespace.
func (c *ctr) liveRoot(ctx context.Context, what string) (*os.File, error) {
	box, err := c.running()
	if err != nil {
		return nil, err
	}
	pid := box.Pid("")
	if pid == 0 {
		return nil, notRunning(c.id)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, what))
	if err != nil {
		return nil, err
	}
	// As long as the process lives its number is no other's: what was opened is the container's.
	if err := box.Signal(ctx, "", 0); err != nil {
		f.Close()
		return nil, notRunning(c.id)
	}
	return f, nil
}

// rootFS opens the root of the container without what is mounted in it. One that does not run is not started until the
// release.
func (c *ctr) rootFS(ctx context.Context) (root *os.File, release func(), err error) {
	if ns, err := c.liveRoot(ctx, "ns/mnt"); err == nil {
		defer ns.Close()
		root, err := cloneRoot(ns)
		if err != nil {
			return nil, nil, err
		}
		return root, func() { root.Close() }, nil
	}
	if err := c.lock(ctx); err != nil {
		return nil, nil, err
	}
	if c.status().Alive() {
		c.unlock()
		return nil, nil, worker.Conflictf("container %s is being started", c.id)
	}
	root, err = c.openRoot(ctx, c.get())
	if err != nil {
		c.unlock()
		return nil, nil, err
	}
	return root, func() { root.Close(); c.unlock() }, nil
}

// onThread runs f in a thread that f may leave in another namespace: it ends with f.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// cloneRoot makes a detached mount of the root of a mount namespace, without the mounts below it.
func cloneRoot(ns *os.File) (root *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("setns", err)
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("open_tree", err)
		}
		root = os.NewFile(uintptr(fd), "root of a container")
		return nil
	})
	return root, err
}

// idleTree calls f with the files of a container that does not run. They are mounted in a namespace that ends with the call.
func (c *ctr) idleTree(ctx context.Context, f func(root *os.File) error) error {
	rec := c.get()
	root, err := c.openRoot(ctx, rec)
	if err != nil {
		return err
	}
	defer root.Close()
	mounts, err := c.openIdleMounts(ctx, rec)
	defer closeMounts(mounts)
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return f(root)
	}
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
		if err := snapmount.Attach(root, c.dir()); err != nil {
			return err
		}
		for _, m := range mounts {
			if err := attachIn(root, &m); err != nil {
				return err
			}
		}
		return f(root)
	})
}

// openIdleMounts opens the mounts that hold files, as detached ones.
func (c *ctr) openIdleMounts(ctx context.Context, rec *record) (out []executor.Mount, err error) {
	for i := range rec.Mounts {
		p := &rec.Mounts[i]
		if p.Type == mount.TypeTmpfs {
			continue
		}
		em, err := c.openMount(ctx, p)
		if p.Type == mount.TypeVolume {
			defer func() {
				c.m.warn("giving back a volume", c.m.deps.Volumes.Unmount(context.WithoutCancel(ctx), p.Name, c.id))
			}()
		}
		if err != nil {
			return out, err
		}
		if p.Type != mount.TypeImage {
			if em.Source, err = detached(em.Source, p); err != nil {
				return out, err
			}
		}
		out = append(out, em)
	}
	slices.SortStableFunc(out, func(a, b executor.Mount) int { return depth(a.Target) - depth(b.Target) })
	return out, nil
}

// detached makes a detached mount of what f is open for, and closes f.
func detached(f *os.File, p *mountPoint) (*os.File, error) {
	defer f.Close()
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if !p.NonRecursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(f.Fd()), "", flags)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	out := os.NewFile(uintptr(fd), f.Name())
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if p.ReadOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return nil, errors.Join(os.NewSyscallError("mount_setattr", err), out.Close())
	}
	return out, nil
}

// attachIn mounts m at its target in root, in the namespace of the calling thread.
func attachIn(root *os.File, m *executor.Mount) error {
	fi, err := m.Source.Stat()
	if err != nil {
		return err
	}
	at, err := tree.MountPoint(root, m.Target, fi.IsDir())
	if err != nil {
		return err
	}
	defer at.Close()
	err = unix.MoveMount(int(m.Source.Fd()), "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mounting at %s: %w", m.Target, err)
	}
	return nil
}

// readOnlyAt returns docker's error if what lies at a path of the container cannot be written to.
func (c *ctr) readOnlyAt(rec *record, real string) error {
	var at *mountPoint
	for i := range rec.Mounts {
		if p := &rec.Mounts[i]; contains(p.Target, real) && (at == nil || len(p.Target) > len(at.Target)) {
			at = p
		}
	}
	switch {
	case at != nil && at.ReadOnly:
		return worker.Errorf(errPermission, "mounted volume is marked read-only")
	case at == nil && rec.HostConfig.ReadonlyRootfs:
		return worker.Errorf(errPermission, "container rootfs is marked read-only")
	}
	return nil
}

// base is the last part of a path as docker's clients expect it before what they copy: "." of one that ends so, and nothing
// for the root.
func base(name string) string {
	if last := path.Base("/" + strings.TrimRight(name, "/")); last != "/" {
		return last
	}
	return ""
}
