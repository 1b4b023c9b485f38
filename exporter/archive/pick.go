package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter/image"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	store "github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
)

// Files are those of an OCI layout that is not, or not at once, a directory of this machine.
type Files interface {
	// Open opens a regular file by its name in the layout; fs.ErrNotExist if there is none. What is read need not be
	// true: digests are checked.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// Pick reads one image of a layout: what d names, or of an index the manifest for p. Layers are not read: the blobs of
// the result are what the manifest says, and in the store only once PutLayer has put them there.
func Pick(ctx context.Context, files Files, d digest.Digest, p ocispec.Platform) (*Manifest, error) {
	in := &interpreter{ctx: ctx, src: filesSource{ctx, files}}
	m, err := in.pick(Descriptor{Digest: d, Size: blob.UnknownSize}, p, 0)
	if err != nil {
		return nil, fmt.Errorf("reading layout: %w", err)
	}
	return m, nil
}

// PutLayer puts the blob of a layer that Pick has found into the store.
func PutLayer(ctx context.Context, files Files, want Descriptor, opt ReadOptions) error {
	if opt.Keep != nil {
		if err := opt.Keep(ctx, want.Digest); err != nil {
			return err
		}
	}
	r, err := files.Open(ctx, blobName(want.Digest))
	if err != nil {
		return fmt.Errorf("reading layout: %w", err)
	}
	defer r.Close()
	if _, err := opt.Blobs.Ingest(ctx, r, want); err != nil {
		return fmt.Errorf("reading layout: layer %s: %w", want.Digest, err)
	}
	return nil
}

func (in *interpreter) pick(d Descriptor, p ocispec.Platform, depth int) (*Manifest, error) {
	if in.manifests++; in.manifests > maxManifests || depth > maxDepth {
		return nil, fmt.Errorf("%w: too many manifests", ErrFormat)
	}
	b, err := in.document(d)
	if err != nil {
		return nil, err
	}
	if d.MediaType == "" {
		d.MediaType = mediaTypeOf(b)
	}
	d.Size = int64(len(b))
	if !store.IsIndex(d.MediaType) {
		return in.picked(d, b)
	}
	var idx ocispec.Index
	if err := decode(b, d.MediaType, &idx); err != nil {
		return nil, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	match := platforms.Only(p)
	best := -1
	for i, m := range idx.Manifests {
		if m.Annotations["vnd.docker.reference.type"] != "" || m.Platform == nil || !match.Match(*m.Platform) {
			continue
		}
		if best < 0 || match.Less(*m.Platform, *idx.Manifests[best].Platform) {
			best = i
		}
	}
	if best < 0 && len(idx.Manifests) == 1 {
		best = 0 // whatever it is for: its configuration says
	}
	if best < 0 {
		return nil, fmt.Errorf("index %s: no match for platform %s: %w", d.Digest, platforms.Format(p), fs.ErrNotExist)
	}
	return in.pick(idx.Manifests[best], p, depth+1)
}

// document is named for a descriptor that may lack the size.
func (in *interpreter) document(d Descriptor) ([]byte, error) {
	if d.Size != blob.UnknownSize {
		return in.named(d)
	}
	if err := blob.Validate(d.Digest); err != nil {
		return nil, err
	}
	b, err := in.file(blobName(d.Digest))
	if err == nil && d.Digest.Algorithm().FromBytes(b) != d.Digest {
		return nil, fmt.Errorf("%s: %w", blobName(d.Digest), ErrDigest)
	}
	return b, err
}

// mediaTypeOf returns what a document calls itself, or what it is by its form.
func mediaTypeOf(b []byte) string {
	var probe struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	switch err := json.Unmarshal(b, &probe); {
	case err != nil:
		return ""
	case probe.MediaType != "":
		return probe.MediaType
	case probe.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	}
	return ocispec.MediaTypeImageManifest
}

// picked reads a manifest and its config.
func (in *interpreter) picked(d Descriptor, b []byte) (*Manifest, error) {
	var raw ocispec.Manifest
	if err := decode(b, d.MediaType, &raw); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	config, err := in.named(raw.Config)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: config: %w", d.Digest, err)
	}
	m := &Manifest{Config: config, Raw: b, Descriptor: Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	blobs := make([]Descriptor, len(raw.Layers))
	for i, l := range raw.Layers {
		if err := blob.Validate(l.Digest); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		if l.Size < 0 || l.Size > layer.DefaultSize {
			return nil, fmt.Errorf("manifest %s: layer %s: %w", d.Digest, l.Digest, layer.ErrTooLarge)
		}
		blobs[i] = Descriptor{MediaType: ociLayerType(l.MediaType), Digest: l.Digest, Size: l.Size, URLs: l.URLs}
		if blobs[i].MediaType == "" {
			return nil, fmt.Errorf("manifest %s: layer %s has unknown media type %.100q", d.Digest, l.Digest, l.MediaType)
		}
	}
	return m, m.complete(blobs)
}

// ociLayerType returns OCI's name of a layer's media type; empty for what is none. Whether a layer may be distributed, which
// was a question for old bases for Windows, makes no difference.
func ociLayerType(mediaType string) string {
	switch strings.NewReplacer(".nondistributable", "", ".foreign.", ".").Replace(mediaType) {
	case ocispec.MediaTypeImageLayer, image.DockerLayer:
		return ocispec.MediaTypeImageLayer
	case ocispec.MediaTypeImageLayerGzip, image.DockerLayerGzip:
		return ocispec.MediaTypeImageLayerGzip
	case ocispec.MediaTypeImageLayerZstd, image.DockerLayerZstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ""
}

// filesSource is a source of which only documents are read.
type filesSource struct {
	ctx   context.Context //nolint:containedctx // of the call that made it
	files Files
}

func (s filesSource) document(name string) ([]byte, error) {
	r, err := s.files.Open(s.ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%s: %w: more than %d bytes", name, layer.ErrTooLarge, maxDocument)
	}
	return b, err
}

func (filesSource) blob(context.Context, string) (Descriptor, error) {
	return Descriptor{}, errors.New("layers are not read yet")
}
