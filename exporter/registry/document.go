package registry

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	dist "github.com/boxbuild/boxbuild/proto/registry"
)

// Docker's media types, which the image specification's Go types do not have.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// A document is a manifest or an index, ready to be pushed.
type document struct {
	desc  exporter.Descriptor
	bytes []byte
}

func newDocument(mediaType string, b []byte) document {
	return document{exporter.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b}
}

// encode writes a document as BuildKit does, whose digests some people compare.
func encode(mediaType string, v any) (document, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return document{}, fmt.Errorf("writing a manifest: %w", err)
	}
	return newDocument(mediaType, b), nil
}

func configDescriptor(config []byte, docker bool) exporter.Descriptor {
	d := newDocument(ocispec.MediaTypeImageConfig, config).desc
	if docker {
		d.MediaType = dockerConfig
	}
	return d
}

// configDiffIDs returns the layers that a config names.
func configDiffIDs(config []byte) ([]digest.Digest, error) {
	var c struct {
		RootFS ocispec.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("reading the config of an image: %w", err)
	}
	return c.RootFS.DiffIDs, nil
}

// manifestDocument returns the manifest of m with the given layers: the one it was pulled with if that names the same
// content, else a new one.
func manifestDocument(m *exporter.Manifest, layers []exporter.Descriptor, form exporter.Form) (document, error) {
	config := configDescriptor(m.Config, form.Docker)
	if m.Raw != nil && sameContent(m.Raw, form, append([]exporter.Descriptor{config}, layers...)) {
		doc := newDocument(m.Raw.MediaType, m.Raw.Bytes)
		doc.desc.Platform = &m.Platform
		return doc, nil
	}
	out := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: layers, Annotations: m.Annotations,
	}
	if form.Docker {
		out.MediaType, out.Annotations = dockerManifest, nil // Docker's schema has no annotations
	}
	if out.Layers == nil {
		out.Layers = []exporter.Descriptor{}
	}
	doc, err := encode(out.MediaType, out)
	doc.desc.Platform = &m.Platform
	return doc, err
}

// sameContent says whether a manifest names the given config and layers. Media types count only if the form is forced:
// who pushes what was pulled wants the same digest, whichever of the two families its types are from.
func sameContent(raw *exporter.Raw, form exporter.Form, want []exporter.Descriptor) bool {
	doc, err := dist.Decode(raw.MediaType, raw.Bytes)
	if err != nil || doc.Image == nil || len(doc.Image.Layers) != len(want)-1 {
		return false
	}
	for i, d := range append([]dist.Descriptor{doc.Image.Config}, doc.Image.Layers...) {
		if d.Digest.String() != string(want[i].Digest) || form.Force && string(d.MediaType) != want[i].MediaType {
			return false
		}
	}
	return true
}

// topDocument returns what an image's names stand for: its only manifest, the index it was pulled with if all that it
// names is there, or a new index.
func topDocument(img *exporter.Image, docs []document, docker bool) (document, error) {
	if img.Raw != nil && indexIsWhole(img.Raw, docs) {
		return newDocument(img.Raw.MediaType, img.Raw.Bytes), nil
	}
	if len(docs) == 1 {
		return docs[0], nil
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	if docker {
		index.MediaType = dockerList
	}
	for _, d := range docs {
		index.Manifests = append(index.Manifests, d.desc)
	}
	return encode(index.MediaType, index)
}

// indexIsWhole says whether an index names all of docs, and nothing that is not among them: registries refuse an index
// that names what they do not have.
func indexIsWhole(raw *exporter.Raw, docs []document) bool {
	doc, err := dist.Decode(raw.MediaType, raw.Bytes)
	if err != nil || doc.Index == nil {
		return false
	}
	have, named := map[string]bool{}, map[string]bool{}
	for _, d := range docs {
		have[string(d.desc.Digest)] = true
	}
	for _, d := range doc.Index.Manifests {
		named[d.Digest.String()] = true
	}
	return maps.Equal(have, named)
}
