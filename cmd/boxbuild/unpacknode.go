package main

import (
	"archive/tar"
	"path"

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
