package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DiffOptions are those of Diff.
type DiffOptions struct {
	// Epoch, if not nil, is the latest modification time that is written (SOURCE_DATE_EPOCH).
	Epoch *time.Time
	// Windows says that the layer is for an image for Windows: its files are below "Files", and described for Windows.
	// DiffSnapshot sets it where IsWindows says so.
	Windows bool
	// Files, if not nil, is set to the sum of the files' sizes, in bytes; each is counted once, whatever links it has.
	Files *int64
	// LeftOut, if not nil, gets the first of the files that no layer can have, by their names.
	LeftOut *string
	// TimeOnly, if not nil, is set to true if a loose delta lacks a directory that has another time.
	TimeOnly *bool
}

// Diff writes the layer tar of t to w. For an overlay that is what t.Dir holds, without what says nothing new to t.Lower:
// what was only copied up, and opaque marks with nothing to hide. For Plain it is how t.Dir differs from
// t.Lower[0], or all of it if there is none. The bytes depend on names, types, contents, owners, modes, links, devices,
// xattrs and whole seconds of modification times alone. t is only read, and must not change meanwhile.
//
// Entries are in the order of a walk that goes through each directory's names sorted by their bytes; the whiteouts of a
// directory come before its other entries, as layer.md asks. Sockets are left out, and so are files whose names a tar
// would give another meaning (".wh.…"). Headers are USTAR; PAX records are there only for what USTAR cannot say.
func Diff(ctx context.Context, t Target, w io.Writer, opt DiffOptions) error {
	d := &differ{form: t.Form, out: newQueue(), leftOut: opt.LeftOut, timeOnly: opt.TimeOnly, views: t.views, merged: t.merged, loose: t.loose}
	err := d.run(ctx, t, func() error { return writeItems(d.out, w, opt) })
	if err != nil {
		return fmt.Errorf("writing layer of %s: %w", t.Dir, err)
	}
	return nil
}

// run walks t, and has sink take what comes out of d.out meanwhile.
func (d *differ) run(ctx context.Context, t Target, sink func() error) error {
	root, err := openRetry(unix.AT_FDCWD, t.Dir, dirFlags)
	if err != nil {
		return fmt.Errorf("reading layer %s: %w", t.Dir, err)
	}
	defer unix.Close(root)
	base := -1
	if t.Form == Plain && len(t.Lower) > 0 {
		if base, err = openRetry(unix.AT_FDCWD, t.Lower[0], dirFlags); err != nil {
			return fmt.Errorf("reading layer %s: %w", t.Lower[0], err)
		}
		defer unix.Close(base)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.ctx, d.out.ctx, d.first = ctx, ctx, make(map[inode]string)
	top := &place{fd: root, base: base, emitted: true}
	d.root = top
	if t.Form != Plain {
		d.lower = lowers{dirs: t.Lower, form: t.Form}
		top.lower = d.lower.all()
	}
	defer d.lower.close()
	go func() {
		defer close(d.out.items)
		if err := d.walk(top); err != nil {
			cancel(err)
		}
	}()
	err = sink()
	cancel(err)
	d.out.wait()
	return err
}

type inode struct{ dev, ino uint64 }

// A differ walks the tree and queues what is to be written.
type differ struct {
	ctx   context.Context //nolint:containedctx // it ends with the call that made it
	form  Form
	root  *place
	lower lowers                // of an overlay
	names map[int]map[inode]int // how many names an inode has in a lower directory, or in the upper one (-1)
	plan  linkPlan              // of a plain tree, once a file with several names was met
	first map[inode]string      // the name under which a file with several was written
	out   *queue

	leftOut  *string // see DiffOptions
	views    bool    // what is compared are mounts of layers in one file system, see sameFile
	merged   bool    // see Target
	loose    bool    // see snapshot.Delta
	timeOnly *bool   // see DiffOptions
	sockets  bool    // sockets are files as others are; a tar cannot have them
}

// A place is a directory that is being walked.
type place struct {
	up      *place
	fd      int
	base    int    // the directory that it is compared with, or -1
	lower   []int  // which of differ.lower it is compared with; none if it is new, and then all in it is new
	hides   bool   // it is opaque: nothing of lower shows in it
	path    string // with a slash at the end; empty for the root
	st      unix.Stat_t
	emitted bool // its own entry is written
}

// emit queues the entries of the directories that lead to p, and of p.
func (d *differ) emit(p *place) error {
	if p.emitted {
		return nil
	}
	if err := d.emit(p.up); err != nil {
		return err
	}
	p.emitted = true
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return d.out.put(&item{path: p.path, st: p.st, fd: fd})
}

// walk walks the root, which has no entry of its own: a layer does not say who owns the root. Its opaque mark is
// always written: it says that the layer is the whole tree.
func (d *differ) walk(p *place) error {
	if d.form != Plain {
		opaque, err := isOpaque(p.fd, d.form)
		if err != nil {
			return fmt.Errorf("reading %s: %w", p.path, err)
		}
		if opaque {
			p.lower = nil
			if err := d.whiteout(p, whiteoutOpaque); err != nil {
				return err
			}
		}
	}
	return d.dir(p)
}

// hidden queues a whiteout for each name that the opaque directory p hides and does not have, names, itself. The mark
// is not written: laid over another parent the layer is to hide what it hid here, and nothing else.
func (d *differ) hidden(p *place, names []string) error {
	below, err := d.lower.names(p.lower, pathOf(p))
	if err != nil {
		return fmt.Errorf("reading what is below %s: %w", p.path, err)
	}
	for _, f := range below {
		if has(names, f.name) || strings.HasPrefix(f.name, whiteoutPrefix) || f.kind == unix.S_IFSOCK && !d.sockets {
			continue
		}
		if err := d.whiteout(p, whiteoutPrefix+f.name); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) dir(p *place) error {
	names, err := readNames(p.fd)
	if err != nil {
		return fmt.Errorf("reading %s: %w", p.path, err)
	}
	var below []string
	if p.base >= 0 {
		if below, err = readNames(p.base); err != nil {
			return fmt.Errorf("reading %s: %w", p.path, err)
		}
		if err := d.removed(p, names, below); err != nil {
			return err
		}
	}
	if p.hides {
		if err := d.hidden(p, names); err != nil {
			return err
		}
	}
	type named struct {
		name string
		st   unix.Stat_t
	}
	files := make([]named, 0, len(names))
	old := &lowerDir{d: d, p: p}
	defer old.close()
	for _, name := range names {
		f := named{name: name}
		if err := statRetry(p.fd, name, &f.st); err != nil {
			return fmt.Errorf("looking up %s%s: %w", p.path, name, err)
		}
		switch {
		case strings.HasPrefix(name, whiteoutPrefix):
			if d.leftOut != nil && *d.leftOut == "" {
				*d.leftOut = "/" + p.path + name
			}
		case f.st.Mode&unix.S_IFMT == unix.S_IFSOCK && !d.sockets:
		case isWhiteout(&f.st):
			if d.form != Plain {
				err = d.whiteout(p, whiteoutPrefix+name)
			}
		case f.st.Mode&unix.S_IFMT == unix.S_IFDIR:
			files = append(files, f)
		default:
			same := false
			if same, err = old.same(name, &f.st); err != nil {
				err = fmt.Errorf("comparing %s%s: %w", p.path, name, err)
			} else if !same {
				files = append(files, f)
			}
		}
		if err != nil {
			return err
		}
	}
	old.close() // what follows may be deep
	for i := range files {
		in := p.base >= 0 && has(below, files[i].name)
		if err := d.file(p, files[i].name, &files[i].st, in); err != nil {
			return err
		}
	}
	return nil
}

func has(sorted []string, name string) bool {
	_, ok := slices.BinarySearch(sorted, name)
	return ok
}

// removed queues whiteouts for what only the base has.
func (d *differ) removed(p *place, names, below []string) error {
	for _, name := range below {
		if has(names, name) || strings.HasPrefix(name, whiteoutPrefix) {
			continue
		}
		var st unix.Stat_t
		if err := statRetry(p.base, name, &st); err != nil {
			return fmt.Errorf("looking up %s%s: %w", p.path, name, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK && !d.sockets {
			continue // in no layer
		}
		if err := d.whiteout(p, whiteoutPrefix+name); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) whiteout(p *place, name string) error {
	if err := d.emit(p); err != nil {
		return err
	}
	return d.out.put(&item{path: p.path + name, fd: -1, white: true})
}

// file queues one file, if it differs from the base's, and what is in it.
func (d *differ) file(p *place, name string, st *unix.Stat_t, inBase bool) error {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return d.subdir(p, name, st, inBase)
	}
	if inBase {
		if same, err := d.samePlain(p, name, st); err != nil || same {
			return err
		}
	}
	if err := d.emit(p); err != nil {
		return err
	}
	it := &item{path: p.path + name, st: *st, fd: -1}
	if st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if it.link = d.first[key]; it.link != "" {
			return d.out.put(it)
		}
		d.first[key] = it.path
	}
	var err error
	if it.fd, err = openRetry(p.fd, name, openFlags(st)); err != nil {
		return fmt.Errorf("opening %s: %w", it.path, err)
	}
	return d.out.put(it)
}

// openFlags opens files for reading, and names others only: opening a device does something.
func openFlags(st *unix.Stat_t) int {
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	}
	return unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
}

func (d *differ) subdir(p *place, name string, st *unix.Stat_t, inBase bool) error {
	if strings.Count(p.path, "/") >= maxDepth {
		return fmt.Errorf("%s: %w: %d directories deep", cutPath(p.path), ErrTooLarge, maxDepth)
	}
	k := &place{up: p, base: -1, path: p.path + name + "/", st: *st}
	var err error
	if k.fd, err = openRetry(p.fd, name, dirFlags); err != nil {
		return fmt.Errorf("opening %s: %w", k.path, err)
	}
	defer unix.Close(k.fd)
	changed, time := true, false
	if inBase {
		if k.base, err = openRetry(p.base, name, dirFlags); err == nil {
			defer unix.Close(k.base)
			changed, time, err = dirChanged(k.fd, k.base, st)
		} else if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			k.base, err = -1, nil
		}
	} else if len(p.lower) > 0 {
		changed, time, err = d.copiedUp(k, name)
	}
	if err != nil {
		return fmt.Errorf("comparing %s: %w", k.path, err)
	}
	if changed || time && !d.loose {
		if err := d.emit(k); err != nil {
			return err
		}
	}
	// The kernel marks every directory that it makes in an upper one; where there is nothing to hide the mark says nothing.
	if k.hides = p.hides && len(k.lower) > 0; !k.hides && len(k.lower) > 0 {
		if k.hides, err = isOpaque(k.fd, d.form); err != nil {
			return fmt.Errorf("reading %s: %w", k.path, err)
		}
	}
	err = d.dir(k)
	if time && !k.emitted && d.timeOnly != nil {
		*d.timeOnly = true
	}
	return err
}

// copiedUp finds what the directory k, whose name is given, merges, and says whether it has other metadata than that, and
// another time. The kernel copies a directory up as soon as something is made in it, and leaves it there when that is
// removed again.
func (d *differ) copiedUp(k *place, name string) (changed, time bool, err error) {
	e, err := d.lower.lookup(k.up.lower, pathOf(k.up), name)
	if err != nil || e.kind != directory {
		return true, false, err
	}
	k.lower = e.layers
	old, err := d.lower.openDir(e.layers[0], pathOf(k))
	if err != nil {
		return true, false, err
	}
	defer unix.Close(old)
	return dirChanged(k.fd, old, &k.st)
}

// pathOf returns the path of a place as lowers take it.
func pathOf(p *place) string { return strings.TrimSuffix(p.path, "/") }

func cutPath(p string) string {
	if len(p) > 300 {
		return p[:300] + "…"
	}
	return p
}

// tarBuffers are for writeItems. Most layers are a few files, of many builds at once.
var tarBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 128<<10) }}

// writeItems writes what comes out of q as a tar.
func writeItems(q *queue, w io.Writer, opt DiffOptions) error {
	bw := tarBuffers.Get().(*bufio.Writer)
	bw.Reset(w)
	defer func() {
		bw.Reset(nil) // w is not kept
		tarBuffers.Put(bw)
	}()
	tw := tar.NewWriter(bw)
	var files int64
	if opt.Windows {
		if err := writeWindowsTop(tw); err != nil {
			return err
		}
	}
	for it := range q.items {
		<-it.ready
		if it.err == nil {
			var n int64
			n, it.err = writeItem(tw, it, opt)
			files += n
		}
		q.release(it)
		if it.err != nil {
			return fmt.Errorf("%s: %w", cutPath(it.path), it.err)
		}
	}
	if err := q.failed(); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if opt.Files != nil {
		*opt.Files = files
	}
	return bw.Flush()
}

// writeItem writes an entry, and returns the size of the file that is in it.
func writeItem(tw *tar.Writer, it *item, opt DiffOptions) (int64, error) {
	if it.white {
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: it.path}
		if opt.Windows {
			windowsHeader(hdr)
		}
		return 0, tw.WriteHeader(hdr)
	}
	hdr := header(it)
	if opt.Epoch != nil && hdr.ModTime.After(*opt.Epoch) {
		hdr.ModTime = opt.Epoch.Truncate(time.Second)
	}
	if opt.Windows {
		windowsHeader(hdr)
	}
	if err := tw.WriteHeader(hdr); err != nil {
		return 0, err
	}
	if hdr.Size == 0 {
		return 0, nil
	}
	if it.content != nil {
		_, err := tw.Write(it.content)
		return hdr.Size, err
	}
	n, err := io.Copy(tw, fdReader(it.fd))
	if err == nil && n != hdr.Size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// header describes an item: no names of users, no times but one, nothing of this host.
func header(it *item) *tar.Header {
	st := &it.st
	hdr := &tar.Header{
		Name: it.path, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0),
	}
	for _, x := range it.xattrs {
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = make(map[string]string)
		}
		hdr.PAXRecords[xattrRecord+x.name] = string(x.value)
	}
	if it.link != "" {
		hdr.Typeflag, hdr.Linkname = tar.TypeLink, it.link
		return hdr
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		hdr.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, it.target
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return hdr
}
