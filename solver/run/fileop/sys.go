package fileop

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// umask returns the process's file mode creation mask. Asking by umask(2) would change it for a moment, for all.
func umask() uint32 {
	b, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "Umask:"); ok {
				if n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
					return uint32(n)
				}
			}
		}
	}
	return 0o777 // not known: every mode is set explicitly
}

// utimes sets the times of an open file.
func utimes(fd int, ts *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// retry calls fn again while it is interrupted.
func retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// mkdirat makes a directory that is its owner's alone until its mode is set.
func mkdirat(dir int, name string) error {
	return retry(func() error { return unix.Mkdirat(dir, name, 0o700) })
}

// createFlags make a file that nothing is in the place of, so that no file that is there, be it shared with another
// tree or be it a symlink, is ever written to.
const createFlags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC

func create(dir int, name string, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, createFlags, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
