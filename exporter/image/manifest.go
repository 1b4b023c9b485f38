package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/exporter"
)

// Docker's media types (distribution's manifest schema 2).
const (
	DockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig    = "application/vnd.docker.container.image.v1+json"
	DockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	DockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	DockerLayerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd" // containerd's
)

// Descriptor names bytes.
type Descriptor = exporter.Descriptor

// A Document is JSON with its descriptor.
type Document = exporter.Document

func document(mediaType string, b []byte) Document {
	return Document{Bytes: b, Descriptor: Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}}
}

// ConfigDocument returns a config as a document.
func ConfigDocument(config []byte, docker bool) Document {
	return document(pick(docker, DockerConfig, ocispec.MediaTypeImageConfig), config)
}

func pick(docker bool, d, oci string) string {
	if docker {
		return d
	}
	return oci
}

// Manifest returns the manifest of a config and layers. Layers lose their annotations in Docker's form, as BuildKit has it.
func Manifest(config Descriptor, layers []Descriptor, annotations map[string]string, docker bool) (Document, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: pick(docker, DockerManifest, ocispec.MediaTypeImageManifest),
		Config:    config,
		Layers:    make([]Descriptor, 0, len(layers)),

		Annotations: annotations,
	}
	for _, l := range layers {
		if docker {
			l.Annotations = nil
		}
		m.Layers = append(m.Layers, l)
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Document{}, fmt.Errorf("assembling manifest: %w", err)
	}
	return document(m.MediaType, b), nil
}

// Index returns the index of manifests, whose descriptors have their platforms.
func Index(manifests []Descriptor, annotations map[string]string, docker bool) (Document, error) {
	m := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: pick(docker, DockerIndex, ocispec.MediaTypeImageIndex),
		Manifests: append([]Descriptor{}, manifests...),
	}
	if !docker {
		m.Annotations = annotations
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Document{}, fmt.Errorf("assembling index: %w", err)
	}
	return document(m.MediaType, b), nil
}

// An Assembled is an image for one platform, with everything that its manifest names.
type Assembled struct {
	Manifest Document // its descriptor has the platform
	Config   Document
	Blobs    []Descriptor     // of the layers, lowest first
	Layers   []exporter.Layer // parallel to Blobs; what reads these
}

// Contents returns what an image consists of, by its parts and what stands for them all.
func Contents(all []*Assembled, top Document) exporter.Contents {
	var c exporter.Contents
	for _, a := range all {
		c.Manifests = append(c.Manifests, a.Manifest.Descriptor.Digest)
		c.Configs = append(c.Configs, a.Config.Descriptor.Digest)
		c.Documents = append(c.Documents, a.Manifest, a.Config)
	}
	if len(all) != 1 || all[0].Manifest.Descriptor.Digest != top.Descriptor.Digest {
		c.Index = top.Descriptor.Digest
		c.Documents = append(c.Documents, top)
	}
	return c
}

// Assemble asks the layers of m for their blobs, several at once, and returns the manifest. Where m was pulled, and the
// blobs that it names are there, and form does not force others, it is the manifest that was pulled, byte for byte.
func Assemble(ctx context.Context, m *exporter.Manifest, form exporter.Form) (*Assembled, error) {
	if a, err := assembleRaw(ctx, m, form); err != nil || a != nil {
		return a, err
	}
	a := &Assembled{Config: ConfigDocument(m.Config, form.Docker), Blobs: make([]Descriptor, len(m.Layers)), Layers: m.Layers}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, l := range m.Layers {
		g.Go(func() (err error) {
			a.Blobs[i], err = l.Blob(gctx, form)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var err error
	a.Manifest, err = Manifest(a.Config.Descriptor, a.Blobs, m.Annotations, form.Docker)
	if err != nil {
		return nil, err
	}
	a.describe(m)
	return a, nil
}

// describe completes the descriptor of the manifest.
func (a *Assembled) describe(m *exporter.Manifest) {
	p := m.Platform
	a.Manifest.Descriptor.Platform = &p
	if len(m.DescriptorAnnotations) > 0 {
		a.Manifest.Descriptor.Annotations = m.DescriptorAnnotations
	}
}

// assembleRaw returns the image with the manifest that was pulled, or nil if that will not do.
func assembleRaw(ctx context.Context, m *exporter.Manifest, form exporter.Form) (*Assembled, error) {
	if m.Raw == nil || form.Force || len(m.Annotations) > 0 {
		return nil, nil
	}
	var raw ocispec.Manifest
	if err := json.Unmarshal(m.Raw.Bytes, &raw); err != nil {
		return nil, fmt.Errorf("reading the manifest that was pulled: %w", err)
	}
	if raw.Config.Digest != digest.FromBytes(m.Config) || len(raw.Layers) != len(m.Layers) {
		return nil, nil
	}
	for i, l := range m.Layers {
		r, err := l.Open(ctx, raw.Layers[i])
		if err != nil {
			return nil, ctxError(ctx) // a blob that is gone is made anew
		}
		if err := r.Close(); err != nil {
			return nil, err
		}
	}
	a := &Assembled{Manifest: document(m.Raw.MediaType, m.Raw.Bytes), Blobs: raw.Layers, Layers: m.Layers}
	a.Config = document(raw.Config.MediaType, m.Config)
	a.describe(m)
	return a, nil
}

func ctxError(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// AssembleAll assembles every manifest of img, and the document that stands for all: the only manifest, or an index; the
// index that was pulled, if everything in it came out as it was. Index annotations need an index, and annotations other
// than of manifests OCI's media types; otherwise the error is BuildKit's.
func AssembleAll(ctx context.Context, img *exporter.Image, form exporter.Form) ([]*Assembled, Document, error) {
	if len(img.Manifests) == 0 {
		return nil, Document{}, errors.New("exporting image: it has no manifest")
	}
	if err := checkAnnotations(img, form.Docker); err != nil {
		return nil, Document{}, err
	}
	all := make([]*Assembled, len(img.Manifests))
	for i := range img.Manifests {
		var err error
		if all[i], err = Assemble(ctx, &img.Manifests[i], form); err != nil {
			return nil, Document{}, err
		}
	}
	annotated := len(img.Annotations)+len(img.DescriptorAnnotations) > 0
	if img.Raw != nil && !annotated {
		if whole, err := covers(img.Raw.Bytes, all); err != nil {
			return nil, Document{}, err
		} else if whole {
			return all, document(img.Raw.MediaType, img.Raw.Bytes), nil
		}
	}
	if len(all) == 1 && !img.Multi {
		return all, all[0].Manifest, nil
	}
	descs := make([]Descriptor, len(all))
	for i, a := range all {
		descs[i] = a.Manifest.Descriptor
	}
	idx, err := Index(descs, img.Annotations, form.Docker)
	idx.Descriptor.Annotations = img.DescriptorAnnotations
	return all, idx, err
}

func checkAnnotations(img *exporter.Image, docker bool) error {
	index := len(img.Annotations) + len(img.DescriptorAnnotations)
	others := index
	for i := range img.Manifests {
		others += len(img.Manifests[i].DescriptorAnnotations)
	}
	switch {
	case index > 0 && !img.Multi && len(img.Manifests) == 1:
		return errors.New("index annotations not supported for single platform export")
	case others > 0 && docker:
		return errors.New(`cannot export annotations with "oci-mediatypes=false"`)
	}
	return nil
}

// covers says whether all has every manifest of the index: a registry takes no index whose manifests it lacks.
func covers(index []byte, all []*Assembled) (bool, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(index, &idx); err != nil {
		return false, fmt.Errorf("reading the index that was pulled: %w", err)
	}
	have := make(map[digest.Digest]bool)
	for _, a := range all {
		have[a.Manifest.Descriptor.Digest] = true
	}
	for _, d := range idx.Manifests {
		if !have[d.Digest] {
			return false, nil
		}
	}
	return len(idx.Manifests) > 0, nil
}
