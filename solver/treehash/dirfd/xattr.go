package dirfd

import (
	"bytes"
	"errors"
	"io/fs"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of Linux 6.13 that take a directory descriptor and a name; the numbers are the same everywhere.
const (
	sysGetxattrat  = 464
	sysListxattrat = 465
)

// noXattrAt is set once the kernel has said that it does not know listxattrat.
var noXattrAt atomic.Bool

// Readlink returns the target of the symlink name in dir.
func Readlink(dir int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// Xattrs returns the extended attributes of name in dir which belong to the content of a tree (see Carried), or nil if
// there are none. Symlinks are not followed. With an empty name it is dir itself.
func Xattrs(dir int, name string) (map[string][]byte, error) {
	var space [1024]byte
	list, err := listxattr(dir, name, space[:])
	if errors.Is(err, unix.ERANGE) {
		list, err = listxattr(dir, name, make([]byte, 64<<10))
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: name, Err: err}
	}
	var out map[string][]byte
	for len(list) > 0 {
		key, rest, _ := bytes.Cut(list, []byte{0})
		list = rest
		if !Carried(string(key)) {
			continue
		}
		v, err := getxattr(dir, name, string(key))
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr", Path: name, Err: err}
		}
		if out == nil {
			out = map[string][]byte{}
		}
		out[string(key)] = v
	}
	return out, nil
}

// Carried says whether an extended attribute is part of the content of a tree: of the security name space only the
// capabilities are, since labels such as security.selinux belong to the machine; overlayfs's own never are.
func Carried(key string) bool {
	switch {
	case strings.HasPrefix(key, "security."):
		return key == "security.capability"
	case strings.HasPrefix(key, "trusted.overlay."), strings.HasPrefix(key, "user.overlay."):
		return false
	case strings.HasPrefix(key, "com.apple."):
		return false
	}
	return true
}

func listxattr(dir int, name string, buf []byte) ([]byte, error) {
	if !noXattrAt.Load() {
		p, err := unix.BytePtrFromString(name)
		if err != nil {
			return nil, err
		}
		n, _, errno := unix.Syscall6(sysListxattrat, uintptr(dir), uintptr(unsafe.Pointer(p)), atFlags(name),
			uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
		if errno == 0 {
			return buf[:n], nil
		}
		if errno != unix.ENOSYS {
			return nil, errno
		}
		noXattrAt.Store(true)
	}
	var n int
	var err error
	if name == "" {
		n, err = unix.Flistxattr(dir, buf)
	} else {
		n, err = unix.Llistxattr(procPath(dir, name), buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// xattrArgs is struct xattr_args of the kernel.
type xattrArgs struct {
	value uint64
	size  uint32
	flags uint32
}

func getxattr(dir int, name, key string) ([]byte, error) {
	for size := 256; ; size = 64 << 10 {
		buf := make([]byte, size)
		n, err := getxattrInto(dir, name, key, buf)
		if errors.Is(err, unix.ERANGE) && size < 64<<10 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n:n], nil
	}
}

func getxattrInto(dir int, name, key string, buf []byte) (int, error) {
	if noXattrAt.Load() {
		if name == "" {
			return unix.Fgetxattr(dir, key, buf)
		}
		return unix.Lgetxattr(procPath(dir, name), key, buf)
	}
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	k, err := unix.BytePtrFromString(key)
	if err != nil {
		return 0, err
	}
	// The kernel takes the buffer's address inside a struct, where the runtime does not see it.
	var pin runtime.Pinner
	pin.Pin(&buf[0])
	defer pin.Unpin()
	args := xattrArgs{value: uint64(uintptr(unsafe.Pointer(&buf[0]))), size: uint32(len(buf))}
	n, _, errno := unix.Syscall6(sysGetxattrat, uintptr(dir), uintptr(unsafe.Pointer(p)), atFlags(name),
		uintptr(unsafe.Pointer(k)), uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func atFlags(name string) uintptr {
	if name == "" {
		return unix.AT_EMPTY_PATH
	}
	return unix.AT_SYMLINK_NOFOLLOW
}

// procPath is a path that the kernel resolves to name in dir without a look at anything above.
func procPath(dir int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
}

// Setxattr sets an extended attribute of name in dir, not following a symlink. With an empty name it is dir itself.
func Setxattr(dir int, name, key string, value []byte) error {
	var err error
	if name == "" {
		err = unix.Fsetxattr(dir, key, value, 0)
	} else {
		err = unix.Lsetxattr(procPath(dir, name), key, value, 0)
	}
	if err != nil {
		return &fs.PathError{Op: "setxattr " + key, Path: name, Err: err}
	}
	return nil
}
