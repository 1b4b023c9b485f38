// Package dirfd reads and walks directory trees by descriptor, so that no name is resolved twice and no symlink is
// ever followed unasked.
//
// Everything here is a thin layer over a system call, made for trees of tens of thousands of files: listing does not
// allocate, and a name goes from the kernel's directory buffer back to the kernel without becoming a string.
//
// Descriptors are plain integers: an os.File costs more to make than a small file does to read. Whoever opens one
// closes it with Close.
package dirfd

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// resolve is how every path below a root is resolved: no symlink is followed, be it the last component or not, and
// nothing above the root is reached.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Open opens path below the directory dir. A leading slash of path is the directory itself. A symlink anywhere on the
// way is ELOOP, and a way out of dir EXDEV. The descriptor is closed on exec and does not block on FIFOs.
func Open(dir int, path string, flags int) (int, error) {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NONBLOCK), Resolve: resolve}
	if flags&unix.O_PATH != 0 {
		how.Flags &^= unix.O_NONBLOCK
	}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		// EAGAIN is the kernel's answer to a rename that raced with the resolution of "..".
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// OpenRoot opens a directory by its path on the host, which may lead through symlinks.
func OpenRoot(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// OpenDir opens the directory name in dir; ELOOP or ENOTDIR if it is a symlink.
func OpenDir(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}

// Close closes a descriptor. Errors have no meaning for what has only been read.
func Close(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// Read reads from fd until p is full or the file ends, and returns how much was read.
func Read(fd int, p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := unix.Read(fd, p[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, os.NewSyscallError("read", err)
		}
		if m == 0 {
			break
		}
		n += m
		// A regular file is short only at its end, which saves the call that would say so.
		if n < len(p) {
			break
		}
	}
	return n, nil
}

// Write writes all of p.
func Write(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		p = p[n:]
	}
	return nil
}

// Gone says whether err means that a name is not there.
func Gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}
