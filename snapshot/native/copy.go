package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A copier copies a tree that does not change meanwhile, with everything that a layer can hold: owners, modes, times,
// extended attributes, holes, hard links, devices, FIFOs and symbolic links. Sockets are left out, as layers have none.
// It works with paths, so what lies deeper than a path can name (4,095 bytes) is an error.
type copier struct {
	noClone *atomic.Bool
	linked  map[uint64]string // by inode, the copy of a file that has several names
}

// tree copies from, of any kind, to the path to, which does not exist.
func (c *copier) tree(ctx context.Context, from, to string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.linked[st.Ino]; ok {
			return os.Link(first, to)
		}
		c.linked[st.Ino] = to
	}
	var err error
	switch kind {
	case unix.S_IFDIR:
		err = c.dir(ctx, from, to)
	case unix.S_IFREG:
		err = c.file(from, to, st.Size)
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	case unix.S_IFSOCK:
		return nil
	default:
		if err = unix.Mknod(to, kind|0o600, int(st.Rdev)); err != nil {
			err = &os.PathError{Op: "mknod", Path: to, Err: err}
		}
	}
	if err != nil {
		return err
	}
	return copyAttributes(from, to, &st)
}

func (c *copier) dir(ctx context.Context, from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	d, err := os.Open(from)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.tree(ctx, from+"/"+name, to+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) file(from, to string, size int64) error {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if size > 0 && !c.clone(src, dst) {
		err = copyData(src, dst, size)
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	return nil
}

// clone makes dst share the blocks of src, if the file system can.
func (c *copier) clone(src, dst *os.File) bool {
	if c.noClone.Load() {
		return false
	}
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) {
		c.noClone.Store(true)
	}
	return err == nil
}

// copyData copies the parts of src that are no holes. os.File's ReadFrom does it inside the kernel where it can.
func copyData(src, dst *os.File, size int64) error {
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		end := size
		if err == nil {
			end, err = unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			start, end, err = at, size, nil // holes cannot be asked for
		}
		if err != nil {
			return err
		}
		if _, err := src.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, end-start); err != nil {
			return err
		}
		at = end
	}
	return dst.Truncate(size)
}

// copyAttributes gives to what from has besides its content. The owner goes first, since changing it takes away
// capabilities and the set-user-ID bit, and the times last.
func copyAttributes(from, to string, st *unix.Stat_t) error {
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: to, Err: err}
	}
	return nil
}

func copyXattrs(from, to string) error {
	var small [256]byte
	buf := small[:]
	n, err := unix.Llistxattr(from, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10) // the kernel's limit
		n, err = unix.Llistxattr(from, buf)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing attributes of %s: %w", from, err)
	}
	value := make([]byte, 64<<10)
	for name := range strings.FieldsFuncSeq(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		if name == "security.selinux" {
			continue // the copy has its own
		}
		n, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("copying attribute %s of %s: %w", name, from, err)
		}
	}
	return nil
}
