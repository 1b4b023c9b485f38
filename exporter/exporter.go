// Package exporter is about bytes that leave the store: an image pushed to a registry, written to an archive, or its
// files written to a directory.
//
// An Image is complete but for the form of its layers: a layer is known by its diff ID, and only an exporter that needs
// a compressed blob asks for one. Making it is the layer's own affair, and is remembered there.
package exporter

import (
	"context"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor names exported bytes.
type Descriptor = ocispec.Descriptor

// An Exporter exports images. It is made for one destination. A failed or cancelled Export leaves no half-written
// result under a final name.
type Exporter interface {
	// Export exports img and describes what was written: the manifest, or the index of several.
	Export(ctx context.Context, img *Image) (Descriptor, error)
}

// An Image is what to export: one manifest, or several for different platforms.
type Image struct {
	Names     []string // canonical references, with a tag; may be empty
	Manifests []Manifest
	// Raw is the index as it was pulled or made before, and is exported byte for byte; nil to make one where needed.
	Raw *Raw
	// Multi says that it is an index, also with one manifest only.
	Multi bool
	// Annotations are those of the index, and DescriptorAnnotations of what points to it.
	Annotations, DescriptorAnnotations map[string]string
}

// A Manifest is an image for one platform.
type Manifest struct {
	Platform ocispec.Platform
	Config   []byte // JSON; its digest is the image's ID
	Layers   []Layer
	// Raw is the manifest as it was pulled, and is exported byte for byte where the form of its layers allows.
	Raw *Raw
	// Annotations are those of the manifest, and DescriptorAnnotations of what points to it.
	Annotations, DescriptorAnnotations map[string]string
}

// Raw is a document as a registry gave it.
type Raw struct {
	MediaType string
	Bytes     []byte
}

// A Compression is how a layer is compressed.
type Compression int

// The compressions.
const (
	Gzip Compression = iota
	Uncompressed
	Zstd
)

// Form says in which form a layer is wanted.
type Form struct {
	Compression Compression
	Level       int  // 0 means the default
	Force       bool // a blob that exists in another compression will not do
	Docker      bool // Docker's media types instead of OCI's
	// Nondist says that a blob which came with addresses where else it can be had keeps these, and is no registry's to
	// distribute: see Nondistributable.
	Nondist bool
}

// Nondistributable says whether a media type is that of a layer which is to be had from its maker only: it is not pushed.
// Old bases for Windows have such layers (OCI image specification, layer.md, "Non-Distributable Layers").
func Nondistributable(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.foreign.")
}

// A Layer is a layer of an image. It is safe for concurrent use.
type Layer interface {
	// DiffID is the digest of the uncompressed tar. It may wait for it to be computed.
	DiffID(ctx context.Context) (digest.Digest, error)
	// Blob describes the layer in the form asked for, making it first if there is none.
	Blob(ctx context.Context, form Form) (Descriptor, error)
	// Open reads a blob that Blob described. The reader verifies the digest at its end.
	Open(ctx context.Context, desc Descriptor) (io.ReadCloser, error)
	// Tar reads the uncompressed tar.
	Tar(ctx context.Context) (io.ReadCloser, error)
	// Origins are repositories ("docker.io/library/busybox") that are known to have a blob of the layer.
	Origins() []string
}

// Progress takes how far the export of a part of the image is.
type Progress func(id string, current, total int64, done bool)

// Contents are the documents of an image that is being exported.
type Contents struct {
	Manifests, Configs []digest.Digest // parallel
	Index              digest.Digest   // empty if there is none
	Documents          []Document      // all of these
}

// A Document is JSON with its descriptor.
type Document struct {
	Descriptor Descriptor
	Bytes      []byte
}

// Rewritten is the annotation of a layer whose files were given other times: to none of them one after that, in seconds since
// 1970.
const Rewritten = "buildkit/rewritten-timestamp"
