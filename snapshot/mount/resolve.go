package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// resolveTries bounds how often a path is resolved again because something was renamed meanwhile. The kernel gives up
// on each "..", with EAGAIN, when any directory of the system was renamed during the walk.
const resolveTries = 128

// Resolve opens path inside root: a descriptor of a detached mount or of any directory. Symbolic links, absolute ones
// and ".." included, are resolved as if root were "/", so the result is below root whatever path says and whoever
// renames things meanwhile; links of procfs that lead elsewhere are refused. flags are those of open(2); O_PATH gives
// a place to be used with the *at calls. What does not exist is an error that wraps os.ErrNotExist.
func Resolve(root *os.File, path string, flags int) (*os.File, error) {
	return resolve(root, path, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// ResolveNoSymlinks is Resolve for a path that must not have a symbolic link in it; one is an error that wraps ELOOP.
func ResolveNoSymlinks(root *os.File, path string, flags int) (*os.File, error) {
	return resolve(root, path, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
}

func resolve(root *os.File, path string, flags int, how uint64) (*os.File, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, &os.PathError{Op: "resolve", Path: path, Err: unix.EINVAL}
	}
	if path == "" {
		path = "."
	}
	h := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: how}
	if flags&unix.O_CREAT != 0 {
		h.Mode = 0o600
	}
	for try := 1; ; try++ {
		fd, err := unix.Openat2(int(root.Fd()), path, &h)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN) && try < resolveTries:
		default:
			return nil, &os.PathError{Op: "resolve", Path: path, Err: err}
		}
	}
}

// Sub returns a detached mount of what is at path inside f, a detached mount itself: a directory, or a file of any
// kind. The path is resolved as Resolve does, and the result stays what it is when the path is made to lead elsewhere.
// It is independent of f, which may be closed. This is how `RUN --mount=type=bind,from=…,source=path` gets its source.
//
// Before Linux 6.15, f must not have been handed to another process or attached yet.
func Sub(f *os.File, path string, opts ...Option) (*os.File, error) {
	o := gather(opts)
	var fd int
	var err error
	if o.legacy {
		fd, err = legacySub(f, path, o.readOnly)
	} else if fd, err = sub(f, path, o.readOnly); errors.Is(err, errNotClonable) {
		fd, err = legacySub(f, path, o.readOnly)
	}
	if err != nil {
		return nil, fmt.Errorf("mounting %s of %s: %w", path, f.Name(), err)
	}
	return os.NewFile(uintptr(fd), path+" of "+f.Name()), nil
}

// errNotClonable is what sub returns where the kernel clones no detached mounts.
var errNotClonable = errors.New("the kernel does not clone detached mounts")

func sub(f *os.File, path string, readOnly bool) (int, error) {
	at, err := Resolve(f, path, unix.O_PATH)
	if err != nil {
		return -1, err
	}
	defer at.Close()
	fd, err := unix.OpenTree(int(at.Fd()), "", cloneFlags|unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) {
		return -1, errNotClonable
	}
	if err != nil {
		return -1, fmt.Errorf("cloning the tree: %w", err)
	}
	if err := setAttributes(fd, readOnly); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
