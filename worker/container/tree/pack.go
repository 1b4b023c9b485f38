package tree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/mount"
)

// A Source is what Pack reads.
type Source struct {
	Root *os.File
	Name string // the path of a file, of a directory with all below it, or of a symbolic link itself, as Stat has it
	Base string // names in the tar begin with it; with an empty one they are absolute

	// Hidden are directories, as paths without symbolic links, that are packed as empty ones unless Name leads into them.
	Hidden []string

	exact bool // see packer
}

// Pack writes a tar of what is at a path. Files that vanish meanwhile are left out. Sockets are, too.
// Times are in whole seconds.
func Pack(ctx context.Context, src Source, w io.Writer) error {
	dir, last, err := parent(src.Root, src.Name)
	if err != nil {
		return err
	}
	defer dir.Close()
	base := src.Base
	if base == "" {
		base = "/"
	}
	p := &packer{ctx: ctx, w: tar.NewWriter(w), links: make(map[inode]string), exact: src.exact}
	if p.hidden, err = src.hidden(base); err != nil {
		return err
	}
	if err := p.entry(int(dir.Fd()), last, base, true); err != nil {
		return fmt.Errorf("packing %s: %w", src.Name, err)
	}
	return p.w.Close()
}

// hidden returns Hidden as the names that they have in the tar.
func (src *Source) hidden(base string) (map[string]bool, error) {
	if len(src.Hidden) == 0 {
		return nil, nil
	}
	at, err := Real(src.Root, src.Name)
	if err != nil {
		return nil, err
	}
	at = strings.TrimSuffix(at, "/") + "/"
	names := make(map[string]bool, len(src.Hidden))
	for _, h := range src.Hidden {
		if rest, ok := strings.CutPrefix(h, at); ok {
			names[strings.TrimSuffix(base, "/")+"/"+rest] = true
		}
	}
	return names, nil
}

// PackTree writes a tar of all that is in a tree. Names are relative, and the root itself is not in it. Times are
// in whole seconds.
func PackTree(ctx context.Context, root *os.File, w io.Writer) error {
	p := &packer{ctx: ctx, w: tar.NewWriter(w), links: make(map[inode]string)}
	if err := p.below(int(root.Fd()), ""); err != nil {
		return err
	}
	return p.w.Close()
}

type inode struct{ dev, ino uint64 }

// A packer is one call of Pack.
type packer struct {
	ctx   context.Context //nolint:containedctx // of the one call
	w     *tar.Writer
	links map[inode]string // names of files with more than one
	buf   []byte

	hidden map[string]bool // names in the tar of directories that stay empty
	// exact has times with their fractions of a second. Archives that clients get have none, as docker's: each would take a
	// PAX header of its own.
	exact bool
}

// entry writes the file called base in dir under a name. The first one has to exist.
func (p *packer) entry(dir int, base, name string, first bool) error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	fd, err := openNoFollow(dir, base, first)
	if gone(err) && !first {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name) // O_PATH: it is opened in earnest when it is known what it is
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	h, err := p.header(fd, &st, name)
	if h == nil || err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return p.file(fd, h)
	case tar.TypeDir:
		if err := p.w.WriteHeader(h); err != nil {
			return err
		}
		if p.hidden[name] {
			return nil
		}
		return p.below(fd, name)
	}
	return p.w.WriteHeader(h)
}

// gone says whether an error means that a file has vanished since its name was read. The files of a process that has ended
// say so in a way of their own.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

func openNoFollow(dir int, base string, follow bool) (int, error) {
	flags := unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if follow && base == "." {
		flags |= unix.O_DIRECTORY
	}
	return unix.Openat(dir, base, flags, 0)
}

// header describes a file; nil for one that a tar cannot have, or that is gone.
func (p *packer) header(fd int, st *unix.Stat_t, name string) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Sec, 0),
		Format: tar.FormatPAX,
	}
	if p.exact {
		h.ModTime = time.Unix(st.Mtim.Unix())
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		h.Name = strings.TrimSuffix(name, "/") + "/"
	case unix.S_IFLNK:
		target, err := readlinkat(fd, "")
		if gone(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil, nil
	}
	if st.Nlink > 1 && h.Typeflag != tar.TypeDir {
		id := inode{st.Dev, st.Ino}
		if to, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, to, 0
			return h, nil
		}
		p.links[id] = name
	}
	xattrs(fd, h)
	return h, nil
}

// kept are the attributes that a tar has.
func kept(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.") ||
		strings.HasPrefix(name, "system.posix_acl_")
}

const paxXattr = "SCHILY.xattr."

// xattrs adds the extended attributes of a file or directory.
func xattrs(fd int, h *tar.Header) {
	if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
		return
	}
	buf := make([]byte, 4096)
	n, err := unix.Listxattr(procPath(fd), buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10)
		n, err = unix.Listxattr(procPath(fd), buf)
	}
	if err != nil || n == 0 {
		return // there are none where they cannot be listed
	}
	for attr := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if !kept(attr) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(procPath(fd), attr, value)
		if err != nil {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[paxXattr+attr] = string(value[:n])
	}
}

// file writes a file. What a process does to its size meanwhile does not break the tar.
func (p *packer) file(fd int, h *tar.Header) error {
	if h.Size == 0 {
		return p.w.WriteHeader(h) // what /proc and /sys have says that, and some of it may be written to only
	}
	in, err := os.OpenFile(procPath(fd), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: h.Name, Err: err}
	}
	defer in.Close()
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	if p.buf == nil {
		p.buf = make([]byte, 256<<10)
	}
	n, err := io.CopyBuffer(onlyWriter{p.w}, &cancelReader{p.ctx, io.LimitReader(in, h.Size)}, p.buf)
	if err != nil {
		return fmt.Errorf("reading %s: %w", h.Name, err)
	}
	if n < h.Size {
		_, err = io.CopyN(p.w, zeros{}, h.Size-n)
	}
	return err
}

// onlyWriter hides ReadFrom, which would take the reader's bytes in another way than through the buffer.
type onlyWriter struct{ io.Writer }

type cancelReader struct {
	ctx context.Context //nolint:containedctx // of the one call
	r   io.Reader
}

func (r *cancelReader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// below writes what is in a directory, in the order of the names.
func (p *packer) below(fd int, name string) error {
	d, err := os.OpenFile(procPath(fd), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil && !gone(err) {
		return err
	}
	slices.Sort(names)
	for _, base := range names {
		below := base
		if name != "" {
			below = strings.TrimSuffix(name, "/") + "/" + base
		}
		if err := p.entry(int(d.Fd()), base, below, false); err != nil {
			return err
		}
	}
	return nil
}

// Empty says whether a path is a directory with nothing in it. What does not exist is an error that wraps fs.ErrNotExist.
func Empty(root *os.File, name string) (bool, error) {
	d, err := mount.Resolve(root, path.Clean("/"+name), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return len(names) == 0, err
}
