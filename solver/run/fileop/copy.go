package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A copying is one op.Copy in progress.
type copying struct {
	*target
	c     *op.Copy
	src   treehash.Tree
	owner *ids
	mode  *modeChange // if c.ModeString is set
}

// Selector returns what a copy reads of its source. It is the Selector that the input of a vertex has to have for the
// copy's step key to be right.
func Selector(c *op.Copy) *solver.Selector {
	return &solver.Selector{
		Paths: []string{path.Join("/", c.Src)}, Wildcard: c.Wildcard, Follow: c.FollowSymlinks,
		Include: c.Include, Exclude: c.Exclude, Named: true,
	}
}

// copy performs op.Copy.
func (t *target) copy(ctx context.Context, src treehash.Tree, c *op.Copy) error {
	cp := &copying{target: t, c: c, src: src}
	var err error
	if cp.owner, err = t.owner(ctx, c.Owner); err != nil {
		return err
	}
	if c.ModeString != "" {
		if cp.mode, err = parseMode(c.ModeString); err != nil {
			return err
		}
	}
	if !c.MkdirDst {
		s, err := t.resolve(c.Dst)
		if err != nil {
			return err
		}
		if len(s.rest) > 1 {
			return fmt.Errorf("copying to %q: its directory: %w", c.Dst, fs.ErrNotExist)
		}
	}
	items, err := treehash.Match(ctx, src, Selector(c))
	if err != nil {
		return err
	}
	if len(items) == 0 {
		if err := cp.nothing(ctx); err != nil {
			return err
		}
	}
	if err := required(c, items); err != nil {
		return err
	}
	for len(items) > 0 {
		n := 1
		for n < len(items) && items[n].Rel != "" {
			n++
		}
		if err := cp.one(ctx, items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// nothing says whether it is an error that nothing matches: for a pattern it is none, as long as the directory exists that
// it stands in.
func (cp *copying) nothing(ctx context.Context) error {
	if !cp.c.EmptyWildcard {
		return &missingError{cp.c.Src}
	}
	dir := path.Join("/", cp.c.Src)
	if !cp.c.Wildcard || !treehash.HasWildcard(dir) {
		return nil
	}
	for treehash.HasWildcard(dir) {
		dir = path.Dir(dir)
	}
	if _, err := treehash.Resolve(ctx, cp.src, dir, true); errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "lstat", Path: dir, Err: unix.ENOENT}
	}
	return nil
}

// A missingError is fs.ErrNotExist in the words that a missing source has everywhere.
type missingError struct{ path string }

func (e *missingError) Error() string { return fmt.Sprintf("%q: not found", e.path) }
func (e *missingError) Unwrap() error { return fs.ErrNotExist }

// required checks that the paths that must exist do, whatever the patterns say.
func required(c *op.Copy, items []treehash.Item) error {
	for _, p := range c.Required {
		found := false
		for i := range items {
			at := path.Join(items[i].Source, items[i].Rel)
			if found = at == path.Join("/", p) || strings.HasPrefix(at, path.Join("/", p)+"/"); found {
				break
			}
		}
		if !found {
			return &missingError{path.Join("/", p)}
		}
	}
	return nil
}

// one copies one source: an entry and what is picked below it.
func (cp *copying) one(ctx context.Context, items []treehash.Item) error {
	if cp.c.Unpack && items[0].Entry.IsRegular() {
		if done, err := cp.unpack(ctx, &items[0]); done || err != nil {
			return err
		}
	}
	p, name, err := cp.destination(&items[0])
	if err != nil {
		return err
	}
	enter := cp.touch
	if again, err := cp.again(p, name, items[0].Entry); err != nil {
		return err
	} else if again {
		enter = cp.keep
	}
	if err := enter(p); err != nil {
		return err
	}
	e := newEngine(cp, items)
	e.unsayable(items, name)
	return e.run(ctx, p, name)
}

// again says whether name in p is a file already that has the size and metadata of the copy. Without it the directory
// would be part of the layer for its time alone, when all that is copied was there.
func (cp *copying) again(p *place, name string, e *treehash.Entry) (bool, error) {
	if name == "" || e.IsDir() {
		return false, nil
	}
	l, err := cp.lookup(p, name)
	if err != nil || !l.there || (e.IsRegular() && l.st.Size != e.Size) {
		return false, err
	}
	return cp.metaOf(e) == meta{l.st.Mode, l.st.UID, l.st.GID, l.st.MTime}, nil
}

// destination finds out where a source goes: the directory, which is made if need be, and the name in it; no name
// means that the contents of the source become those of the directory.
func (cp *copying) destination(it *treehash.Item) (*place, string, error) {
	// What the destination says is a directory is made one, and so are the parents of what it does not say that of.
	dst := cp.c.Dst
	if dir, file := path.Split(dst); file != "" && file != "." {
		dst = dir
	}
	s, err := cp.resolve(dst)
	if err != nil {
		return nil, "", err
	}
	if _, err := cp.mkdirs(s, cp.dirAttrs()); err != nil {
		return nil, "", err
	}
	if s, err = cp.resolve(cp.c.Dst); err != nil {
		return nil, "", err
	}
	isDir := it.Entry.IsDir()
	base := path.Base(it.Source)
	contents := isDir && (cp.c.DirContents || base == "/")
	there := s.found || len(s.rest) == 0
	switch {
	case contents && s.found:
		return nil, "", fmt.Errorf("cannot copy to non-directory: %s", s.path())
	case contents:
		p, err := cp.mkdirs(s, cp.dirAttrs())
		return p, "", err
	case isDir && there, !isDir && len(s.rest) == 0:
		p, err := cp.mkdirs(s, cp.dirAttrs())
		return p, base, err
	}
	last := len(s.rest) - 1
	p, err := cp.mkdirs(&spot{dir: s.dir, rest: s.rest[:last]}, cp.dirAttrs())
	return p, s.rest[last], err
}

// dirAttrs are those of directories that are made for something to be in. They never get set-ID bits nor the sticky
// one, whatever the mode of the files is.
func (cp *copying) dirAttrs() attrs {
	a := attrs{mode: 0o755, owner: cp.owner, time: cp.c.Time}
	if cp.c.ModeSet && cp.mode == nil {
		a.mode = cp.c.Mode & 0o777
	}
	return a
}

// meta is the metadata that a copy of an entry gets.
type meta struct {
	mode  uint32 // with the type
	uid   uint32
	gid   uint32
	mtime int64
}

func (cp *copying) metaOf(e *treehash.Entry) meta {
	m := meta{mode: e.Mode, uid: e.UID, gid: e.GID, mtime: e.MTime.UnixNano()}
	if cp.owner != nil {
		m.uid, m.gid = uint32(cp.owner.uid), uint32(cp.owner.gid)
	}
	switch {
	case e.IsSymlink():
	case cp.mode != nil:
		m.mode = cp.mode.apply(m.mode)
	case cp.c.ModeSet:
		m.mode = m.mode&unix.S_IFMT | cp.c.Mode&0o7777
	}
	if !cp.c.Time.IsZero() {
		m.mtime = cp.c.Time.UnixNano()
	}
	return m
}
