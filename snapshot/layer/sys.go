package layer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openRetry is openat(2), repeated when a signal interrupts it.
func openRetry(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// statRetry is fstatat(2) without following a symlink. The error is a plain unix.Errno.
func statRetry(dir int, name string, st *unix.Stat_t) error {
	for {
		err := unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW)
		if err != unix.EINTR {
			return err
		}
	}
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// isOpaque says whether the open directory hides what is below it.
func isOpaque(fd int, form Form) (bool, error) {
	var b [2]byte
	n, err := unix.Fgetxattr(fd, form.opaqueXattr(), b[:])
	switch err {
	case nil:
		return n == 1 && b[0] == 'y', nil
	case unix.ENODATA, unix.ENOTSUP, unix.ERANGE:
		return false, nil
	}
	return false, err
}

func readlink(dir int, name string) (string, error) {
	b := make([]byte, 256)
	for {
		n, err := unix.Readlinkat(dir, name, b)
		if err != nil {
			return "", fmt.Errorf("reading link %s: %w", name, err)
		}
		if n < len(b) {
			return string(b[:n]), nil
		}
		b = make([]byte, 2*len(b))
	}
}

// setOwnerMode sets owner and mode, in this order since changing the owner takes set-ID bits and capabilities away.
func setOwnerMode(fd, uid, gid int, mode uint32) error {
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return fmt.Errorf("changing owner: %w", err)
	}
	if err := unix.Fchmod(fd, mode&0o7777); err != nil {
		return fmt.Errorf("changing mode: %w", err)
	}
	return nil
}

// setTimeAt sets both times of a file, which may be a symlink, to ts.
func setTimeAt(dir int, name string, ts unix.Timespec) error {
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// procPath names a file in an open directory for the calls that take no directory. The kernel follows the first part to the
// directory itself.
func procPath(dir int, name string) string { return procFD(dir) + "/" + name }

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// readNames returns the names in an open directory, sorted by their bytes.
func readNames(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	var names []string
	buf := make([]byte, 8<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
		if n > len(buf)/2 && len(buf) < 64<<10 {
			buf = make([]byte, 64<<10)
		}
	}
	sort.Strings(names)
	return names, nil
}

// errForeign says that a directory was written by an overlay with features that make its files depend on those below:
// what it holds is not the difference. Snapshotters mount without them.
var errForeign = errors.New("overlay was mounted with redirect_dir or metacopy")

// listXattrs returns the names of the xattrs that are part of a layer, sorted, given one of the list calls.
func listXattrs(list func([]byte) (int, error)) ([]string, error) {
	var small [512]byte
	b := small[:]
	n, err := list(b)
	for errors.Is(err, unix.ERANGE) {
		if n, err = list(nil); err == nil {
			b = make([]byte, n+256)
			n, err = list(b)
		}
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	var names []string
	for _, name := range bytes.Split(bytes.TrimSuffix(b[:n], []byte{0}), []byte{0}) {
		switch string(name) {
		case "trusted.overlay.redirect", "trusted.overlay.metacopy":
			return nil, fmt.Errorf("%w (%s)", errForeign, name)
		}
		if keptXattr(string(name)) {
			names = append(names, string(name))
		}
	}
	sort.Strings(names)
	return names, nil
}

// getXattr returns a value, given the call that gets it.
func getXattr(get func([]byte) (int, error)) ([]byte, error) {
	b := make([]byte, 256)
	for {
		n, err := get(b)
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || len(b) > 64<<10 {
			return nil, os.NewSyscallError("getxattr", err)
		}
		b = make([]byte, 64<<10+1)
	}
}

// copyXattrs copies what xattrs are part of a layer from one open file to another.
func copyXattrs(dst, src int) error {
	names, err := listXattrs(func(b []byte) (int, error) { return unix.Flistxattr(src, b) })
	if err != nil {
		return err
	}
	for _, name := range names {
		v, err := getXattr(func(b []byte) (int, error) { return unix.Fgetxattr(src, name, b) })
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(dst, name, v, 0); err != nil {
			return fmt.Errorf("setting xattr %s: %w", name, err)
		}
	}
	return nil
}

// removeAll removes name from the open directory dir, with everything in it, without following a symlink. Names of any
// depth are removed: each directory is emptied through its own descriptor.
func removeAll(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	fd, err := openRetry(dir, name, dirFlags)
	if err != nil {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	for _, n := range names {
		if err := removeAll(fd, n); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

// setTimeFD is futimens(3), which package unix lacks: utimensat(2) with no name.
func setTimeFD(fd int, ts unix.Timespec) error {
	times := [2]unix.Timespec{ts, ts}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
