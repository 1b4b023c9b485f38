package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// node makes a pipe or the node of a device, as docker cp does. Who may not make devices has the kernel's error.
func (u *unpacker) node(name string, h *tar.Header) error {
	mode := uint32(h.Mode & 0o777)
	switch h.Typeflag {
	case tar.TypeFifo:
		mode |= unix.S_IFIFO
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	}
	dir, err := u.root.Open(path.Dir(name)) // which keeps it inside
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Mknodat(int(dir.Fd()), path.Base(name), mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

// attrs gives a file or directory its extended attributes, as docker cp does: those that the file system, or the rights of
// who runs this, do not allow are left out. It comes after the owner, whose change clears capabilities.
func (u *unpacker) attrs(name string, h *tar.Header) error {
	if !u.whole || h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
		return nil
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		f, err := u.root.Open(name) // which keeps it inside
		if err != nil {
			return err
		}
		err = unix.Fsetxattr(int(f.Fd()), attr, []byte(value), 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("setting attribute %s: %w", attr, err)
		}
	}
	return nil
}
