// Package filesync brings directories of a client's to the builder: by reading them, where client and daemon share a
// file system, and by a transfer that sends what is not there yet, where they don't.
//
// Whatever the way, the builder sees a Source, and gets from it a tree whose Merkle root names the content of exactly
// what was selected. Reading a file of the tree later verifies that content, so that a directory that changes during a
// build is an error, and never a wrong cache record.
//
// # Life cycle
//
//	NewCache ──> Dir ──> Source ──Tree──> tree … ──> Close      the daemon, or a client, reads a directory
//	NewStore ──> Remote ──> Source ──Tree──> tree … ──> Close   the daemon has one sent
//	             Serve answers Remote                           the client that sends it
//
// A Cache (of what local directories look like) and a Store (of what remote ones have sent) live as long as the daemon,
// and outlive it on disk. A tree is valid until its source is closed. No lock is held while another is taken, and none
// while files are read or messages sent. DESIGN.md has the decisions.
package filesync

import (
	"context"
	"fmt"

	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A Source is one directory of a client's. It is safe for concurrent use.
type Source interface {
	// Tree walks what sel picks and returns it as a tree, whose root digest depends on nothing else: not on the
	// directory's own name or place, not on timestamps, not on the order of the walk. Entries of ignored directories
	// are not even listed. The tree is valid until Close of the source.
	Tree(ctx context.Context, sel Selection) (treehash.Tree, error)
	// Close gives the source's resources back.
	Close() error
}

// A Selection says what of a directory a build wants.
type Selection struct {
	Include []string // patternmatcher syntax; empty means everything
	Exclude []string // patternmatcher syntax, as in .dockerignore
	// Follow are paths or patterns that are wanted, with the symlinks on the way resolved inside the directory: they,
	// the symlinks and what those lead to are added to Include, as BuildKit's followpaths are. If the root is among them
	// they add nothing.
	Follow []string
	// Largest is how many bytes a file may have; 0 means any. One that has more is a LargeFileError, before it is read, or sent.
	Largest int64
	// Fresh has a client that sends its files send all of them, whatever is known of them: LLB's local.differ=none. A
	// Source that compares contents anyway need not look at it.
	Fresh bool
	// Hint tells directories of one name apart that have different content: what was received under another is not what a
	// transfer continues. A Source that compares contents anyway need not look at it.
	Hint string
}

// A LargeFileError says that a file is larger than a Selection allows.
type LargeFileError struct {
	Path      string // from the root, or its last component
	Size, Max int64  // bytes
}

func (e *LargeFileError) Error() string {
	return fmt.Sprintf("%.300q has %d bytes, more than the %d allowed", e.Path, e.Size, e.Max)
}

// allows returns an error for a regular file that is larger than is wanted.
func (s *Selection) allows(e *treehash.Entry) error {
	if s.Largest > 0 && e.IsRegular() && e.Size > s.Largest {
		return &LargeFileError{Path: e.Path, Size: e.Size, Max: s.Largest}
	}
	return nil
}

// allowsAll is allows for all files below n.
func (s *Selection) allowsAll(n *node) error {
	if s.Largest <= 0 {
		return nil
	}
	for i := range n.entries {
		err := s.allows(&n.entries[i])
		if sub := n.sub[i]; err == nil && sub != nil {
			err = s.allowsAll(sub)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
