package local

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/treehash"
)

// WriteTar writes the parts to w as one tar. Sockets are left out; everything else is as in the image, but for times,
// which are whole seconds.
func WriteTar(ctx context.Context, w io.Writer, parts []Part) error {
	if err := check(parts); err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	t := &tarWriter{tw: tw, buf: make([]byte, 256<<10)}
	files := newCensus(parts)
	for i := range parts {
		p := &parts[i]
		t.part, t.prefix, t.links = p, "", map[uint64]string{}
		if p.Dir != "" {
			if err := t.entry(ctx, synthetic(p)); err != nil {
				return err
			}
			t.prefix = p.Dir + "/"
		}
		err := walk(ctx, p.Tree, "/", func(e *treehash.Entry) error {
			if err := files.add(p, e); err != nil {
				return err
			}
			return t.entry(ctx, e)
		})
		if err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("writing tar: %w", err)
	}
	return nil
}

type tarWriter struct {
	tw     *tar.Writer
	part   *Part
	prefix string
	links  map[uint64]string // the first name of inodes with several
	buf    []byte
}

func (t *tarWriter) entry(ctx context.Context, e *treehash.Entry) error {
	hdr := &tar.Header{
		Name: t.prefix + strings.TrimPrefix(e.Path, "/"), Mode: int64(e.Mode & 0o7777),
		Uid: int(e.UID), Gid: int(e.GID), ModTime: t.part.mtime(e).Truncate(1e9),
	}
	for k, v := range e.Xattr {
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords["SCHILY.xattr."+k] = string(v)
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		hdr.Typeflag = tar.TypeDir
		hdr.Name += "/"
	case unix.S_IFLNK:
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, e.Link
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, e.Size
		if first, ok := t.links[e.Hard]; ok && e.Hard != 0 {
			hdr.Typeflag, hdr.Linkname, hdr.Size, hdr.PAXRecords = tar.TypeLink, first, 0, nil
		} else if e.Hard != 0 {
			t.links[e.Hard] = hdr.Name
		}
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if e.Mode&unix.S_IFMT == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(e.Rdev)), int64(unix.Minor(e.Rdev))
	default:
		return fmt.Errorf("exporting %q: unknown file type %o", e.Path, e.Mode)
	}
	if err := t.tw.WriteHeader(hdr); err != nil {
		return fmt.Errorf("exporting %q: %w", e.Path, err)
	}
	if hdr.Typeflag != tar.TypeReg {
		return nil
	}
	r, err := t.part.Tree.Open(ctx, e.Path)
	if err != nil {
		return fmt.Errorf("exporting %q: %w", path.Clean(e.Path), err)
	}
	defer r.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{t.tw}, struct{ io.Reader }{r}, t.buf)
	if err == nil && n != e.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("exporting %q: %w", e.Path, err)
	}
	return nil
}
