package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// Transplant applies a delta to t, as Apply does with the delta's tar, without making one. Three things differ: times keep
// their nanoseconds; sockets come along, since an image is not asked; and where t is the upper directory of an overlay on
// the file system of the delta, files are linked instead of copied. What is linked so must never be written to; a layer
// under an overlay is not.
//
// After an error t holds a part of the delta, and is to be thrown away.
func Transplant(ctx context.Context, sn snapshot.Snapshotter, delta snapshot.Delta, t Target) error {
	return withDelta(ctx, sn, delta, func(from Target) error {
		tree, err := newTree(t)
		if err != nil {
			return fmt.Errorf("copying a layer: %w", err)
		}
		defer tree.close()
		a := &applier{ctx: ctx, tree: tree, limits: Limits{Size: -1, Ratio: -1, Entries: -1}.withDefaults(), buf: make([]byte, 256<<10)}
		d := &differ{form: from.Form, out: newQueue(), views: from.views, merged: from.merged, loose: from.loose, sockets: true}
		d.out.keep = true
		p := &transplant{a: a, link: t.Form != Plain}
		if err := d.run(ctx, from, func() error { return p.all(d.out) }); err != nil {
			return fmt.Errorf("copying a layer: %w", err)
		}
		return nil
	})
}

// A transplant applies what comes out of a queue.
type transplant struct {
	a    *applier
	link bool // files can be linked, as far as is known
}

func (p *transplant) all(q *queue) error {
	for it := range q.items {
		<-it.ready
		if it.err == nil {
			it.err = p.one(it)
		}
		q.release(it)
		if it.err != nil {
			return fmt.Errorf("%s: %w", cutPath(it.path), it.err)
		}
	}
	if err := q.failed(); err != nil {
		return err
	}
	return p.a.tree.finish()
}

func (p *transplant) one(it *item) error {
	if it.white {
		return p.a.entry(&tar.Header{Typeflag: tar.TypeReg, Name: it.path}, nil)
	}
	if it.link == "" && it.st.Mode&unix.S_IFMT == unix.S_IFREG {
		if done, err := p.linked(it); err != nil || done {
			return err
		}
		if err := it.load(false); err != nil {
			return err
		}
	}
	hdr := header(it)
	hdr.ModTime = time.Unix(it.st.Mtim.Unix())
	if it.link == "" && it.st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		hdr.Typeflag = typeSocket
	}
	return p.a.entry(hdr, fdReader(it.fd))
}

// linked makes the file another name of the one that it is a copy of, and says whether that was possible.
func (p *transplant) linked(it *item) (bool, error) {
	if !p.link {
		return false, nil
	}
	parts, err := split(it.path, false)
	if err != nil {
		return false, err
	}
	p.a.tree.stamp = it.st.Mtim
	parent, err := p.a.parent(parts[:len(parts)-1])
	if err != nil {
		return false, err
	}
	parent.touch()
	base := parts[len(parts)-1]
	err = p.a.replace(parent, base, func(dir int) error {
		return unix.Linkat(unix.AT_FDCWD, procFD(it.fd), dir, base, unix.AT_SYMLINK_FOLLOW)
	})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EPERM):
		p.link = false // another file system, or one without links
		return false, nil
	case errors.Is(err, unix.EMLINK):
		return false, nil
	}
	return false, err
}

// typeSocket is the type of an entry that no tar has.
const typeSocket = 's'
