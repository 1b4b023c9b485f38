package op

import (
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
)

// OCILayout is an image in an OCI layout of the client's. Pinning takes it into the store, so that what is pinned is an
// Image.
type OCILayout struct {
	// Ref is what the image is called where people see it: a canonical reference without a digest.
	Ref string
	// Digest is that of an index or a manifest in the layout.
	Digest     digest.Digest
	Store      string // the name of the client's directory
	Session    string // of the client; empty for the one that asked for the build
	Platform   Platform
	LayerLimit int // keeps only that many of the lowest layers; 0 means all
}

// Pinned implements Source. The layout is there only as long as the client, so a source is pinned as an Image.
func (o *OCILayout) Pinned() bool { return false }

// WriteKey implements solver.Op.
func (o *OCILayout) WriteKey(h *solver.Hasher) {
	h.Version("oci-layout", 1)
	h.Str("digest", string(o.Digest))
	h.Str("ref", o.Ref)
	h.Str("store", o.Store)
	h.Str("session", o.Session)
	writePlatform(h, o.Platform)
	h.Int("layerlimit", int64(o.LayerLimit))
}

func (o *OCILayout) String() string { return fmt.Sprintf("oci-layout://%s@%s", o.Ref, o.Digest) }
