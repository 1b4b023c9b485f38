package bksession

import (
	"context"
	"errors"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A source is a directory of the client's.
type source struct {
	s    *Session
	name string
}

// Tree implements filesync.Source.
func (d *source) Tree(_ context.Context, _ filesync.Selection) (treehash.Tree, error) {
	return nil, errors.New("receiving a directory")
}

// Close implements filesync.Source.
func (d *source) Close() error { return nil }
