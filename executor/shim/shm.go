package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// sharedMemory returns a detached copy of what is at /dev/shm for the process of the directory proc, /proc/PID. Mounts can
// be copied only by who is in their mount namespace, so a thread goes there, and ends.
func sharedMemory(proc string) (*os.File, error) {
	ns, err := openNamespace(filepath.Join(proc, "ns/mnt"))
	if err != nil {
		return nil, fmt.Errorf("sharing /dev/shm: %w", err)
	}
	defer ns.Close()
	type result struct {
		f   *os.File
		err error
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is of no more use
		f, err := copyShm(ns)
		c <- result{f, err}
	}()
	r := <-c
	if r.err != nil {
		return nil, fmt.Errorf("sharing /dev/shm: %w", r.err)
	}
	return r.f, nil
}

func copyShm(ns *os.File) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return nil, os.NewSyscallError("setns", err)
	}
	// setns leaves the thread at the root of the namespace. What is there is the container's to shape, so nothing is followed.
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	dir, err := unix.Openat2(unix.AT_FDCWD, "/dev/shm", &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/shm", Err: err}
	}
	defer unix.Close(dir)
	var st unix.Statfs_t
	if err := unix.Fstatfs(dir, &st); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	if st.Type != unix.TMPFS_MAGIC {
		return nil, errors.New("it is no file system in memory")
	}
	fd, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	return os.NewFile(uintptr(fd), "shm"), nil
}
