package filesync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// A clientTree is the result of a walk or a transfer: nodes that do not change, and a way to open their files.
type clientTree struct {
	open func(p string, sum solver.Digest) (int, error)
	root *node
	top  treehash.Entry
}

var (
	_ treehash.Merkle = (*clientTree)(nil)
	_ treehash.Rooted = (*clientTree)(nil)
	_ treehash.Filer  = (*clientTree)(nil)
)

func newTree(open func(p string, sum solver.Digest) (int, error), root *node, mtime int64) *clientTree {
	return &clientTree{open: open, root: root, top: treehash.Entry{Path: "/", Mode: unix.S_IFDIR | 0o755, MTime: time.Unix(0, mtime)}}
}

// Root implements treehash.Rooted.
func (t *clientTree) Root() solver.Digest { return t.root.sum }

// at returns the node of a directory and, unless it is the root, the node and index of its entry. n is nil for what is
// not a directory; parent is nil for what does not exist.
func (t *clientTree) at(p string) (n, parent *node, i int) {
	n = t.root
	for rest := strings.Trim(path.Join("/", p), "/"); rest != ""; {
		if n == nil {
			return nil, nil, 0
		}
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		var ok bool
		if i, ok = n.find(name); !ok || !n.inView(i) {
			return nil, nil, 0
		}
		n, parent = n.sub[i], n
	}
	return n, parent, i
}

// Lookup implements treehash.Tree.
func (t *clientTree) Lookup(_ context.Context, p string) (*treehash.Entry, error) {
	n, parent, i := t.at(p)
	switch {
	case parent != nil:
		return &parent.entries[i], nil
	case n != nil:
		return &t.top, nil
	}
	return nil, fmt.Errorf("%q: %w", p, fs.ErrNotExist)
}

// List implements treehash.Tree.
func (t *clientTree) List(_ context.Context, dir string) ([]*treehash.Entry, error) {
	n, _, _ := t.at(dir)
	if n == nil {
		return nil, fmt.Errorf("%q: %w", dir, fs.ErrNotExist)
	}
	return n.view, nil
}

// DirDigest implements treehash.Merkle.
func (t *clientTree) DirDigest(_ context.Context, dir string) (solver.Digest, error) {
	n, _, _ := t.at(dir)
	if n == nil {
		return solver.Digest{}, fmt.Errorf("%q: %w", dir, fs.ErrNotExist)
	}
	return n.sum, nil
}

// file returns where a regular file's entry is.
func (t *clientTree) file(p string) (*node, int, error) {
	_, parent, i := t.at(p)
	if parent == nil || !parent.entries[i].IsRegular() {
		return nil, 0, fmt.Errorf("%q: not a regular file: %w", p, fs.ErrNotExist)
	}
	return parent, i, nil
}

// Content implements treehash.Tree.
func (t *clientTree) Content(_ context.Context, p string) (solver.Digest, error) {
	n, i, err := t.file(p)
	if err != nil {
		return solver.Digest{}, err
	}
	return n.content[i], nil
}

// File implements treehash.Filer.
func (t *clientTree) File(_ context.Context, e *treehash.Entry) (int, *solver.Digest, error) {
	n, i, err := t.file(e.Path)
	if err != nil {
		return -1, nil, err
	}
	fd, err := t.open(e.Path, n.content[i])
	return fd, &n.content[i], err
}

// Open implements treehash.Tree.
func (t *clientTree) Open(ctx context.Context, p string) (io.ReadCloser, error) {
	fd, want, err := t.File(ctx, &treehash.Entry{Path: p})
	if err != nil {
		return nil, err
	}
	return treehash.Verify(os.NewFile(uintptr(fd), p), p, *want), nil
}

// openFile opens a file that a walk has found to be a regular one. What has been put in its place, or in the place of
// a directory on the way, is never opened.
func openFile(root int, p string) (int, dirfd.Stat, error) {
	var st dirfd.Stat
	fd, err := dirfd.Open(root, p, unix.O_RDONLY|unix.O_NOFOLLOW)
	// EXDEV is the kernel's answer to a path that led out of the root while it was looked up.
	if dirfd.Gone(err) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENXIO) {
		return -1, st, &treehash.ChangedError{Path: p}
	}
	if err != nil {
		return -1, st, fmt.Errorf("reading %q: %w", p, pathOf(err))
	}
	if err := dirfd.Fstat(fd, &st); err != nil {
		dirfd.Close(fd)
		return -1, st, fmt.Errorf("reading %q: %w", p, err)
	}
	if st.Type() != unix.S_IFREG {
		dirfd.Close(fd)
		return -1, st, &treehash.ChangedError{Path: p}
	}
	return fd, st, nil
}

// pathOf strips the path from an error whose message has it already.
func pathOf(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
