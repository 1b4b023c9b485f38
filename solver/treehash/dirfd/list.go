package dirfd

import (
	"encoding/binary"
	"io/fs"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Lister lists directories with a buffer of its own. It is not safe for concurrent use. The zero Lister is ready.
type Lister struct{ buf []byte }

var listers = sync.Pool{New: func() any { return new(Lister) }}

// List is Lister.List with a buffer that is shared between those who need one now and then.
func List(fd int, fn func(Name) error) error {
	l := listers.Get().(*Lister)
	defer listers.Put(l)
	return l.List(fd, fn)
}

// A Name is one name of a directory as the kernel gave it. It points into the Lister's buffer and is valid until the
// callback that it was given to returns.
type Name struct {
	bytes []byte // ends in NUL, which is not counted by Bytes
	// Type is DT_REG and the like; DT_UNKNOWN where the file system does not say.
	Type byte
}

// Bytes returns the name. It must not be kept.
func (n Name) Bytes() []byte { return n.bytes[:len(n.bytes)-1] }

// Lstat stats the name in the directory dir that it was listed from.
func (n Name) Lstat(dir int, st *Stat) error {
	if err := lstat(dir, &n.bytes[0], unix.AT_SYMLINK_NOFOLLOW, st); err != nil {
		return &fs.PathError{Op: "lstat", Path: string(n.Bytes()), Err: err}
	}
	return nil
}

// List calls fn for each name in the directory fd but "." and "..", in the order of the file system. It reads from
// where fd stands, so a descriptor can be listed once.
func (l *Lister) List(fd int, fn func(Name) error) error {
	if l.buf == nil {
		l.buf = make([]byte, 64<<10)
	}
	const nameOff = unsafe.Offsetof(unix.Dirent{}.Name)
	for {
		n, err := unix.Getdents(fd, l.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "readdir", Path: ".", Err: err}
		}
		if n <= 0 {
			return nil
		}
		for b := l.buf[:n]; len(b) > int(nameOff); {
			size := binary.NativeEndian.Uint16(b[unsafe.Offsetof(unix.Dirent{}.Reclen):])
			typ := b[unsafe.Offsetof(unix.Dirent{}.Type)]
			name := b[nameOff:size]
			b = b[size:]
			end := 0
			for name[end] != 0 {
				end++
			}
			name = name[:end+1]
			if end == 1 && name[0] == '.' || end == 2 && name[0] == '.' && name[1] == '.' {
				continue
			}
			if err := fn(Name{name, typ}); err != nil {
				return err
			}
		}
	}
}
