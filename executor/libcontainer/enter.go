//go:build cgo

package libcontainer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/cgroup"
	"github.com/boxbuild/boxbuild/executor/hugepage"
)

// Enter gives this process a private root and replaces its program by a sealed copy of itself, with the same
// arguments; in that copy it returns at once. It is to be called first of all, by the only thread there is, in a
// process that the daemon started in a new pid namespace.
//
// The private root is a tmpfs with /proc of the pid namespace, the cgroup hierarchies, and /dev/null. It exists in no
// other mount namespace, so whatever is mounted in it vanishes with this process, however it dies; and a sandbox, which
// starts with a copy of it, can't reach the host's files even if pivot_root left something behind.
//
// The sealed copy, a memfd that nobody can write to, is what every sandbox executes first. A process in a sandbox that
// opens /proc/self/exe for writing finds a sealed file (CVE-2019-5736). libcontainer would otherwise make a copy, or a
// mount, for each sandbox.
func Enter(scratch string) error {
	if exeseal.IsSelfExeCloned() {
		return nil
	}
	runtime.LockOSThread() // execve below, or the end of the process, ends the lock
	if os.Getpid() != 1 {
		return errors.New("entering the private root: not the first process of a pid namespace")
	}
	exe, err := sealedSelf()
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("making the mounts private: the root directory is not a mount point, as in a chroot, where no sandbox can be made: %w", err)
		}
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := buildRoot(scratch, cgroup.V1); err != nil {
		return err
	}
	path := fmt.Sprintf("/proc/self/fd/%d", exe.Fd())
	if err := syscall.Exec(path, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("executing the sealed copy: %w", err)
	}
	return nil
}

// Settle moves the sealed copy into huge pages, as every sandbox executes it, and leaves it for its command. It takes 25 ms.
func Settle() {
	if exe, err := os.Open("/proc/self/exe"); err == nil {
		_ = hugepage.Collapse(exe) // it only takes longer without
		exe.Close()
	}
}

// EnterAlone is Enter for a process that was started in a new mount namespace, from a sealed copy of this program; if it
// is the first of a pid namespace, its private /proc is that one's.
func EnterAlone(scratch string) error {
	if !exeseal.IsSelfExeCloned() {
		return errors.New("entering the private root: the program is not a sealed copy")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	return buildRoot(scratch, cgroup.V1All)
}

func sealedSelf() (*os.File, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("opening this program: %w", err)
	}
	defer self.Close()
	st, err := self.Stat()
	if err != nil {
		return nil, fmt.Errorf("examining this program: %w", err)
	}
	exe, err := exeseal.CloneBinary(self, st.Size(), "boxshim", os.TempDir())
	if err != nil {
		return nil, fmt.Errorf("making a sealed copy of this program: %w", err)
	}
	return exe, nil
}

// buildRoot makes the private root on dir, which may be any directory, with those hierarchies of version 1, and pivots into it.
func buildRoot(dir string, v1 []string) error {
	if err := unix.Mount("boxshim", dir, "tmpfs", unix.MS_NOSUID, "mode=0700,size=256m"); err != nil {
		return fmt.Errorf("mounting the private root: %w", err)
	}
	for _, d := range []string{"proc", "dev", "run", "tmp", "sys/fs/cgroup"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o711); err != nil {
			return fmt.Errorf("making the private root: %w", err)
		}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", filepath.Join(dir, "proc"), "proc", flags, ""); err != nil {
		return fmt.Errorf("mounting the private /proc: %w", err)
	}
	null := filepath.Join(dir, "dev/null")
	if err := unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return fmt.Errorf("making the private /dev/null: %w", err)
	}
	if err := os.Chmod(null, 0o666); err != nil {
		return fmt.Errorf("making the private /dev/null: %w", err)
	}
	if err := bindCgroups(filepath.Join(dir, "sys/fs/cgroup"), v1); err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("entering the private root: %w", err)
	}
	// "." twice stacks the old root on the new one, whence it is taken off.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivoting into the private root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("letting the host's root go: %w", err)
	}
	return os.Chdir("/")
}

// bindCgroups makes the hierarchies, of version 1 those, appear in dir as they are at /sys/fs/cgroup.
func bindCgroups(dir string, v1 []string) error {
	const root = cgroup.Root
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return fmt.Errorf("looking for cgroups: %w", err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		if err := unix.Mount(root, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding the cgroup hierarchy: %w", err)
		}
		return nil
	}
	// libcontainer looks for a tmpfs here, as distributions have it.
	if err := unix.Mount("cgroup", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return fmt.Errorf("mounting the place of cgroups: %w", err)
	}
	for _, c := range v1 {
		src, dst := filepath.Join(root, c), filepath.Join(dir, c)
		// A link stands for a controller that shares a hierarchy with another, which has its own entry.
		if fi, err := os.Lstat(src); err != nil || !fi.IsDir() {
			continue
		}
		if err := os.Mkdir(dst, 0o755); err != nil {
			return fmt.Errorf("making the place of cgroup %s: %w", c, err)
		}
		if err := unix.Mount(src, dst, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding cgroup hierarchy %s: %w", c, err)
		}
	}
	return nil
}
