package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrRecord begins the names of PAX records that hold xattrs.
const xattrRecord = "SCHILY.xattr."

// xattrsOf returns the names of the xattrs that a tar entry has and a layer may have, sorted.
func xattrsOf(hdr *tar.Header) []string {
	var names []string
	for k := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrRecord); ok && keptXattr(name) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// setXattrs sets the entry's xattrs with set. A file system or a user namespace that has no such xattr is no reason to
// refuse an image.
func setXattrs(hdr *tar.Header, set func(name string, value []byte) error) error {
	for _, name := range xattrsOf(hdr) {
		err := set(name, []byte(hdr.PAXRecords[xattrRecord+name]))
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("setting xattr %s: %w", name, err)
		}
	}
	return nil
}

// directory applies a directory's entry: makes it, or changes the metadata of the one that is there.
func (a *applier) directory(parent *node, base string, hdr *tar.Header) error {
	t := a.tree
	fd, err := t.dirFD(parent)
	if err != nil {
		return err
	}
	err = unix.Mkdirat(fd, base, 0o700)
	k := parent.kids[base]
	switch {
	case errors.Is(err, unix.EEXIST):
		if k, err = a.existing(parent, fd, base); err != nil {
			return err
		}
	case err != nil:
		return err
	case k != nil:
		k.there = true
	default:
		k = parent.child(base, true)
	}
	return a.describe(k, hdr)
}

// existing returns the directory base of parent, which has something of that name. What is not a directory is replaced
// by one, and what that hid stays hidden.
func (a *applier) existing(parent *node, fd int, base string) (*node, error) {
	t := a.tree
	if k := parent.kids[base]; k != nil {
		return k, nil
	}
	var st unix.Stat_t
	if err := statRetry(fd, base, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return parent.child(base, true), nil
	}
	if err := unix.Unlinkat(fd, base, 0); err != nil {
		return nil, err
	}
	delete(parent.made, base)
	if err := unix.Mkdirat(fd, base, 0o700); err != nil {
		return nil, err
	}
	k := parent.child(base, true)
	return k, t.hideLower(k)
}

// describe gives a directory the metadata of its entry.
func (a *applier) describe(n *node, hdr *tar.Header) error {
	n.touch()
	fd, err := a.tree.dirFD(n)
	if err != nil {
		return err
	}
	if err := setOwnerMode(fd, hdr.Uid, hdr.Gid, uint32(hdr.Mode)); err != nil {
		return err
	}
	n.mtime, n.hasMtime = timespec(hdr), true
	if !a.tree.fresh { // a parent's directory may have xattrs which the entry lacks
		names, err := listXattrs(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, ok := hdr.PAXRecords[xattrRecord+name]; !ok {
				if err := unix.Fremovexattr(fd, name); err != nil {
					return fmt.Errorf("removing xattr %s: %w", name, err)
				}
			}
		}
	}
	return setXattrs(hdr, func(name string, v []byte) error { return unix.Fsetxattr(fd, name, v, 0) })
}

// replace calls create, which makes the file base in parent and fails if there is one; if so what is there is removed.
func (a *applier) replace(parent *node, base string, create func(dir int) error) error {
	t := a.tree
	fd, err := t.dirFD(parent)
	if err != nil {
		return err
	}
	err = create(fd)
	if errors.Is(err, unix.EEXIST) {
		if err := removeAll(fd, base); err != nil {
			return err
		}
		err = create(fd)
	}
	if err != nil {
		return err
	}
	if k := parent.kids[base]; k != nil {
		t.drop(k)
	}
	if t.form == Plain && !t.fresh {
		if parent.made == nil {
			parent.made = make(map[string]bool)
		}
		parent.made[base] = true
	}
	return nil
}

func (a *applier) regular(parent *node, base string, hdr *tar.Header, content io.Reader) error {
	var fd int
	err := a.replace(parent, base, func(dir int) (err error) {
		fd, err = unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = a.fill(fd, hdr, content)
	if cerr := unix.Close(fd); err == nil && cerr != nil {
		err = cerr // where a quota or a network file system reports late
	}
	return err
}

func (a *applier) fill(fd int, hdr *tar.Header, content io.Reader) error {
	var err error
	if isSparse(hdr) {
		err = a.copySparse(fd, hdr.Size, content)
	} else if hdr.Size > 0 {
		err = a.copyPlain(fd, content)
	}
	if err != nil {
		return err
	}
	if err := setOwnerMode(fd, hdr.Uid, hdr.Gid, uint32(hdr.Mode)); err != nil {
		return err
	}
	if len(hdr.PAXRecords) > 0 {
		if err := setXattrs(hdr, func(name string, v []byte) error { return unix.Fsetxattr(fd, name, v, 0) }); err != nil {
			return err
		}
	}
	if err := setTimeFD(fd, timespec(hdr)); err != nil {
		return fmt.Errorf("setting time: %w", err)
	}
	return nil
}

func (a *applier) copyPlain(fd int, content io.Reader) error {
	for {
		n, err := content.Read(a.buf)
		if n > 0 {
			if werr := writeAll(fd, a.buf[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// copySparse is copyPlain that leaves holes where a block is all zeros. A sparse file's size costs the tar nothing, and
// must cost the disk nothing.
func (a *applier) copySparse(fd int, size int64, content io.Reader) error {
	var off int64
	for {
		if a.ctx.Err() != nil {
			return a.ctx.Err()
		}
		n, err := io.ReadFull(content, a.buf)
		if b := a.buf[:n]; !isZero(b) {
			for len(b) > 0 {
				m, werr := unix.Pwrite(fd, b, off)
				if werr != nil && werr != unix.EINTR {
					return werr
				}
				b, off = b[max(m, 0):], off+int64(max(m, 0))
			}
		} else {
			off += int64(n)
		}
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) && off == size {
			return unix.Ftruncate(fd, size)
		}
		if err != nil {
			return err
		}
	}
}

func isZero(b []byte) bool {
	for len(b) >= 64 {
		for _, c := range b[:64] {
			if c != 0 {
				return false
			}
		}
		b = b[64:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// symlink makes a link with any target: it is resolved only by who uses the image, inside its root.
func (a *applier) symlink(parent *node, base string, hdr *tar.Header) error {
	return a.replace(parent, base, func(dir int) error {
		if err := unix.Symlinkat(hdr.Linkname, dir, base); err != nil {
			return err
		}
		if err := unix.Fchownat(dir, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("changing owner: %w", err)
		}
		return a.nameMeta(dir, base, hdr)
	})
}

// special makes a device or a FIFO.
func (a *applier) special(parent *node, base string, hdr *tar.Header) error {
	mode, dev := uint32(unix.S_IFIFO), 0
	switch hdr.Typeflag {
	case typeSocket:
		mode = unix.S_IFSOCK
	case tar.TypeChar, tar.TypeBlock:
		mode = unix.S_IFCHR
		if hdr.Typeflag == tar.TypeBlock {
			mode = unix.S_IFBLK
		}
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return fmt.Errorf("device %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
		}
		dev = int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)))
	}
	return a.replace(parent, base, func(dir int) error {
		err := unix.Mknodat(dir, base, mode|0o600, dev)
		if errors.Is(err, unix.EPERM) && mode != unix.S_IFIFO {
			return nil // in a user namespace, or without CAP_MKNOD: a container has its own /dev
		}
		if err != nil {
			return err
		}
		if err := unix.Fchownat(dir, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("changing owner: %w", err)
		}
		// chmod(2) has no way not to follow a symlink but this: a descriptor that only names the file.
		fd, err := openRetry(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != mode {
			return fmt.Errorf("node was replaced: %w", errors.Join(err, ErrUnsafe))
		}
		if err := unix.Chmod(procFD(fd), uint32(hdr.Mode)&0o7777); err != nil {
			return fmt.Errorf("changing mode: %w", err)
		}
		return a.nameMeta(dir, base, hdr)
	})
}

// nameMeta sets the xattrs and times of what cannot be opened.
func (a *applier) nameMeta(dir int, base string, hdr *tar.Header) error {
	if len(hdr.PAXRecords) > 0 {
		err := setXattrs(hdr, func(name string, v []byte) error { return unix.Lsetxattr(procPath(dir, base), name, v, 0) })
		if err != nil {
			return err
		}
	}
	if err := setTimeAt(dir, base, timespec(hdr)); err != nil {
		return fmt.Errorf("setting time: %w", err)
	}
	return nil
}

// hardlink makes another name of a file of this layer or of a parent's. The entry's own metadata is ignored: it is that
// of the file, and changing it could change a file that this layer has not made.
func (a *applier) hardlink(parent *node, base string, hdr *tar.Header) error {
	parts, err := split(hdr.Linkname, a.archive)
	if err != nil {
		return fmt.Errorf("linking to %.300q: %w", hdr.Linkname, err)
	}
	if len(parts) == 0 {
		return fmt.Errorf("linking to %.300q: %w", hdr.Linkname, unix.EISDIR)
	}
	t := a.tree
	name := parts[len(parts)-1]
	dir, err := t.walk(parts[:len(parts)-1], false)
	if err == nil && dir == nil {
		err = unix.ENOENT
	}
	if err == nil {
		err = a.linkable(dir, name)
	}
	if err != nil {
		return fmt.Errorf("linking to %.300q: %w", hdr.Linkname, err)
	}
	if dir == parent && name == base {
		return nil // the file is there already
	}
	from, err := t.dirFD(dir)
	if err != nil {
		return err
	}
	dir.pin++
	defer func() { dir.pin-- }()
	err = a.replace(parent, base, func(to int) error { return unix.Linkat(from, name, to, base, 0) })
	if err != nil {
		return fmt.Errorf("linking to %.300q: %w", hdr.Linkname, err)
	}
	return nil
}

// linkable checks that name in dir is a file that can have another name, and brings it to the tree that is written.
func (a *applier) linkable(dir *node, name string) error {
	f, err := a.tree.lookup(dir, name)
	if err != nil {
		return err
	}
	switch {
	case f.kind == absent:
		return unix.ENOENT
	case f.kind == directory:
		return unix.EISDIR
	case f.layer < 0:
		return nil
	}
	if err := a.tree.materialise(dir); err != nil {
		return err
	}
	dir.touch()
	return a.tree.copyUp(dir, name, f.layer)
}
