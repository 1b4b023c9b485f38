package layer

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// sameFile says whether name, which st describes in the directory fd, is the same in the directory base, where old
// describes it: as a tar would have it, down to the content. A modification that keeps size and time is found too; a
// snapshotter that shares inodes with the parent saves us the reading. shared says that both directories are views of one
// file system, whose numbers and times of change tell files apart although the views have devices of their own.
func sameFile(fd, base int, name string, st, old *unix.Stat_t, shared bool) (bool, error) {
	if old.Dev == st.Dev && old.Ino == st.Ino {
		return true, nil
	}
	if !sameMeta(st, old) {
		return false, nil
	}
	if shared && old.Ino == st.Ino && old.Ctim == st.Ctim && old.Size == st.Size {
		return true, nil
	}
	a, err := openRetry(fd, name, openFlags(st))
	if err != nil {
		return false, err
	}
	defer unix.Close(a)
	b, err := openRetry(base, name, openFlags(st))
	if err != nil {
		return false, err
	}
	defer unix.Close(b)
	x, y := &item{fd: a, st: *st}, &item{fd: b, st: *old}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return sameLoaded(x, y)
	}
	if same, err := sameXattrs(a, b); err != nil || !same {
		return false, err
	}
	return sameContent(a, b)
}

// sameMeta compares what a tar says of a file besides its content, but for the time of a directory. A time of whole seconds
// may be one that went through a tar.
func sameMeta(a, b *unix.Stat_t) bool {
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev {
		return false
	}
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		return true
	}
	return a.Size == b.Size && a.Mtim.Sec == b.Mtim.Sec &&
		(a.Mtim.Nsec == b.Mtim.Nsec || a.Mtim.Nsec == 0 || b.Mtim.Nsec == 0)
}

func sameLoaded(x, y *item) (bool, error) {
	if err := x.load(true); err != nil {
		return false, err
	}
	if err := y.load(true); err != nil {
		return false, err
	}
	return x.target == y.target && equalXattrs(x.xattrs, y.xattrs), nil
}

func sameXattrs(a, b int) (bool, error) {
	x, y := &item{fd: a}, &item{fd: b}
	for _, it := range []*item{x, y} {
		err := it.loadXattrs(
			func(b []byte) (int, error) { return unix.Flistxattr(it.fd, b) },
			func(name string, b []byte) (int, error) { return unix.Fgetxattr(it.fd, name, b) })
		if err != nil {
			return false, err
		}
	}
	return equalXattrs(x.xattrs, y.xattrs), nil
}

func equalXattrs(a, b []xattr) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].name != b[i].name || !bytes.Equal(a[i].value, b[i].value) {
			return false
		}
	}
	return true
}

// compareBuffers are what two files are read into.
var compareBuffers = sync.Pool{New: func() any { return new([2][64 << 10]byte) }}

func sameContent(a, b int) (bool, error) {
	buf, ok := compareBuffers.Get().(*[2][64 << 10]byte)
	if !ok {
		panic("the pool has only buffers")
	}
	defer compareBuffers.Put(buf)
	x, y := buf[0][:], buf[1][:]
	for {
		n, err := io.ReadFull(fdReader(a), x)
		m, berr := io.ReadFull(fdReader(b), y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return errors.Is(berr, err), nil
		case err != nil:
			return false, err
		case berr != nil:
			return false, berr
		}
	}
}

// dirChanged says whether the open directory fd has other metadata than base, and whether it has another time.
func dirChanged(fd, base int, st *unix.Stat_t) (changed, time bool, err error) {
	var old unix.Stat_t
	if err := unix.Fstat(base, &old); err != nil {
		return false, false, err
	}
	time = st.Mtim != old.Mtim
	if !sameMeta(st, &old) {
		return true, time, nil
	}
	same, err := sameXattrs(fd, base)
	return !same, time, err
}
