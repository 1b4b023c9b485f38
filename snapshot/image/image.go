// Package image keeps the images of a store: what they are made of, and under which names they are known.
//
// An Image is the configuration, whose digest is its ID, and a list of snapshots, one a layer. It is never changed. A
// Name points to an image, or to one for each of several platforms; names move. An image that no name points to is
// dangling: it stays until it is deleted. So does an index that was made without a name, as long as one of its images is
// there.
//
// What is derived from a layer (its compressed blobs) and where a registry has it is kept by diff ID, so that it serves
// every image that has the layer.
//
// # Durability
//
// All of it is in one bbolt database whose every transaction is synced: what a user named is never lost. Snapshots and
// blobs are not synced when they are made, so whoever puts an image here makes them durable first.
//
// A Store is safe for concurrent use. Store.mu guards the index of chains, which is in memory; it is taken after a
// transaction has been begun and never held across I/O.
package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
)

// Descriptor names bytes.
type Descriptor = ocispec.Descriptor

// Errors of a Store, found with errors.Is.
var (
	ErrNotFound  = errors.New("No such image") //nolint:staticcheck // docker's words, which scripts look for
	ErrAmbiguous = errors.New("more than one image matches")
)

// An Image is an image for one platform.
type Image struct {
	ID       digest.Digest // of Config
	Config   []byte        // JSON, as it was made or pulled
	Platform ocispec.Platform
	Created  time.Time
	Layers   []Layer // lowest first
	// Parent is the image that this one was made of by a commit; empty for every other image.
	Parent digest.Digest `json:",omitempty"`
	// Manifests are those under which registries have, or had, the image.
	Manifests []Manifest
	// Stored is when the image was put into the store, and Tagged when a name was last made to point to it.
	Stored, Tagged time.Time
	// Names are the canonical references that point to it, sorted; they are not part of the record, and filled in by
	// the store.
	Names []string `json:"-"`
	// Served are the digests of what registries had under Names, where that is known; filled in like Names.
	Served map[string]digest.Digest `json:"-"`
}

// A Layer is a layer of an image.
type Layer struct {
	DiffID   digest.Digest
	Snapshot snapshot.ID // the tree up to and with this layer
	Size     int64       // of the uncompressed tar, in bytes
	Files    int64       // sum of the sizes of its files, in bytes: what docker calls a layer's size
	// Blobs are the compressed forms that are known, and Origins the repositories ("docker.io/library/busybox") that
	// are known to hold one; both are filled in by the store, from what SetBlob was told and Put was given.
	Blobs   []Descriptor `json:"-"`
	Origins []string     `json:"-"`
}

// A Manifest is a manifest, or an index that leads to one, of an image in a repository. Its bytes are a blob.
type Manifest struct {
	Repository string // "docker.io/library/busybox"
	Descriptor Descriptor
	// Inner says that only an index led to it: the image was never pulled or pushed by its digest.
	Inner bool `json:",omitempty"`
}

// IsIndex says whether the media type is that of an index of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

// A Name is what a reference points to.
type Name struct {
	Ref    string // canonical, with a tag: "docker.io/library/busybox:latest"
	Images []digest.Digest
	// Index is the index that was pulled, or made, under the name; nil if there was none.
	Index *Descriptor
	// Documents are manifests of Images that were made for the name, with annotations or layers that it was given: a push
	// of the name sends these. There are none where any manifest will do.
	Documents []Descriptor
	// Served is what the registry had under the name when it was last pulled or pushed, a manifest or an index; nil if it
	// was neither. Another name of the same images may have another one.
	Served *Descriptor
	Tagged time.Time
}

// Manifests returns the manifests that are the name's own.
func (n *Name) Manifests() []Descriptor {
	out := slices.Clone(n.Documents)
	if n.Served != nil && !IsIndex(n.Served.MediaType) {
		out = append(out, *n.Served)
	}
	return out
}

// Blobs returns all documents that the name has.
func (n *Name) Blobs() []Descriptor {
	out := n.Manifests()
	if n.Index != nil {
		out = append(out, *n.Index)
	}
	if n.Served != nil && IsIndex(n.Served.MediaType) {
		out = append(out, *n.Served)
	}
	return out
}

// OwnIndex returns the index that is the name's own, or nil.
func (n *Name) OwnIndex() *Descriptor {
	if n.Index == nil && n.Served != nil && IsIndex(n.Served.MediaType) {
		return n.Served
	}
	return n.Index
}

// ChainID returns the identity of a pile of layers (OCI image specification, config.md, "Layer ChainID"), or "" for none.
func ChainID(diffIDs []digest.Digest) digest.Digest {
	var id digest.Digest
	for _, d := range diffIDs {
		if id == "" {
			id = d
			continue
		}
		id = digest.FromString(string(id) + " " + string(d))
	}
	return id
}

// DiffIDs returns the diff IDs of the image's layers.
func (i *Image) DiffIDs() []digest.Digest {
	ids := make([]digest.Digest, len(i.Layers))
	for n, l := range i.Layers {
		ids[n] = l.DiffID
	}
	return ids
}

// Size returns the size of the files in all layers, in bytes.
func (i *Image) Size() int64 {
	var n int64
	for _, l := range i.Layers {
		n += l.Files
	}
	return n
}

// RepoDigests returns as references what the image was pulled or pushed as: "docker.io/library/busybox@sha256:…". What an
// index led to is not among them.
func (i *Image) RepoDigests() []string {
	var out []string
	for _, m := range i.Manifests {
		if s := m.Repository + "@" + string(m.Descriptor.Digest); !m.Inner && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// check refuses a record that would be wrong for ever.
func (i *Image) check() error {
	if i.ID != digest.FromBytes(i.Config) {
		return fmt.Errorf("storing image %s: its config has digest %s", i.ID, digest.FromBytes(i.Config))
	}
	for _, l := range i.Layers {
		if err := blob.Validate(l.DiffID); err != nil {
			return fmt.Errorf("storing image %s: %w", i.ID, err)
		}
		if l.Snapshot == "" {
			return fmt.Errorf("storing image %s: layer %s has no snapshot", i.ID, l.DiffID)
		}
	}
	return nil
}

// A ReferenceError is a name or an ID that cannot be one. It is of the class errdefs.ErrInvalidArgument.
type ReferenceError struct {
	Ref string
	Err error
}

func (e *ReferenceError) Error() string {
	return fmt.Sprintf("parsing reference %.300q: %v", e.Ref, e.Err)
}

func (e *ReferenceError) Unwrap() error { return e.Err }

// InvalidParameter marks the class.
func (e *ReferenceError) InvalidParameter() {}

// Normalize returns the canonical form of a reference as a user writes it, with a tag and without a digest:
// "busybox" is "docker.io/library/busybox:latest". Its errors are *ReferenceError.
func Normalize(ref string) (string, error) {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", &ReferenceError{Ref: ref, Err: err}
	}
	t, ok := reference.TagNameOnly(n).(reference.NamedTagged)
	if !ok {
		return "", &ReferenceError{Ref: ref, Err: errors.New("it has a digest and no tag")}
	}
	t, err = reference.WithTag(reference.TrimNamed(n), t.Tag())
	if err != nil {
		return "", &ReferenceError{Ref: ref, Err: err}
	}
	return t.String(), nil
}

// Familiar returns the shortest form of a canonical reference: "busybox:latest".
func Familiar(ref string) string {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(n)
}

// samePlatform says whether an image for have runs where want is asked for; fields that want leaves empty match any.
func samePlatform(have, want ocispec.Platform) bool {
	return (want.OS == "" || have.OS == want.OS) && (want.Architecture == "" || have.Architecture == want.Architecture) &&
		(want.Variant == "" || have.Variant == "" || have.Variant == want.Variant)
}

// hexPrefix returns the hex digits of what may be the beginning of an ID.
func hexPrefix(s string) (string, bool) {
	s = strings.TrimPrefix(s, "sha256:")
	if s == "" || len(s) > 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return "", false
	}
	return s, true
}
