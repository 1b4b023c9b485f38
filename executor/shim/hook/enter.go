package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// onThread calls fn on a thread that nothing else runs on, before or after.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never undone: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

// inside is the calling thread in the namespaces of a sandbox, with the host's tree over the root of the mount namespace and
// the sandbox's root in it.
type inside struct {
	root  *os.File // a detached copy of the root, without its mounts
	under *os.File // the root of the mount namespace as it was
	host  *os.File // the host's tree
	moved *os.File // the sandbox's root
	place string
	pid   int // of the sandbox's process, in the pid namespace that hooks run in
}

// joined are the namespaces that createContainer hooks run in, with that of pids if it is the sandbox's own. In one that it
// shares, others could trace the hook, which has all rights. What the sandbox shares with the host is joined to no effect.
const joined = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// enter is to be called on a thread of its own. The sandbox's process, and whoever else is in the mount namespace, have their
// root below what is put over it here, and so do not see it.
func enter(b *Bundle, w *Waiting) (_ *inside, err error) {
	in := &inside{place: strings.TrimPrefix(w.Place, "/")}
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	if in.pid, err = OwnPid(w.PidFD); err != nil {
		return nil, err
	}
	flags := joined | unix.CLONE_NEWPID
	if in.pid != 1 {
		flags, in.pid = joined, w.Pid
	}
	if in.host, err = hostTree(); err != nil {
		return nil, err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // else the kernel lets no thread join a mount namespace
		return nil, os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(int(w.PidFD.Fd()), flags); err != nil {
		return nil, fmt.Errorf("joining the sandbox's namespaces: %w", err)
	}
	if in.under, err = open(unix.AT_FDCWD, "/"); err != nil {
		return nil, err
	}
	if in.moved, err = open(int(in.under.Fd()), in.place); err != nil {
		return nil, err
	}
	fd, err := unix.OpenTree(int(in.moved.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("copying the root: %w", err)
	}
	in.root = os.NewFile(uintptr(fd), "root")
	host := int(in.host.Fd())
	if err := unix.MoveMount(host, "", int(in.under.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("putting the host's files before hooks: %w", err)
	}
	to, err := open(host, strings.TrimPrefix(filepath.Join(b.dir, "rootfs"), "/"))
	if err == nil {
		err = move(in.moved, to)
		to.Close()
	}
	if err == nil {
		err = chroot(in.host)
	}
	if err != nil {
		return nil, errors.Join(err, in.takeOff())
	}
	return in, nil
}

// leave gives the sandbox its root back, and takes the host's tree away.
func (in *inside) leave() error {
	defer in.close()
	to, err := open(int(in.under.Fd()), in.place)
	if err != nil {
		return err
	}
	defer to.Close()
	return errors.Join(move(in.moved, to), in.takeOff())
}

// takeOff takes the host's tree off the mount namespace.
func (in *inside) takeOff() error {
	if err := unix.Fchdir(int(in.host.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("taking the host's files away: %w", err)
	}
	return chroot(in.under)
}

func (in *inside) close() {
	for _, f := range []*os.File{in.root, in.under, in.host, in.moved} {
		if f != nil {
			f.Close()
		}
	}
}

// hostTree returns a detached copy of all that this process sees, which can only be read.
func hostTree() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("copying the host's mounts: %w", err)
	}
	// Private, lest the host gets what is mounted here.
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("protecting the host's files: %w", err)
	}
	return os.NewFile(uintptr(fd), "host"), nil
}

// OwnPid returns the number of a process in its own pid namespace.
func OwnPid(pidfd *os.File) (int, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(info)) {
		if all, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if n := strings.Fields(all); len(n) > 0 {
				return strconv.Atoi(n[len(n)-1])
			}
		}
	}
	return 0, errors.New("the sandbox's process has ended")
}

// open opens a place in the directory dir, with what is mounted there.
func open(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func move(mount, to *os.File) error {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(int(mount.Fd()), "", int(to.Fd()), "", flags); err != nil {
		return fmt.Errorf("moving the root to %s: %w", to.Name(), err)
	}
	return nil
}

func chroot(dir *os.File) error {
	if err := unix.Fchdir(int(dir.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	return nil
}
