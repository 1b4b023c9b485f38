package mount

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// legacyOverlay makes an overlay with mount(2), in a namespace that nobody else sees, and detaches a clone of it.
func legacyOverlay(m snapshot.Mount, readOnly bool) (int, error) {
	var flags uintptr
	if readOnly {
		flags = unix.MS_RDONLY
	}
	fd := -1
	err := inPrivateNamespace(func() error {
		var dirs numbers
		defer dirs.close()
		data, err := dirs.overlayData(m)
		if err != nil {
			return err
		}
		if err := unix.Chdir("/proc/self/fd"); err != nil {
			return fmt.Errorf("changing to /proc/self/fd: %w", err)
		}
		// Any directory will do to mount on, since no path is resolved after this one but the same again.
		at := m.Lower[0]
		if err := unix.Mount("overlay", at, "overlay", flags, data); err != nil {
			return fmt.Errorf("mounting: %w", err)
		}
		fd, err = detach(at)
		return err
	})
	return fd, err
}

// numbers holds directories open, so that their descriptors' numbers can stand for them below /proc/self/fd. They have
// to be opened in the namespace that is used: overlayfs refuses a directory on another one's mount.
type numbers []*os.File

func (n *numbers) add(path string) (string, error) {
	f, err := openPath(path)
	if err != nil {
		return "", err
	}
	*n = append(*n, f)
	return strconv.Itoa(int(f.Fd())), nil
}

func (n *numbers) close() {
	for _, f := range *n {
		f.Close()
	}
}

// overlayData returns the options of m as mount(2) takes them, with numbers for directories.
func (n *numbers) overlayData(m snapshot.Mount) (string, error) {
	lower := make([]string, len(m.Lower))
	var err error
	for i, dir := range m.Lower {
		if lower[i], err = n.add(dir); err != nil {
			return "", err
		}
	}
	data := []string{"lowerdir=" + strings.Join(lower, ":")}
	if m.Upper != "" {
		upper, err := n.add(m.Upper)
		if err != nil {
			return "", err
		}
		work, err := n.add(m.Work)
		if err != nil {
			return "", err
		}
		data = append(data, "upperdir="+upper, "workdir="+work)
	}
	for _, o := range m.Options {
		if o != "ro" && o != "rw" {
			data = append(data, o)
		}
	}
	s := strings.Join(data, ",")
	if len(s) >= os.Getpagesize() {
		return "", fmt.Errorf("options of %d bytes do not fit in a page", len(s))
	}
	return s, nil
}

// legacyBind clones the tree at source where mount_setattr(2) is missing.
func legacyBind(source string, readOnly bool) (int, error) {
	fd := -1
	err := inPrivateNamespace(func() error {
		if err := unix.Mount(source, source, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting: %w", err)
		}
		if readOnly {
			if err := remountReadOnly(source); err != nil {
				return err
			}
		}
		var err error
		fd, err = detach(source)
		return err
	})
	return fd, err
}

// remountReadOnly makes the mount at a path read-only. The flags that it has are given again: in a user namespace the
// kernel refuses to drop those that were inherited.
func remountReadOnly(at string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return fmt.Errorf("asking for mount flags: %w", err)
	}
	// The flags that statfs returns for these have the values of those which mount takes.
	const same = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags := uintptr(st.Flags)&same | unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY
	if st.Flags&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	if err := unix.Mount("", at, "", flags, ""); err != nil {
		return fmt.Errorf("making the mount read-only: %w", err)
	}
	return nil
}

// detach returns a detached clone of what is mounted at a path, and unmounts it there.
func detach(at string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, cloneFlags)
	if err != nil {
		return -1, fmt.Errorf("cloning the tree: %w", err)
	}
	// The namespace goes away with the thread, but not at a definite time.
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("unmounting the original: %w", err)
	}
	return fd, nil
}

// legacyMu is held while a descriptor is replaced by legacySub. Two at once would find the first's mount attached.
var legacyMu sync.Mutex

// legacySub is sub for kernels before 6.15, which clone only mounts that are attached in the caller's namespace. It
// attaches f in a namespace of its own, clones what is asked for and all of f, and makes f that second clone, which is
// detached again. So f must not have been handed to another process yet: that one would keep a mount that it cannot
// attach any more.
func legacySub(f *os.File, path string, readOnly bool) (int, error) {
	fd := -1
	legacyMu.Lock()
	defer legacyMu.Unlock()
	err := inPrivateNamespace(func() error {
		const at = "/proc" // exists, and is not used below
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attaching the tree: %w", err)
		}
		whole, err := unix.OpenTree(int(f.Fd()), "", cloneFlags|unix.AT_EMPTY_PATH)
		if err != nil {
			return fmt.Errorf("cloning the tree: %w", err)
		}
		defer unix.Close(whole)
		fd, err = sub(f, path, readOnly)
		if dupErr := unix.Dup3(whole, int(f.Fd()), unix.O_CLOEXEC); dupErr != nil {
			if err == nil {
				unix.Close(fd)
			}
			return errors.Join(err, fmt.Errorf("detaching the tree again: %w", dupErr))
		}
		return err
	})
	return fd, err
}

// inPrivateNamespace calls f in a thread that has a mount namespace and a working directory of its own, and that ends
// with the call.
func inPrivateNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the runtime ends the thread when the goroutine ends locked
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end, and it is the one that /proc/self/mounts and /proc/self/ns are of.
			// While this goroutine keeps it, the next one must be on another thread.
			done <- inPrivateNamespace(f)
			runtime.UnlockOSThread()
			return
		}
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("unsharing the mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("making mounts private: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}
