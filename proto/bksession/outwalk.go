package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// An outWalk walks the parts of an output as one tree, in the order that fsutil's protocol wants.
type outWalk struct {
	// emit is called for each entry. to is its path in the output, relative; link that of an earlier name of its file.
	emit  func(e *treehash.Entry, to, link string, p *Part) error
	first map[hardName]string
}

// A hardName is one file of a tree that may have several names.
type hardName struct {
	part *Part
	hard uint64
}

// A place is a directory of one part.
type place struct {
	part *Part
	dir  string
}

// found is what the parts have under one name.
type found struct {
	e    *treehash.Entry
	part *Part
	dirs []place // of what is a directory, in all parts that have it
}

func (w *outWalk) parts(ctx context.Context, parts []Part) error {
	top := map[string]*found{}
	for i := range parts {
		p := &parts[i]
		at := place{p, "/"}
		if p.Dir == "" {
			if err := merge(ctx, top, at, ""); err != nil {
				return err
			}
			continue
		}
		f := top[p.Dir]
		if f == nil {
			f = &found{e: &treehash.Entry{Mode: unix.S_IFDIR | 0o755, MTime: time.Unix(0, 0)}, part: p}
			top[p.Dir] = f
		} else if !f.e.IsDir() {
			return fmt.Errorf("%s of %s is in the way of the directory of %s", p.Dir, f.part.Name, p.Name)
		}
		f.dirs = append(f.dirs, at)
	}
	return w.walk(ctx, top, "")
}

// merge adds what is in a directory of a part to what other parts have there.
func merge(ctx context.Context, all map[string]*found, at place, to string) error {
	list, err := at.part.Tree.List(ctx, at.dir)
	if err != nil {
		return fmt.Errorf("listing %q: %w", path.Join(to, at.dir), err)
	}
	for _, e := range list {
		switch e.Mode & unix.S_IFMT {
		case unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
			continue
		}
		name := path.Base(e.Path)
		f := all[name]
		switch {
		case f == nil:
			f = &found{e: e, part: at.part}
			all[name] = f
		case f.e.IsDir() && e.IsDir():
		case f.part.Name == at.part.Name && !f.e.IsDir() && !e.IsDir():
			f.e, f.part = e, at.part
		default:
			return fmt.Errorf("cannot overwrite %s from %s with %s when split option is disabled", path.Join(to, name), f.part.Name, at.part.Name)
		}
		if e.IsDir() {
			f.dirs = append(f.dirs, place{at.part, e.Path})
		}
	}
	return nil
}

func (w *outWalk) walk(ctx context.Context, all map[string]*found, dir string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		to := path.Join(dir, name)
		link := ""
		if f.e.IsRegular() && f.e.Hard != 0 {
			key := hardName{f.part, f.e.Hard}
			if link = w.first[key]; link == "" {
				w.first[key] = to
			}
		}
		if err := w.emit(f.e, to, link, f.part); err != nil {
			return err
		}
		if !f.e.IsDir() {
			continue
		}
		below := map[string]*found{}
		for _, at := range f.dirs {
			if err := merge(ctx, below, at, to); err != nil {
				return err
			}
		}
		if err := w.walk(ctx, below, to); err != nil {
			return err
		}
	}
	return nil
}

// statPacket makes the message that lists an entry.
func statPacket(e *treehash.Entry, to, link string, epoch *time.Time) raw {
	st := appendText(make([]byte, 0, len(to)+64), statPath, to)
	st = appendNumber(st, statMode, uint64(uint32(filesync.FileMode(e.Mode))))
	st = appendNumber(st, 3, uint64(e.UID))
	st = appendNumber(st, 4, uint64(e.GID))
	if link == "" {
		st = appendNumber(st, statSize, uint64(e.Size))
	}
	mtime := e.MTime
	if epoch != nil {
		mtime = *epoch
	}
	st = appendNumber(st, statMTime, uint64(mtime.UnixNano()))
	if e.IsSymlink() {
		link = e.Link
	}
	st = appendText(st, statLink, link)
	for _, k := range slices.Sorted(maps.Keys(e.Xattr)) {
		x := appendText(nil, 1, k)
		x = protowire.AppendBytes(protowire.AppendTag(x, 2, protowire.BytesType), e.Xattr[k])
		st = protowire.AppendBytes(protowire.AppendTag(st, statXattr, protowire.BytesType), x)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, fieldStat, protowire.BytesType), st)
}

// fileChunk is how many bytes of a file are one message, and packetHead what the rest of it may have.
const (
	fileChunk  = 128 << 10
	packetHead = 32
)

// dataPacket reads a message's worth of a file; nil without any bytes. The error is that of r.
func dataPacket(id uint32, r io.Reader) (raw, error) {
	b := make([]byte, packetHead+fileChunk)
	n, err := io.ReadFull(r, b[packetHead:])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	if n == 0 {
		return nil, err
	}
	head := appendNumber(make([]byte, 0, packetHead), fieldType, packetData)
	head = appendNumber(head, fieldID, uint64(id))
	head = protowire.AppendVarint(protowire.AppendTag(head, fieldData, protowire.BytesType), uint64(n))
	start := packetHead - len(head)
	copy(b[start:], head)
	return b[start : packetHead+n], err
}
