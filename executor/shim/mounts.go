package shim

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// cloneMount returns a detached copy of what f stands for, a directory, a file or a detached mount, and with below of all
// mounts below it. The copy can be attached in any mount namespace.
//
// Copying a detached mount takes Linux 6.15. On an older kernel the result is the caller's mount itself, which can be
// attached once: there, the caller has to make a detached mount for every sandbox.
func cloneMount(f *os.File, below bool) (*os.File, error) {
	if f == nil {
		return nil, errors.New("no descriptor")
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var out int
	cerr := rc.Control(func(fd uintptr) { out, err = cloneFD(int(fd), below) })
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("copying the mount of %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(out), f.Name()), nil
}

// openTree is replaced by the test of older kernels.
var openTree = unix.OpenTree

func cloneFD(fd int, below bool) (int, error) {
	var flags uint = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	if below {
		flags |= unix.AT_RECURSIVE
	}
	out, err := openTree(fd, "", flags)
	if errors.Is(err, unix.EINVAL) {
		if out, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			return out, nil
		}
	}
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	return out, nil
}
