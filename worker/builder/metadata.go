package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// metadataFile is the file in which the metadata of a client's directory is, as BuildKit's clients know it: for each file a
// Stat message of fsutil, after its length in four bytes, little end first.
const metadataFile = "/.fsutil-metadata"

// A metadataTree shows what there is in a directory without most of it: the file metadataFile, and what the exceptions of
// op.Local select. It never changes.
type metadataTree struct {
	treehash.Tree                              // of the directory
	entries       map[string]*treehash.Entry   // by path
	lists         map[string][]*treehash.Entry // by directory, sorted
	data          []byte
	root          solver.Digest
}

// onlyMetadata returns the tree of an op.Local with MetadataOnly.
func onlyMetadata(ctx context.Context, whole treehash.Tree, exceptions []string) (*metadataTree, error) {
	root, err := whole.Lookup(ctx, "/")
	if err != nil {
		return nil, err
	}
	t := &metadataTree{Tree: whole, entries: map[string]*treehash.Entry{"/": root}}
	if err := t.describe(ctx, "/"); err != nil {
		return nil, err
	}
	if len(exceptions) > 0 {
		items, err := treehash.Match(ctx, whole, &solver.Selector{Paths: []string{"/"}, Include: exceptions})
		if err != nil {
			return nil, fmt.Errorf("selecting what is more than metadata: %w", err)
		}
		for _, it := range items {
			t.entries[it.Entry.Path] = it.Entry
		}
	}
	t.entries[metadataFile] = &treehash.Entry{Path: metadataFile, Mode: unix.S_IFREG | 0o644, Size: int64(len(t.data)), MTime: time.Unix(0, 0)}
	t.lists = make(map[string][]*treehash.Entry)
	for _, p := range slices.Sorted(maps.Keys(t.entries)) {
		if p != "/" {
			t.lists[path.Dir(p)] = append(t.lists[path.Dir(p)], t.entries[p])
		}
	}
	t.root, err = treehash.Digest(ctx, t, &solver.Selector{})
	return t, err
}

// describe appends the metadata of what is in a directory, depth first.
func (t *metadataTree) describe(ctx context.Context, dir string) error {
	list, err := t.Tree.List(ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Path == metadataFile {
			continue
		}
		msg, err := statOf(e).MarshalVT()
		if err != nil {
			return fmt.Errorf("describing %s: %w", e.Path, err)
		}
		t.data = append(binary.LittleEndian.AppendUint32(t.data, uint32(len(msg))), msg...)
		if e.IsDir() {
			if err := t.describe(ctx, e.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// statOf describes an entry as fsutil does: with Go's file modes, and paths without the first slash.
func statOf(e *treehash.Entry) *types.Stat {
	st := &types.Stat{
		Path: strings.TrimPrefix(e.Path, "/"), Uid: e.UID, Gid: e.GID, ModTime: e.MTime.UnixNano(), Linkname: e.Link, Xattrs: e.Xattr,
		Devmajor: int64(unix.Major(e.Rdev)), Devminor: int64(unix.Minor(e.Rdev)),
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		st.Size = int64(len(e.Link))
	case unix.S_IFREG, 0:
		st.Size = e.Size
	}
	st.Mode = uint32(filesync.FileMode(e.Mode))
	return st
}

// Root implements treehash.Rooted.
func (t *metadataTree) Root() solver.Digest { return t.root }

// Lookup implements treehash.Tree.
func (t *metadataTree) Lookup(_ context.Context, p string) (*treehash.Entry, error) {
	if e := t.entries[p]; e != nil {
		return e, nil
	}
	return nil, &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
}

// List implements treehash.Tree.
func (t *metadataTree) List(ctx context.Context, dir string) ([]*treehash.Entry, error) {
	if _, err := t.Lookup(ctx, dir); err != nil {
		return nil, err
	}
	return t.lists[dir], nil
}

// Open implements treehash.Tree.
func (t *metadataTree) Open(ctx context.Context, p string) (io.ReadCloser, error) {
	if p == metadataFile {
		return io.NopCloser(bytes.NewReader(t.data)), nil
	}
	if _, err := t.Lookup(ctx, p); err != nil {
		return nil, err
	}
	return t.Tree.Open(ctx, p)
}

// Content implements treehash.Tree.
func (t *metadataTree) Content(ctx context.Context, p string) (solver.Digest, error) {
	if p == metadataFile {
		return solver.Digest(sha256.Sum256(t.data)), nil
	}
	if _, err := t.Lookup(ctx, p); err != nil {
		return solver.Digest{}, err
	}
	return t.Tree.Content(ctx, p)
}
