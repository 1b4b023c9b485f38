package treehash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// A Snapshot is the Tree of a directory that does not change. Every path is resolved below its root, without
// following symlinks; what is in the tree cannot lead out of it.
type Snapshot struct {
	cache *Cache
	rec   *record
	root  int
}

var _ Merkle = (*Snapshot)(nil)

func newSnapshot(c *Cache, rec *record, root *os.File) (*Snapshot, error) {
	// The descriptor of a mount may be one that only names it.
	fd, err := dirfd.Open(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
	runtime.KeepAlive(root)
	if err != nil {
		return nil, fmt.Errorf("opening snapshot %s: %w", rec.id, err)
	}
	return &Snapshot{cache: c, rec: rec, root: fd}, nil
}

// Close gives the descriptor back. The tree must not be used any more.
func (s *Snapshot) Close() {
	dirfd.Close(s.root)
	s.root = -1
}

// Lookup implements Tree.
func (s *Snapshot) Lookup(_ context.Context, p string) (*Entry, error) {
	p = path.Join("/", p)
	dir, name := path.Dir(p), path.Base(p)
	if p == "/" {
		return s.stat(s.root, "", "/")
	}
	if n := s.node(dir); n != nil {
		if i, ok := n.find(name); ok {
			return &n.entries[i], nil
		}
		return nil, notFound(p)
	}
	fd, err := dirfd.Open(s.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, missing(p, err)
	}
	defer dirfd.Close(fd)
	e, err := s.stat(fd, name, p)
	if err != nil {
		return nil, missing(p, err)
	}
	return e, nil
}

// missing turns the ways in which a path can be absent, a symlink on it among them, into one error.
func missing(p string, err error) error {
	if dirfd.Gone(err) || errors.Is(err, unix.ELOOP) {
		return notFound(p)
	}
	return fmt.Errorf("looking up %q: %w", p, err)
}

// stat describes name in dir, or dir itself if name is empty.
func (s *Snapshot) stat(dir int, name, p string) (*Entry, error) {
	var st dirfd.Stat
	var err error
	if name == "" {
		err = dirfd.Fstat(dir, &st)
	} else {
		err = dirfd.Lstat(dir, name, &st)
	}
	if err != nil {
		return nil, err
	}
	e := &Entry{Path: p}
	return e, Fill(e, dir, name, &st)
}

// Fill sets what of an entry its stat tells, and reads its symlink target and extended attributes. name is in the
// directory dir, or is empty for dir itself.
func Fill(e *Entry, dir int, name string, st *dirfd.Stat) error {
	e.Mode, e.UID, e.GID, e.MTime = st.Mode, st.UID, st.GID, time.Unix(0, st.MTime)
	var err error
	switch st.Type() {
	case unix.S_IFREG:
		e.Size = st.Size
		if st.Nlink > 1 {
			e.Hard = hardID(st)
		}
	case unix.S_IFLNK:
		if e.Link, err = dirfd.Readlink(dir, name); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = st.Rdev
	}
	e.Xattr, err = dirfd.Xattrs(dir, name)
	return err
}

// hardID is a number for an inode. Trees that span file systems are rare, and then a collision needs two inodes of
// the same number: the device is mixed in so that it does not come from small numbers.
func hardID(st *dirfd.Stat) uint64 {
	return (st.Ino ^ st.Dev*0x9e3779b97f4a7c15) | 1<<63
}

func (s *Snapshot) node(dir string) *dirNode {
	s.rec.mu.Lock()
	defer s.rec.mu.Unlock()
	return s.rec.dirs[dir]
}

func (n *dirNode) find(name string) (int, bool) {
	return slices.BinarySearchFunc(n.entries, name, func(e Entry, name string) int {
		return strings.Compare(path.Base(e.Path), name)
	})
}

// List implements Tree.
func (s *Snapshot) List(_ context.Context, dir string) ([]*Entry, error) {
	n, err := s.load(path.Join("/", dir))
	if err != nil {
		return nil, err
	}
	out := make([]*Entry, len(n.entries))
	for i := range out {
		out[i] = &n.entries[i]
	}
	return out, nil
}

// load lists a directory, once.
func (s *Snapshot) load(dir string) (*dirNode, error) {
	if n := s.node(dir); n != nil {
		return n, nil
	}
	fd, err := dirfd.Open(s.root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, missing(dir, err)
	}
	defer dirfd.Close(fd)
	n := &dirNode{}
	err = dirfd.List(fd, func(name dirfd.Name) error {
		var st dirfd.Stat
		if err := name.Lstat(fd, &st); err != nil {
			return err
		}
		base := string(name.Bytes())
		e := Entry{Path: path.Join(dir, base)}
		if err := Fill(&e, fd, base, &st); err != nil {
			return err
		}
		n.entries = append(n.entries, e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing %q: %w", dir, err)
	}
	slices.SortFunc(n.entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	n.content = make([]solver.Digest, len(n.entries))
	n.known = make([]bool, len(n.entries))

	s.rec.mu.Lock()
	if old := s.rec.dirs[dir]; old != nil {
		s.rec.mu.Unlock()
		return old, nil
	}
	for i := range n.entries {
		if d, ok := s.rec.sums[n.entries[i].Path]; ok {
			n.content[i], n.known[i] = d, true
		}
	}
	s.rec.dirs[dir] = n
	s.rec.mu.Unlock()
	s.cache.grew(s.rec, len(n.entries)+1)
	return n, nil
}

// File opens a regular file for reading. A snapshot does not change, so want is nil: there is nothing to verify.
func (s *Snapshot) File(_ context.Context, e *Entry) (fd int, want *solver.Digest, err error) {
	fd, err = dirfd.Open(s.root, e.Path, unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return -1, nil, missing(e.Path, err)
	}
	var st dirfd.Stat
	if err := dirfd.Fstat(fd, &st); err != nil || st.Type() != unix.S_IFREG {
		dirfd.Close(fd)
		return -1, nil, fmt.Errorf("opening %q: not a regular file", e.Path)
	}
	return fd, nil, nil
}

// Open implements Tree.
func (s *Snapshot) Open(ctx context.Context, p string) (io.ReadCloser, error) {
	p = path.Join("/", p)
	fd, _, err := s.File(ctx, &Entry{Path: p})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

// Content implements Tree.
func (s *Snapshot) Content(ctx context.Context, p string) (solver.Digest, error) {
	p = path.Join("/", p)
	s.rec.mu.Lock()
	d, ok := s.rec.knownLocked(p)
	s.rec.mu.Unlock()
	if ok {
		return d, nil
	}
	buf := takeBuffer()
	d, err := s.hash(ctx, p, buf[:])
	buffers.Put(buf)
	if err != nil {
		return d, err
	}
	s.rec.mu.Lock()
	n := s.rec.dirs[path.Dir(p)]
	if n == nil {
		s.rec.sums[p] = d
	} else if i, ok := n.find(path.Base(p)); ok {
		n.content[i], n.known[i] = d, true
	}
	s.rec.mu.Unlock()
	if n == nil {
		s.cache.grew(s.rec, 1)
	}
	return d, nil
}

func (r *record) knownLocked(p string) (solver.Digest, bool) {
	if n := r.dirs[path.Dir(p)]; n != nil {
		if i, ok := n.find(path.Base(p)); ok && n.known[i] {
			return n.content[i], true
		}
		return solver.Digest{}, false
	}
	d, ok := r.sums[p]
	return d, ok
}

// Known returns the digest of a regular file's content if it has been computed already.
func (s *Snapshot) Known(p string) (solver.Digest, bool) {
	s.rec.mu.Lock()
	defer s.rec.mu.Unlock()
	return s.rec.knownLocked(path.Join("/", p))
}
