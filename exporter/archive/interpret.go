package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter/image"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	store "github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
)

// interpret finds the images among files. A layout says more than manifest.json, so that it comes first where an archive
// has both; names are taken from either.
func interpret(ctx context.Context, src source) ([]Image, error) {
	in := &interpreter{ctx: ctx, src: src}
	var imgs []Image
	oci, err := in.optional(indexFile)
	if err != nil {
		return nil, err
	}
	if _, err := in.optional(layoutFile); err != nil {
		return nil, err
	}
	docker, err := in.optional(manifestFile)
	if err != nil {
		return nil, err
	}
	switch {
	case oci == nil && docker == nil:
		return nil, fmt.Errorf("%w: it has neither %s nor %s", ErrFormat, indexFile, manifestFile)
	case oci == nil:
		return in.docker(docker)
	}
	if imgs, err = in.layout(oci); err != nil {
		return nil, err
	}
	if docker != nil {
		if err := in.tags(docker, imgs); err != nil {
			return nil, err
		}
	}
	return imgs, nil
}

type interpreter struct {
	ctx       context.Context //nolint:containedctx // it ends with the call that made it
	src       source
	manifests int
	read      int64 // bytes of documents
}

// file returns a document. An archive may name the same one any number of times, and each is kept: they are counted as they
// are read.
func (in *interpreter) file(name string) ([]byte, error) {
	b, err := in.src.document(name)
	if in.read += int64(len(b)); err == nil && in.read > maxDocuments {
		return nil, fmt.Errorf("%s: %w: more than %d bytes of manifests and configs", name, layer.ErrTooLarge, maxDocuments)
	}
	return b, err
}

// optional returns a document, or nil if there is none.
func (in *interpreter) optional(name string) ([]byte, error) {
	b, err := in.file(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// layout reads index.json.
func (in *interpreter) layout(index []byte) ([]Image, error) {
	var idx ocispec.Index
	if err := decode(index, ocispec.MediaTypeImageIndex, &idx); err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, err)
	}
	var imgs []Image
	for _, d := range idx.Manifests {
		img := Image{}
		if name, err := annotatedName(d.Annotations); err != nil {
			return nil, err
		} else if name != "" {
			img.Names = []string{name}
		}
		// The same image under another name.
		if i := slices.IndexFunc(imgs, func(o Image) bool { return o.is(d.Digest) }); i >= 0 {
			imgs[i].Names = append(imgs[i].Names, img.Names...)
			continue
		}
		if err := in.resolve(&img, d, 0); err != nil {
			return nil, err
		}
		if len(img.Manifests) > 0 {
			imgs = append(imgs, img)
		}
	}
	return imgs, nil
}

// is says whether the digest is that of the image's index or only manifest.
func (i *Image) is(d digest.Digest) bool {
	if i.Index != nil {
		return i.Index.Digest == d
	}
	return len(i.Manifests) == 1 && i.Manifests[0].Descriptor.Digest == d
}

// annotatedName returns the canonical name of an image in an index. OCI's annotation holds a whole reference in some
// tools' archives and a mere tag, which names nothing, in others'.
func annotatedName(a map[string]string) (string, error) {
	if n := a[imageName]; n != "" {
		return store.Normalize(n)
	}
	if n := a[ocispec.AnnotationRefName]; strings.ContainsAny(n, "/:") {
		return store.Normalize(n)
	}
	return "", nil
}

// resolve adds the manifests that d leads to. Those whose blobs the archive lacks are left out of an index: an image that
// was pulled for one platform is saved with the index of all.
func (in *interpreter) resolve(img *Image, d Descriptor, depth int) error {
	if in.manifests++; in.manifests > maxManifests || depth > maxDepth {
		return fmt.Errorf("%w: too many manifests", ErrFormat)
	}
	b, err := in.named(d)
	if err != nil {
		return err
	}
	if !store.IsIndex(d.MediaType) {
		m, err := in.manifest(d, b)
		if err != nil {
			return err
		}
		img.Manifests = append(img.Manifests, *m)
		return nil
	}
	var idx ocispec.Index
	if err := decode(b, d.MediaType, &idx); err != nil {
		return fmt.Errorf("index %s: %w", d.Digest, err)
	}
	if depth == 0 {
		img.Index, img.IndexBytes = &Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, b
	}
	for _, m := range idx.Manifests {
		if m.Annotations["vnd.docker.reference.type"] != "" || m.Platform != nil && m.Platform.OS == "unknown" {
			continue // an attestation
		}
		err := in.resolve(img, m, depth+1)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// named returns the document that d names.
func (in *interpreter) named(d Descriptor) ([]byte, error) {
	if err := blob.Validate(d.Digest); err != nil {
		return nil, err
	}
	b, err := in.file(blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	if d.Digest.Algorithm().FromBytes(b) != d.Digest || d.Size != int64(len(b)) {
		return nil, fmt.Errorf("%s: %w", blobName(d.Digest), ErrDigest)
	}
	return b, nil
}

// manifest reads a manifest and what it names.
func (in *interpreter) manifest(d Descriptor, b []byte) (*Manifest, error) {
	var raw ocispec.Manifest
	if err := decode(b, d.MediaType, &raw); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	config, err := in.named(raw.Config)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: config: %w", d.Digest, err)
	}
	m := &Manifest{Config: config, Raw: b, Descriptor: Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	var blobs []Descriptor
	for _, l := range raw.Layers {
		if err := blob.Validate(l.Digest); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		got, err := in.src.blob(in.ctx, blobName(l.Digest))
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		if got.Size != l.Size {
			return nil, fmt.Errorf("manifest %s: layer %s has %d bytes instead of %d", d.Digest, l.Digest, got.Size, l.Size)
		}
		blobs = append(blobs, got)
	}
	return m, m.complete(blobs)
}

// complete fills in what the config says.
func (m *Manifest) complete(blobs []Descriptor) error {
	var c ocispec.Image
	if err := json.Unmarshal(m.Config, &c); err != nil {
		return fmt.Errorf("config %s: %w", digest.FromBytes(m.Config), err)
	}
	if len(c.RootFS.DiffIDs) != len(blobs) {
		return fmt.Errorf("config %s: it has %d diff IDs for %d layers", digest.FromBytes(m.Config), len(c.RootFS.DiffIDs), len(blobs))
	}
	m.Platform = c.Platform
	for i, id := range c.RootFS.DiffIDs {
		if err := blob.Validate(id); err != nil {
			return fmt.Errorf("config %s: %w", digest.FromBytes(m.Config), err)
		}
		m.Layers = append(m.Layers, Layer{DiffID: id, Blob: blobs[i]})
	}
	return nil
}

// decode reads a manifest or an index. One that could be taken for either, or is not what it was said to be, is refused
// (CVE-2021-41190).
func decode(b []byte, mediaType string, v any) error {
	var probe struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
		Config    json.RawMessage   `json:"config"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return err
	}
	isIndex := store.IsIndex(mediaType)
	known := isIndex || mediaType == ocispec.MediaTypeImageManifest || mediaType == image.DockerManifest
	switch {
	case !known:
		return fmt.Errorf("unknown media type %.100q", mediaType)
	case probe.MediaType != "" && probe.MediaType != mediaType:
		return fmt.Errorf("it calls itself %.100q, and was said to be %s", probe.MediaType, mediaType)
	case isIndex && (probe.Layers != nil || probe.Config != nil), !isIndex && probe.Manifests != nil:
		return errors.New("it is a manifest and an index at once")
	case len(probe.Manifests) > maxManifests || len(probe.Layers) > maxManifests:
		return errors.New("it names too many others")
	}
	return json.Unmarshal(b, v)
}

// parseDocker reads manifest.json.
func parseDocker(b []byte) ([]dockerImage, error) {
	var list []dockerImage
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestFile, err)
	}
	if len(list) > maxManifests {
		return nil, fmt.Errorf("%s: it names too many images", manifestFile)
	}
	return list, nil
}

// docker reads the images of manifest.json.
func (in *interpreter) docker(b []byte) ([]Image, error) {
	list, err := parseDocker(b)
	if err != nil {
		return nil, err
	}
	var imgs []Image
	for _, d := range list {
		m, err := in.dockerManifest(d)
		if err != nil {
			return nil, err
		}
		img := Image{Manifests: []Manifest{*m}}
		if img.Names, err = normalizeAll(d.RepoTags); err != nil {
			return nil, err
		}
		imgs = append(imgs, img)
	}
	return imgs, nil
}

func (in *interpreter) dockerManifest(d dockerImage) (*Manifest, error) {
	if len(d.Layers) > maxManifests {
		return nil, fmt.Errorf("%s: it names too many layers", manifestFile)
	}
	config, err := in.file(d.Config)
	if err != nil {
		return nil, fmt.Errorf("config %.300q: %w", d.Config, err)
	}
	// A name that is a digest is the ID by which old versions would know the image: it must be what it says
	// (CVE-2014-8178). Other names, such as Jib's config.json, say nothing.
	id := strings.TrimSuffix(path.Base(d.Config), ".json")
	if !strings.Contains(id, ":") {
		id = "sha256:" + id
	}
	if named, err := digest.Parse(id); err == nil && named != named.Algorithm().FromBytes(config) {
		return nil, fmt.Errorf("config %.300q: %w", d.Config, ErrDigest)
	}
	m := &Manifest{Config: config}
	var blobs []Descriptor
	for _, name := range d.Layers {
		got, err := in.src.blob(in.ctx, name)
		if err != nil {
			return nil, fmt.Errorf("layer: %w", err)
		}
		blobs = append(blobs, got)
	}
	return m, m.complete(blobs)
}

// tags adds the names that manifest.json gives to the images of a layout.
func (in *interpreter) tags(b []byte, imgs []Image) error {
	list, err := parseDocker(b)
	if err != nil {
		return err
	}
	for _, d := range list {
		names, err := normalizeAll(d.RepoTags)
		if err != nil {
			return err
		}
		id := strings.TrimSuffix(path.Base(d.Config), ".json")
		for i := range imgs {
			for _, m := range imgs[i].Manifests {
				if digest.FromBytes(m.Config).Encoded() != id {
					continue
				}
				for _, n := range names {
					if !slices.Contains(imgs[i].Names, n) {
						imgs[i].Names = append(imgs[i].Names, n)
					}
				}
			}
		}
	}
	return nil
}

func normalizeAll(names []string) ([]string, error) {
	if len(names) > maxManifests {
		return nil, errors.New("an image has too many names")
	}
	var out []string
	for _, n := range names {
		c, err := store.Normalize(n)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}
