package worker

import (
	"context"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
)

// A Derivation is an image that is to be made of another: with one more layer, and another config.
type Derivation struct {
	Base   *image.Image // nil for none
	Parent snapshot.ID  // the tree of all layers of Base
	// Tar writes the layer: what is added to Parent.
	Tar func(ctx context.Context, w io.Writer) error
	// Edit changes the config of Base to that of the image; the layer and its history are there already.
	Edit    func(c *frontend.ImageConfig) error
	History ocispec.History
	Name    string // may be empty
}
