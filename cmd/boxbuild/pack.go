package main

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// capability is the extended attribute that goes with a program that has rights of its own.
const capability = "security.capability"

// paxXattr begins the records of a tar that are extended attributes.
const paxXattr = "SCHILY.xattr."

// pack writes what is at source as a tar in which it is called top. What a symlink points to is written in its place only
// if it is the source itself and follow says so. Sockets are left out. It returns how many bytes the files have.
func pack(w io.Writer, source, top string, follow bool) (int64, error) {
	p := &packer{tw: tar.NewWriter(w), links: map[inode]string{}}
	if follow {
		var err error
		if source, err = filepath.EvalSymlinks(source); err != nil {
			return 0, err
		}
	}
	err := filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		return p.add(file, path.Join(top, filepath.ToSlash(rest)))
	})
	if err == nil {
		err = p.tw.Close()
	}
	return p.bytes, err
}

type inode struct{ dev, ino uint64 }

// A packer writes a tar. Of files that are one the later are links to the first.
type packer struct {
	tw    *tar.Writer
	links map[inode]string
	bytes int64 // of files
}

func (p *packer) add(file, name string) error {
	st, err := os.Lstat(file)
	if err != nil || st.Mode()&fs.ModeSocket != 0 {
		return err
	}
	var target string
	if st.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(st, target)
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	if st.IsDir() {
		h.Name += "/"
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && !st.IsDir() && sys.Nlink > 1 {
		id := inode{sys.Dev, sys.Ino}
		if first, seen := p.links[id]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			p.links[id] = name
		}
	}
	if h.Typeflag != tar.TypeReg {
		return p.tw.WriteHeader(h)
	}
	value := make([]byte, 64)
	if n, err := unix.Lgetxattr(file, capability, value); err == nil {
		h.PAXRecords = map[string]string{paxXattr + capability: string(value[:n])}
	}
	return p.file(file, h)
}

func (p *packer) file(file string, h *tar.Header) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(p.tw, f, h.Size) // what is appended meanwhile is not of this copy
	p.bytes += n
	return err
}
