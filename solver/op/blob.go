package op

import (
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
)

// Blob is a blob of a registry, or of an OCI layout of the client's, as a file: LLB's docker-image+blob:// and
// oci-layout+blob://. Its result is a tree that holds nothing else.
type Blob struct {
	// Ref is the repository that has the blob, and what it is called where people see it: a canonical reference without
	// a digest.
	Ref    string
	Digest digest.Digest // of the blob
	Layout bool          // it is in an OCI layout of the client's
	// Store is the name of the client's directory, and Session that of the client; empty for the one that asked for the
	// build. Both are for layouts only.
	Store, Session string
	Filename       string // in the tree; empty for the digest without its algorithm
	Perm           uint32 // permission bits; 0 means 0600
	UID, GID       int
	RecordType     string // LLB's image.recordtype; it has no influence
}

// Pinned implements Source: a digest names bytes.
func (b *Blob) Pinned() bool { return true }

// Name returns the name of the file in the tree.
func (b *Blob) Name() string {
	if b.Filename != "" {
		return SafeName(b.Filename)
	}
	return SafeName(b.Digest.Encoded())
}

// WriteKey implements solver.Op. Where the blob is from does not count.
func (b *Blob) WriteKey(h *solver.Hasher) {
	h.Version("blob", 1)
	h.Str("digest", string(b.Digest))
	h.Str("name", b.Name())
	h.Int("perm", int64(b.Perm))
	h.Int("uid", int64(b.UID))
	h.Int("gid", int64(b.GID))
}

func (b *Blob) String() string {
	scheme := "docker-image+blob"
	if b.Layout {
		scheme = "oci-layout+blob"
	}
	return fmt.Sprintf("%s://%s@%s", scheme, b.Ref, b.Digest)
}
