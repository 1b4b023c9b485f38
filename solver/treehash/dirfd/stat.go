package dirfd

import (
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Stat is what a stat call tells, in the form that comparing needs.
type Stat struct {
	Mode  uint32 // type and permission bits, as st_mode
	UID   uint32
	GID   uint32
	Nlink uint32
	Ino   uint64
	Dev   uint64
	Rdev  uint64
	Size  int64
	MTime int64 // nanoseconds since 1970
	CTime int64
}

// Type returns the file type bits of the mode.
func (s *Stat) Type() uint32 { return s.Mode & unix.S_IFMT }

// Lstat stats name in dir, not following a symlink.
func Lstat(dir int, name string, st *Stat) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	if err := lstat(dir, p, unix.AT_SYMLINK_NOFOLLOW, st); err != nil {
		return &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return nil
}

// Fstat stats an open descriptor.
func Fstat(fd int, st *Stat) error {
	var empty byte
	if err := lstat(fd, &empty, unix.AT_EMPTY_PATH, st); err != nil {
		return &fs.PathError{Op: "stat", Path: ".", Err: err}
	}
	return nil
}

func lstat(dir int, name *byte, flags int, st *Stat) error {
	var x unix.Statx_t
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)),
			uintptr(flags|unix.AT_NO_AUTOMOUNT), unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(&x)), 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		break
	}
	*st = Stat{
		Mode: uint32(x.Mode), UID: x.Uid, GID: x.Gid, Nlink: x.Nlink,
		Ino: x.Ino, Dev: unix.Mkdev(x.Dev_major, x.Dev_minor), Rdev: unix.Mkdev(x.Rdev_major, x.Rdev_minor),
		Size: int64(x.Size), MTime: x.Mtime.Sec*1e9 + int64(x.Mtime.Nsec), CTime: x.Ctime.Sec*1e9 + int64(x.Ctime.Nsec),
	}
	return nil
}
