package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/layer"
)

// Limits of what an archive may hold besides its blobs.
const (
	maxDocument  = 4 << 20  // bytes of a manifest, index or config
	maxDocuments = 64 << 20 // bytes of all that are read
	maxManifests = 1000     // in all
	maxDepth     = 4        // of indexes in indexes
	maxEntries   = 100_000  // of a tar
)

// Errors of Read, found with errors.Is.
var (
	ErrFormat = errors.New("not an archive of images")
	ErrDigest = errors.New("content does not match its digest")
)

// An Image is an image of an archive.
type Image struct {
	Names     []string // canonical references with tags; may be empty
	Manifests []Manifest
	// Index is the index that Manifests came from, and IndexBytes what it is; nil if there was none.
	Index      *Descriptor
	IndexBytes []byte
}

// A Manifest is the image for one platform.
type Manifest struct {
	Platform ocispec.Platform
	Config   []byte
	Layers   []Layer // lowest first; their blobs are in the store
	// Descriptor and Raw are the manifest as the archive had it; Raw is nil for Docker's old form, which has none.
	Descriptor Descriptor
	Raw        []byte
}

// A Layer is a layer of an archive: what it says of itself, not yet verified, and the blob, which is.
type Layer struct {
	DiffID digest.Digest
	Blob   Descriptor
}

// ReadOptions are those of Read.
type ReadOptions struct {
	// Blobs is where blobs are put. What an archive holds beyond its images' blobs may be put there too, and is not
	// deleted: nothing refers to it.
	Blobs *blob.Store
	// Keep, if set, is called with each digest before its blob is put into the store, so that it can be held.
	Keep   func(ctx context.Context, d digest.Digest) error
	Limits layer.Limits
}

// Read reads the tar of a docker archive, old or new, or of an OCI layout, compressed in any way. Blobs go to the store as
// they come, under the digests that they have.
//
// What names a digest must have it: files in blobs/, and configs, whose name is their digest in Docker's forms. Names of
// images are canonical; one that is no valid reference is an error. Nothing else of the archive is believed: IDs in
// Docker's old form are directories' names and no more, diff IDs are for the caller to verify, which Layers of package
// worker/images does.
func Read(ctx context.Context, r io.Reader, opt ReadOptions) ([]Image, error) {
	dec, err := layer.Open(ctx, r, opt.Limits)
	if err != nil {
		return nil, fmt.Errorf("reading archive: %w", err)
	}
	defer dec.Close()
	src, err := spool(ctx, dec, opt)
	if err != nil {
		return nil, fmt.Errorf("reading archive: %w", err)
	}
	imgs, err := interpret(ctx, src)
	if err != nil {
		return nil, fmt.Errorf("reading archive: %w", err)
	}
	return imgs, nil
}

// ReadDir reads an OCI layout in a directory; only what its images name. Symlinks lead nowhere outside dir.
func ReadDir(ctx context.Context, dir string, opt ReadOptions) ([]Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("reading layout: %w", err)
	}
	defer root.Close()
	imgs, err := interpret(ctx, &dirSource{root: root, opt: opt})
	if err != nil {
		return nil, fmt.Errorf("reading layout %s: %w", dir, err)
	}
	return imgs, nil
}

// A source is where the files of an archive are.
type source interface {
	// document returns a file of at most maxDocument bytes; an error that is fs.ErrNotExist if there is none.
	document(name string) ([]byte, error)
	// blob returns the descriptor of a file that is in the store when it returns; its media type is the layer's.
	blob(ctx context.Context, name string) (Descriptor, error)
}

// layerType returns the media type of a layer that begins with head; one that is only ever read is empty.
func layerType(head []byte) string {
	switch layer.Detect(head) {
	case layer.Gzip:
		return ocispec.MediaTypeImageLayerGzip
	case layer.Zstd:
		return ocispec.MediaTypeImageLayerZstd
	case layer.Uncompressed:
		return ocispec.MediaTypeImageLayer
	case layer.Bzip2, layer.Xz:
	}
	return ""
}

// put stores r as a blob under the digest that it has, and describes it.
func put(ctx context.Context, r io.Reader, opt ReadOptions) (Descriptor, error) {
	w, err := opt.Blobs.Create()
	if err != nil {
		return Descriptor{}, err
	}
	defer w.Close()
	var head []byte
	buf := make([]byte, 256<<10)
	for {
		if ctx.Err() != nil {
			return Descriptor{}, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		head = append(head, buf[:min(n, 512-len(head))]...)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return Descriptor{}, werr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return Descriptor{}, err
		}
	}
	if opt.Keep != nil {
		if err := opt.Keep(ctx, w.Digest()); err != nil {
			return Descriptor{}, err
		}
	}
	return w.Commit(Descriptor{MediaType: layerType(head)})
}
