package transfer

import (
	"context"
	"encoding/json"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	imagedoc "github.com/boxbuild/boxbuild/exporter/image"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
)

// documentOf returns the manifest among docs that is one of an image, or nil.
func (s *Service) documentOf(docs []image.Descriptor, id digest.Digest) *exporter.Raw {
	for _, desc := range docs {
		raw := s.raw(desc)
		if raw == nil {
			continue
		}
		if d := (pushedDoc{doc: imagedoc.Document{Descriptor: desc, Bytes: raw.Bytes}}); d.leadsTo(id) {
			return raw
		}
	}
	return nil
}

// anyDocument returns a manifest under which a registry has the image, or nil: the same one whatever was pulled or pushed
// last, so one with OCI's media type if there is any. None has annotations, since these were given to some name alone.
func (s *Service) anyDocument(img *image.Image) *exporter.Raw {
	var best *exporter.Raw
	for _, known := range img.Manifests {
		oci := known.Descriptor.MediaType == ocispec.MediaTypeImageManifest
		if image.IsIndex(known.Descriptor.MediaType) || best != nil && !oci {
			continue
		}
		raw := s.raw(known.Descriptor)
		var m ocispec.Manifest
		if raw == nil || json.Unmarshal(raw.Bytes, &m) != nil || len(m.Annotations) > 0 {
			continue
		}
		if oci {
			return raw
		}
		best = raw
	}
	return best
}

// raw reads a manifest or an index; nil if it is gone: it can be made anew.
func (s *Service) raw(desc ocispec.Descriptor) *exporter.Raw {
	b, err := s.deps.Blobs.ReadAll(desc.Digest, registry.MaxManifest)
	if err != nil {
		return nil
	}
	return &exporter.Raw{MediaType: desc.MediaType, Bytes: b}
}

// Documents are what stands for an image in a registry.
type Documents struct {
	Top       ocispec.Descriptor // the index, or the only manifest
	Index     *ocispec.Descriptor
	Manifests []ocispec.Descriptor
	Contents  exporter.Contents
}

// Documents makes the documents of an image, with all that they name, and keeps them among the blobs, held by the lease
// in ctx.
func (s *Service) Documents(ctx context.Context, img *exporter.Image, form exporter.Form) (*Documents, error) {
	all, top, err := imagedoc.AssembleAll(ctx, img, form)
	if err != nil {
		return nil, err
	}
	out := &Documents{Top: top.Descriptor, Contents: imagedoc.Contents(all, top)}
	for _, a := range all {
		desc, err := s.keep(ctx, a.Manifest)
		if err != nil {
			return nil, err
		}
		out.Manifests = append(out.Manifests, desc)
	}
	if image.IsIndex(top.Descriptor.MediaType) {
		desc, err := s.keep(ctx, top)
		if err != nil {
			return nil, err
		}
		out.Index = &desc
	}
	return out, nil
}

// Keep puts documents among the blobs, held by the lease in ctx. They are not on the disk for sure when it returns.
func (s *Service) Keep(ctx context.Context, docs []exporter.Document) error {
	for _, doc := range docs {
		if err := s.reserve(ctx, doc); err != nil {
			return err
		}
		if _, err := s.deps.Blobs.Put(doc.Descriptor.MediaType, doc.Bytes, false); err != nil {
			return err
		}
	}
	return nil
}

// keep puts a document among the blobs.
func (s *Service) keep(ctx context.Context, doc imagedoc.Document) (ocispec.Descriptor, error) {
	if err := s.reserve(ctx, doc); err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.deps.Blobs.Put(doc.Descriptor.MediaType, doc.Bytes, true)
}

func (s *Service) reserve(ctx context.Context, doc imagedoc.Document) error {
	held := lease.From(ctx)
	if held == nil {
		return nil
	}
	return held.Reserve(ctx, lease.Item{Kind: lease.Blob, Name: string(doc.Descriptor.Digest)})
}
