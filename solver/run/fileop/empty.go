package fileop

import (
	"context"
	"io"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// EmptyTree returns a tree without anything in it.
func EmptyTree() treehash.Tree { return emptyTree{} }

// emptyTree is the tree of an absent input: a root directory without anything in it.
type emptyTree struct{}

func (emptyTree) Lookup(_ context.Context, p string) (*treehash.Entry, error) {
	if p != "/" {
		return nil, &missingError{p}
	}
	return &treehash.Entry{Path: "/", Mode: unix.S_IFDIR | 0o755}, nil
}

func (emptyTree) List(_ context.Context, dir string) ([]*treehash.Entry, error) {
	if dir != "/" {
		return nil, &missingError{dir}
	}
	return nil, nil
}

func (emptyTree) Open(_ context.Context, p string) (io.ReadCloser, error) {
	return nil, &missingError{p}
}

func (emptyTree) Content(_ context.Context, p string) (solver.Digest, error) {
	return solver.Digest{}, &missingError{p}
}
