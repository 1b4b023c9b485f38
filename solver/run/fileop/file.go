package fileop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// A copier is one worker of an engine.
type copier struct {
	*engine
	buf    []byte
	record []record
}

// copyBuffer is how much is read and written at once: files up to this size take one call each.
const copyBuffer = 256 << 10

// do does one job.
func (w *copier) do(ctx context.Context, j *job) error {
	if j.plan != nil {
		d, err := w.sub(j.dir, j.name, j.plan.item, j.top)
		if err != nil {
			return err
		}
		w.fill(d, j.plan)
		w.done(d)
		return nil
	}
	j.dir.named.Store(true)
	for _, it := range j.files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name := j.name
		if name == "" {
			name = path.Base(it.Rel)
		}
		if err := w.file(ctx, j.dir, name, it.Entry); err != nil {
			return err
		}
	}
	return nil
}

// file copies an entry that is not a directory.
func (w *copier) file(ctx context.Context, d *dstDir, name string, e *treehash.Entry) error {
	m := w.metaOf(e)
	var err error
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if g := w.links[e.Hard]; g != nil && e.Hard != 0 {
			return w.linked(ctx, d, name, e, g)
		}
		return w.regular(ctx, d, name, e, true)
	case unix.S_IFLNK:
		err = w.place(d, name, func() error { return unix.Symlinkat(e.Link, d.up, name) })
	case unix.S_IFSOCK:
		// A socket means nothing without the process behind it: what is left is an empty file, as in BuildKit.
		m.mode = unix.S_IFREG | m.mode&0o7777
		err = w.place(d, name, func() error { return unix.Mknodat(d.up, name, unix.S_IFREG|0o600, 0) })
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO:
		if e.Mode&unix.S_IFMT == unix.S_IFCHR && e.Rdev == 0 {
			return fmt.Errorf("copying %q: a character device 0:0 cannot be stored, since overlayfs hides files by such", e.Path)
		}
		err = w.place(d, name, func() error { return unix.Mknodat(d.up, name, m.mode&unix.S_IFMT|0o600, int(e.Rdev)) })
	default:
		return fmt.Errorf("copying %q: unknown file type %o", e.Path, e.Mode)
	}
	if err == nil {
		err = describe(d.up, name, e, m)
	}
	if err != nil {
		return fmt.Errorf("copying %q to %q: %w", e.Path, path.Join(d.path, name), err)
	}
	return nil
}

// describe sets the metadata of a name that is not a regular file with content.
func describe(dir int, name string, e *treehash.Entry, m meta) error {
	if err := unix.Fchownat(dir, name, int(m.uid), int(m.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if m.mode&unix.S_IFMT != unix.S_IFLNK {
		// The name has just been made by us in a directory that is ours, so it is not a symlink.
		if err := unix.Fchmodat(dir, name, m.mode&0o7777, 0); err != nil {
			return err
		}
	}
	if err := setXattrs(dir, name, e.Xattr); err != nil {
		return err
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(m.mtime)}
	return unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// place calls fn, which makes a name in d, and makes room for it if something else has the name.
func (w *copier) place(d *dstDir, name string, fn func() error) error {
	if d.below[name] {
		return fmt.Errorf("cannot replace to directory %s with file", path.Join(d.path, name))
	}
	err := retry(fn)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st dirfd.Stat
	if err := dirfd.Lstat(d.up, name, &st); err != nil {
		return bare(err)
	}
	switch {
	case st.Type() != unix.S_IFDIR:
		err = retry(func() error { return unix.Unlinkat(d.up, name, 0) })
	case !w.c.AlwaysReplace:
		return fmt.Errorf("cannot replace to directory %s with file", path.Join(d.path, name))
	default:
		err = removeAll(context.Background(), d.up, name)
	}
	if err != nil {
		return err
	}
	if w.draft.record != nil {
		w.record = append(w.record, record{path: path.Join(d.path, name), replaced: true})
	}
	return retry(fn)
}

// linked copies a name of an inode that has several: one copies the content, the others wait for it and link.
func (w *copier) linked(ctx context.Context, d *dstDir, name string, e *treehash.Entry, g *linkGroup) error {
	first := false
	var err error
	g.once.Do(func() {
		first = true
		defer close(g.done)
		if err = w.regular(ctx, d, name, e, false); err == nil {
			g.path, g.ok = path.Join(d.path, name), true
		}
	})
	if first {
		return err
	}
	<-g.done // whoever is first is at work on it, and waits for nobody
	if !g.ok {
		return nil // and has reported why
	}
	dir, base := path.Split(g.path)
	from, err := dirfd.Open(w.root.up, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("linking %q: %w", e.Path, bare(err))
	}
	defer dirfd.Close(from)
	if err := w.place(d, name, func() error { return unix.Linkat(from, base, d.up, name, 0) }); err != nil {
		return fmt.Errorf("linking %q to %q: %w", path.Join(d.path, name), g.path, err)
	}
	return nil
}

// regular copies a regular file, or links it from the previous result if that has the same.
func (w *copier) regular(ctx context.Context, d *dstDir, name string, e *treehash.Entry, share bool) error {
	m := w.metaOf(e)
	rec := record{meta: m, size: e.Size}
	if share && len(e.Xattr) == 0 && w.draft.record.room() {
		rec.path = path.Join(d.path, name)
		if d.prev >= 0 && w.reuse(ctx, d, name, e, &rec) {
			w.record = append(w.record, rec)
			return nil
		}
	}
	sum, err := w.write(ctx, d, name, e, m)
	if err != nil {
		var changed *treehash.ChangedError
		if errors.As(err, &changed) {
			return err // says everything
		}
		return fmt.Errorf("copying %q to %q: %w", e.Path, path.Join(d.path, name), err)
	}
	if rec.path != "" && sum != nil {
		rec.sum = *sum
		w.record = append(w.record, rec)
	}
	return nil
}

// reuse links a file from the previous result if it is the same there, and says whether it did.
func (w *copier) reuse(ctx context.Context, d *dstDir, name string, e *treehash.Entry, rec *record) bool {
	old := w.draft.manifest.find(rec.path)
	if old == nil || old.meta != rec.meta || old.size != rec.size {
		return false
	}
	sum, err := w.src.Content(ctx, e.Path)
	if err != nil || sum != old.sum {
		return false
	}
	rec.sum = sum
	// Too many links, other file systems, an older tree that is gone: all of them mean no more than that it is copied.
	return w.place(d, name, func() error { return unix.Linkat(d.prev, name, d.up, name, 0) }) == nil
}

// write writes a regular file and returns its digest if that is known.
func (w *copier) write(ctx context.Context, d *dstDir, name string, e *treehash.Entry, m meta) (*solver.Digest, error) {
	in, err := w.source(ctx, e)
	if err != nil {
		return nil, err
	}
	defer in.close()
	out := -1
	err = w.place(d, name, func() (err error) {
		out, err = create(d.up, name, m.mode&0o777)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer dirfd.Close(out)
	sum, err := w.content(ctx, out, in, e)
	if err != nil {
		return nil, err
	}
	return sum, w.seal(d, out, e, m)
}

// seal sets the metadata of a file that has been written, sparing the calls that would change nothing.
func (w *copier) seal(d *dstDir, out int, e *treehash.Entry, m meta) error {
	if !d.probed.Load() {
		var st dirfd.Stat
		if err := dirfd.Fstat(out, &st); err != nil {
			return err
		}
		d.odd.Store(st.UID != w.self.uid || st.GID != w.self.gid || st.Mode&0o7777 != m.mode&0o777&^w.umask)
		d.probed.Store(true)
	}
	odd := d.odd.Load()
	if odd || m.uid != w.self.uid || m.gid != w.self.gid {
		if err := unix.Fchown(out, int(m.uid), int(m.gid)); err != nil {
			return err
		}
	}
	if odd || m.mode&0o7000 != 0 || m.mode&w.umask != 0 {
		if err := unix.Fchmod(out, m.mode&0o7777); err != nil {
			return err
		}
	}
	if err := setXattrs(out, "", e.Xattr); err != nil {
		return err
	}
	return setTime(out, m.mtime)
}

// An input is an open source file: a descriptor, or a reader that verifies itself.
type input struct {
	fd   int
	want *solver.Digest // what must come out of fd; nil if it cannot change
	r    io.ReadCloser
}

func (in *input) close() {
	if in.r != nil {
		_ = in.r.Close()
		return
	}
	dirfd.Close(in.fd)
}

func (w *copier) source(ctx context.Context, e *treehash.Entry) (*input, error) {
	if f, ok := w.src.(treehash.Filer); ok {
		fd, want, err := f.File(ctx, e)
		return &input{fd: fd, want: want}, err
	}
	r, err := w.src.Open(ctx, e.Path)
	return &input{fd: -1, r: r}, err
}

// content copies bytes, and verifies them where they could have changed.
func (w *copier) content(ctx context.Context, out int, in *input, e *treehash.Entry) (*solver.Digest, error) {
	// A small file that cannot be cloned is read and written faster than copied by the kernel, which needs a second call
	// to see the end.
	if in.r == nil && in.want == nil && e.Size > 0 && (e.Size > copyBuffer || !w.noClone.Load()) {
		done, err := w.inKernel(ctx, out, in.fd)
		if err != nil {
			return nil, err
		}
		if done {
			return w.known(e.Path), nil
		}
	}
	if w.buf == nil {
		w.buf = make([]byte, copyBuffer)
	}
	var h hash.Hash
	for {
		n, err := w.read(in)
		last := errors.Is(err, io.EOF) || in.r == nil && n < len(w.buf)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if werr := dirfd.Write(out, w.buf[:n]); werr != nil {
			return nil, werr
		}
		if in.want != nil {
			if last && h == nil { // all of it at once
				if sum := sha256.Sum256(w.buf[:n]); sum != *in.want {
					return nil, &treehash.ChangedError{Path: e.Path}
				}
				return in.want, nil
			}
			if h == nil {
				h = sha256.New()
			}
			h.Write(w.buf[:n])
		}
		if last {
			break
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if h != nil {
		if !bytes.Equal(h.Sum(nil), in.want[:]) {
			return nil, &treehash.ChangedError{Path: e.Path}
		}
		return in.want, nil
	}
	return w.known(e.Path), nil
}

func (w *copier) read(in *input) (int, error) {
	if in.r != nil {
		return in.r.Read(w.buf)
	}
	return dirfd.Read(in.fd, w.buf)
}

// known returns the digest of a file if the tree has it already.
func (w *copier) known(p string) *solver.Digest {
	if w.draft.record == nil {
		return nil
	}
	if k, ok := w.src.(interface {
		Known(p string) (solver.Digest, bool)
	}); ok {
		if sum, ok := k.Known(p); ok {
			return &sum
		}
	}
	return nil
}

// inKernel copies without the bytes coming by: shared blocks, or else copy_file_range. It says whether it did, which is
// never half.
func (w *copier) inKernel(ctx context.Context, out, in int) (bool, error) {
	if !w.noClone.Load() {
		if unix.IoctlFileClone(out, in) == nil {
			return true, nil
		}
		w.noClone.Store(true)
	}
	if w.noRange.Load() {
		return false, nil
	}
	for begun := false; ; {
		n, err := unix.CopyFileRange(in, nil, out, nil, 64<<20, 0)
		switch {
		case err == unix.EINTR:
		case err != nil && !begun:
			w.noRange.Store(true)
			return false, nil
		case err != nil:
			return false, err
		case n == 0:
			return begun, nil // files of some virtual file systems claim to be empty
		default:
			begun = true
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
	}
}
