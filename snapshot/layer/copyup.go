package layer

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// copyUp copies the file name of the directory n, which is not a directory itself, from a lower directory to the tree
// that is written, as overlayfs does before it makes a link to it.
func (t *tree) copyUp(n *node, name string, layer int) error {
	src, err := t.lower.openDir(layer, n.path())
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := t.dirFD(n)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := statRetry(src, name, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = copyRegular(dst, src, name, &st)
	case unix.S_IFLNK:
		var link string
		if link, err = readlink(src, name); err == nil {
			err = unix.Symlinkat(link, dst, name)
		}
	default:
		err = unix.Mknodat(dst, name, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return fmt.Errorf("copying up %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return nil
	}
	if err := unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("copying up %s: %w", name, err)
	}
	return setTimeAt(dst, name, st.Mtim)
}

func copyRegular(dst, src int, name string, st *unix.Stat_t) error {
	in, err := openRetry(src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	if err := copyFD(out, in); err != nil {
		return err
	}
	if err := setOwnerMode(out, int(st.Uid), int(st.Gid), st.Mode); err != nil {
		return err
	}
	if err := copyXattrs(out, in); err != nil {
		return err
	}
	return setTimeFD(out, st.Mtim)
}

// copyFD copies the rest of an open file, sharing blocks where the file system can.
func copyFD(out, in int) error {
	if unix.IoctlFileClone(out, in) == nil {
		return nil
	}
	for {
		n, err := unix.CopyFileRange(in, nil, out, nil, 1<<30, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EXDEV || err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOSYS:
			return copyBytes(out, in)
		case err != nil:
			return err
		case n == 0:
			return nil
		}
	}
}

func copyBytes(out, in int) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := unix.Read(in, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return nil
		}
		if err := writeAll(out, buf[:n]); err != nil {
			return err
		}
	}
}
