// Package op holds every operation of a build graph as plain, hashable data. The set, and each field, equals that of
// LLB (moby/buildkit solver/pb), so that package proto/llb can be a lossless codec between the two.
//
// An operation says what to do and nothing of how: package solver/run does it. Its WriteKey writes every field that can
// influence the result, and none that cannot (proxy settings, the identity of a cache mount, a file's timestamps).
// The number after Version in each WriteKey is raised when the meaning of a field, or the behaviour of solver/run,
// changes.
package op

import (
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/solver"
)

// Platform is the platform that an operation is for; the zero value means the one of the daemon.
type Platform = ocispec.Platform

// PlatformString returns p as os/arch[/variant], or "" for the zero value.
func PlatformString(p Platform) string {
	if p.OS == "" && p.Architecture == "" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// writePlatform writes a platform as a field of a key.
func writePlatform(h *solver.Hasher, p Platform) {
	if s := PlatformString(p); s != "" {
		h.Str("platform", s)
	}
	if p.OSVersion != "" {
		h.Str("platform.osversion", p.OSVersion)
	}
	h.Strs("platform.osfeatures", p.OSFeatures)
}

// A Source is an operation without inputs that brings something in from outside. It must be pinned before it is
// solved: Pinned says whether its key already names bytes rather than a place.
type Source interface {
	solver.Op
	// Pinned says whether the source names content that cannot change any more.
	Pinned() bool
}

// Image is an image from a registry or from the store. Its result is the image's root file system.
type Image struct {
	// Ref is the canonical reference without a digest: "docker.io/library/busybox:latest".
	Ref string
	// Digest is that of the manifest for Platform, or the ID (config digest) of an image of the store; set by pinning.
	Digest digest.Digest
	// Tagged says that Digest is what the tag of Ref meant when the image was pinned. A reference with a digest of its
	// own has a tag for people to read only.
	Tagged   bool
	Platform Platform
	// Resolve says where a tag is looked up; it matters for pinning only.
	Resolve ResolveMode
	// Unnamed says that the image gets no name in the store if it is pulled. It is the builder's to say.
	Unnamed bool
	// LayerLimit keeps only that many of the lowest layers; 0 means all.
	LayerLimit int
	// Checksum is the digest that the reference has to mean, of an index or a manifest; empty for any.
	Checksum digest.Digest
	// RecordType is LLB's image.recordtype: what the image is listed as. It has no influence on anything here.
	RecordType string
}

// A ResolveMode says where the reference of an image is looked up.
type ResolveMode int

// The resolve modes, as LLB's image.resolvemode.
const (
	ResolveDefault     ResolveMode = iota // the store if it has the name, else the registry
	ResolveForcePull                      // the registry
	ResolvePreferLocal                    // the store if it has the name, whatever its platform, else the registry
	// ResolveRegistry is what a service does for clients that expect a tag to mean what its registry says now: the store
	// counts for names that were given here, and if the registry cannot be asked. LLB has no word for it, since there it is
	// the default.
	ResolveRegistry
)

// Pinned implements Source.
func (i *Image) Pinned() bool { return i.Digest != "" }

// WriteKey implements solver.Op. The reference is not part of it: equal manifests are equal images.
func (i *Image) WriteKey(h *solver.Hasher) {
	version := 1
	if i.Platform.OS == "windows" {
		version = 2 // its layers were unpacked as others are
	}
	h.Version("image", version)
	if i.Digest != "" {
		h.Str("digest", string(i.Digest))
	} else {
		h.Str("ref", i.Ref)
		if i.Checksum != "" {
			h.Str("checksum", string(i.Checksum))
		}
	}
	writePlatform(h, i.Platform)
	if i.LayerLimit != 0 {
		h.Int("layerlimit", int64(i.LayerLimit))
	}
}

func (i *Image) String() string {
	if i.Digest != "" {
		return fmt.Sprintf("docker-image://%s@%s", i.Ref, i.Digest)
	}
	return "docker-image://" + i.Ref
}

// Local is a directory of the client's. Its result is a tree that lives as long as the build.
type Local struct {
	Name      string   // what the client calls it: "context", "dockerfile"
	SharedKey string   // a hint for incremental transfer
	Include   []string // patternmatcher syntax; empty means everything
	Exclude   []string // patternmatcher syntax
	Follow    []string // only these paths, with symlinks resolved inside the directory; empty means everything
	Session   string   // of the client; empty for the one that asked for the build
	// Differ says what makes a file of the client's a changed one. It matters for the transfer only.
	Differ LocalDiffer
	// MetadataOnly makes the tree consist of what MetadataExceptions (patternmatcher syntax) selects, and a file
	// ".fsutil-metadata" that describes everything.
	MetadataOnly       bool
	MetadataExceptions []string
	// Largest is how many bytes a file may have; 0 means any. One that has more is an error as soon as that is known, and is
	// not read.
	Largest int64
	// Unique is LLB's local.unique, which makes definitions differ. It has no influence on the tree.
	Unique string
	// Root is the Merkle root of what the other fields select, in lower-case hex; set by pinning.
	Root string
}

// A LocalDiffer is a way to find out which files of a client's directory have changed since its last transfer.
type LocalDiffer int

// The differs, as LLB's local.differ. The first compares what there is to compare.
const (
	DifferDefault  LocalDiffer = iota
	DifferNone                 // everything counts as changed
	DifferMetadata             // what has the same metadata has the same content
)

// Pinned implements Source.
func (l *Local) Pinned() bool { return l.Root != "" }

// Ephemeral implements solver.Ephemeral: the tree is a view of a directory of the client's.
func (l *Local) Ephemeral() bool { return true }

// WriteKey implements solver.Op. Of a pinned source only the root counts.
func (l *Local) WriteKey(h *solver.Hasher) {
	h.Version("local", 1)
	if l.Root != "" {
		h.Str("root", l.Root)
		return
	}
	h.Str("name", l.Name)
	h.Str("session", l.Session)
	h.Str("sharedkey", l.SharedKey)
	h.Strs("include", l.Include)
	h.Strs("exclude", l.Exclude)
	h.Strs("follow", l.Follow)
	if l.MetadataOnly {
		h.Bool("metadataonly", true) // also without exceptions, which would write nothing
		h.Strs("metadataonly.except", l.MetadataExceptions)
	}
	if l.Largest > 0 {
		h.Int("largest", l.Largest)
	}
}

func (l *Local) String() string { return "local://" + l.Name }
