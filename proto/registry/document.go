package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// MaxManifest is how large a manifest, an index or a config may be, in bytes. Registries refuse manifests over 4 MiB.
	MaxManifest = 8 << 20
	// maxEntries is how many manifests an index, or layers a manifest, may have.
	maxEntries = 1024
	// maxDepth is how many indexes may lead to a manifest: an index of indexes is unusual, more are an attack.
	maxDepth = 4
)

// Accept lists the media types of documents that this package reads, for an Accept header.
var accepted = []string{
	string(types.OCIManifestSchema1), string(types.OCIImageIndex),
	string(types.DockerManifestSchema2), string(types.DockerManifestList),
}

// A Document is a manifest or an index: exactly one of Image and Index is set.
type Document struct {
	MediaType types.MediaType
	Image     *v1.Manifest
	Index     *v1.IndexManifest
}

// Decode reads a manifest or index. mediaType is what the registry or a descriptor says that it is; it may be empty or
// generic, and may not contradict what is in b. A document that could be read as an image by one program and as an index
// by another is refused, and so is one that names anything twice. Errors are ErrManifest, ErrSchema1, ErrTooLarge.
func Decode(mediaType string, b []byte) (*Document, error) {
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("a manifest of %d bytes: %w of %d", len(b), ErrTooLarge, MaxManifest)
	}
	top, err := topLevel(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	mt, err := documentType(baseType(mediaType), top)
	if err != nil {
		return nil, err
	}
	doc := &Document{MediaType: mt}
	switch {
	case mt.IsIndex():
		err = doc.decodeIndex(b)
	case mt.IsImage():
		err = doc.decodeImage(b)
	default:
		err = fmt.Errorf("%w: media type %q is neither an image's nor an index's", ErrManifest, printable(string(mt), 128))
	}
	if err != nil {
		return nil, err
	}
	return doc, nil
}

// baseType returns a media type without parameters, and nothing for types that say nothing.
func baseType(s string) types.MediaType {
	base, _, err := mime.ParseMediaType(s)
	if err != nil {
		return ""
	}
	switch base {
	case "application/json", "application/octet-stream", "binary/octet-stream", "text/plain":
		return ""
	}
	return types.MediaType(base)
}

// known are the fields of manifests and indexes that decide what a document is or holds.
var known = []string{"schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "subject", "artifactType"}

// topLevel splits a JSON object into its members. Go's decoder takes "Layers" for "layers", and the last of two equal
// names, where another program may decide differently; so neither is let through.
func topLevel(b []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	top := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // a name is always a string, or Token had failed
		if _, ok := top[name]; ok {
			return nil, fmt.Errorf("member %q is there twice", printable(name, 64))
		}
		for _, k := range known {
			if name != k && strings.EqualFold(name, k) {
				return nil, fmt.Errorf("member %q is not written %q", printable(name, 64), k)
			}
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		top[name] = v
	}
	return top, nil
}

// documentType finds out what a document is from what is said of it and what is in it, which must agree.
func documentType(said types.MediaType, top map[string]json.RawMessage) (types.MediaType, error) {
	var own types.MediaType
	if raw, ok := top["mediaType"]; ok {
		if err := json.Unmarshal(raw, &own); err != nil {
			return "", fmt.Errorf("%w: mediaType: %w", ErrManifest, err)
		}
	}
	_, fsLayers := top["fsLayers"]
	if said.IsSchema1() || own.IsSchema1() || fsLayers || string(top["schemaVersion"]) == "1" {
		return "", ErrSchema1
	}
	if said != "" && own != "" && said != own {
		return "", fmt.Errorf("%w: it is said to be %q and calls itself %q", ErrManifest, printable(string(said), 128),
			printable(string(own), 128))
	}
	_, manifests := top["manifests"]
	_, layers := top["layers"]
	_, config := top["config"]
	if manifests && (layers || config) {
		return "", fmt.Errorf("%w: it is an image and an index in one", ErrManifest)
	}
	mt := said
	switch {
	case mt != "":
	case own != "":
		mt = own
	case manifests:
		mt = types.OCIImageIndex
	case layers && config:
		mt = types.OCIManifestSchema1
	default:
		return "", fmt.Errorf("%w: it is neither an image nor an index", ErrManifest)
	}
	if mt.IsIndex() && (layers || config) || mt.IsImage() && manifests {
		return "", fmt.Errorf("%w: its content is not that of its type, %s", ErrManifest, mt)
	}
	return mt, nil
}

func (doc *Document) decodeIndex(b []byte) error {
	var m v1.IndexManifest
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if len(m.Manifests) > maxEntries {
		return fmt.Errorf("an index of %d manifests: %w of %d", len(m.Manifests), ErrTooLarge, maxEntries)
	}
	for i, d := range m.Manifests {
		if err := checkDescriptor(d); err != nil {
			return fmt.Errorf("%w: manifest %d: %w", ErrManifest, i, err)
		}
	}
	doc.Index = &m
	return nil
}

func (doc *Document) decodeImage(b []byte) error {
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if len(m.Layers) > maxEntries {
		return fmt.Errorf("an image of %d layers: %w of %d", len(m.Layers), ErrTooLarge, maxEntries)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return fmt.Errorf("%w: config: %w", ErrManifest, err)
	}
	for i, d := range m.Layers {
		if err := checkDescriptor(d); err != nil {
			return fmt.Errorf("%w: layer %d: %w", ErrManifest, i, err)
		}
	}
	doc.Image = &m
	return nil
}

func checkDescriptor(d Descriptor) error {
	if d.Size < 0 {
		return fmt.Errorf("its size is %d", d.Size)
	}
	return CheckDigest(d.Digest)
}
