// Package treehash names the content of parts of file system trees: the digest that makes a COPY hit its cache record
// though the tree it copies from was made anew.
//
// A Tree is anything with entries and file contents: a snapshot, or a directory of a client's. Match resolves a
// solver.Selector against one, and gives the exact list of entries that a copy with that selector would copy. Digest
// hashes that list, and package solver/run copies it, so what is hashed and what is copied cannot differ.
//
// The digest covers names below the selected path, types, permission bits, owners, symlink targets, device numbers,
// extended attributes and contents. It does not cover timestamps.
package treehash

import (
	"context"
	"io"
	"time"

	"github.com/boxbuild/boxbuild/solver"
)

// An Entry is a file of any type.
type Entry struct {
	Path  string // cleaned, absolute in the tree, slash-separated
	Mode  uint32 // st_mode: type and permission bits as in stat(2)
	UID   uint32
	GID   uint32
	Size  int64
	MTime time.Time // not part of any digest
	Link  string    // target of a symlink
	// Hard identifies the inode, for files with more than one name; 0 otherwise. It is meaningful inside one tree.
	Hard  uint64
	Rdev  uint64 // of a device node
	Xattr map[string][]byte
}

// IsDir says whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Mode&0o170000 == 0o040000 }

// IsRegular says whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.Mode&0o170000 == 0o100000 }

// IsSymlink says whether the entry is a symbolic link.
func (e *Entry) IsSymlink() bool { return e.Mode&0o170000 == 0o120000 }

// A Tree is a read-only file system tree. It is safe for concurrent use. Paths are absolute in the tree; symlinks are
// never followed by these methods, and a path that leads through one does not exist.
type Tree interface {
	// Lookup returns the entry at path; fs.ErrNotExist if there is none.
	Lookup(ctx context.Context, path string) (*Entry, error)
	// List returns the entries of a directory, sorted by name.
	List(ctx context.Context, dir string) ([]*Entry, error)
	// Open opens a regular file. The reader returns an error at its end if the content is not what Content said.
	Open(ctx context.Context, path string) (io.ReadCloser, error)
	// Content returns the digest of a regular file's bytes.
	Content(ctx context.Context, path string) (solver.Digest, error)
}

// A Rooted is a Tree that knows the digest of everything in it already.
type Rooted interface {
	Root() solver.Digest
}

// A Filer is a Tree whose files are files of the host's, which spares a copy the reader in between.
type Filer interface {
	// File opens the regular file e of the tree for reading; the caller closes the descriptor. If want is not nil the
	// file may have changed: what is read must have that digest, and if it has not, a *ChangedError is due.
	File(ctx context.Context, e *Entry) (fd int, want *solver.Digest, err error)
}
