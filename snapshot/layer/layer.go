// Package layer turns layer tars into snapshots and snapshots into layer tars, as the OCI image specification's
// layer.md describes them.
//
// Apply writes a tar into a draft that nobody has mounted. Diff writes the tar of what a snapshot adds to its parent; the
// same tree gives the same bytes, always. Decompress and Compressor are the ways in and out of compression.
//
// # Trust
//
// A layer is hostile until its digest and its diff ID are known to be right, and a right digest only says that it is
// what somebody published. So Apply never lets the kernel walk a path of more than one component: it holds directories
// by descriptor and opens each component with O_NOFOLLOW, and resolves symlinked parents itself, in the merged view of
// the draft and its parents. There is no path for a symlink, a ".." or a race to lead out of the draft. DESIGN.md has
// the decisions.
//
// Functions of this package are safe for concurrent use on different directories. The goroutines that they start have
// ended when they return.
package layer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/snapshot"
)

// Names that mean something else than a file; layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // names of AUFS's own, of which only the next means something
	whiteoutOpaque = ".wh..wh..opq"
)

// Errors of Apply, found with errors.Is.
var (
	// ErrDiffID says that a layer's uncompressed tar is not the one it was said to be.
	ErrDiffID = errors.New("diff ID does not match")
	// ErrTooLarge says that a layer goes beyond a limit of Limits.
	ErrTooLarge = errors.New("layer is too large")
	// ErrUnsafe says that an entry would reach out of the root.
	ErrUnsafe = errors.New("entry leads out of the root")
)

// An EntryError is the refusal of an entry of a tar.
type EntryError struct {
	Name string // as the tar has it
	Err  error
}

func (e *EntryError) Error() string {
	name := e.Name
	if len(name) > 300 {
		name = name[:300] + "…"
	}
	return fmt.Sprintf("unpacking entry %q: %v", name, e.Err)
}

// Unwrap returns the reason.
func (e *EntryError) Unwrap() error { return e.Err }

// A Form is how the absence of files of a parent is written in a directory.
type Form int

const (
	// Plain is a directory that holds the whole tree; what is absent is not there.
	Plain Form = iota
	// Overlay is an upper directory of overlayfs: character devices 0:0 and the xattr trusted.overlay.opaque.
	Overlay
	// UserOverlay is Overlay in a user namespace: the xattr is user.overlay.opaque.
	UserOverlay
)

func (f Form) opaqueXattr() string {
	if f == UserOverlay {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// A Target is a directory that a layer is applied to or has been.
type Target struct {
	// Dir is the directory: the upper one, or the whole tree.
	Dir string
	// Lower are the directories below, topmost first, for Overlay and UserOverlay; none if there is no parent. For Plain
	// it is the tree that Diff compares with, if any.
	Lower []string
	Form  Form
	views bool // Dir and Lower[0] are mounts of layers in one file system
	// merged says that these are mounts of several layers each, which may share an inode (see Transplant) without being
	// links of one another.
	merged bool
	loose  bool // see snapshot.Delta
}

// TargetOf returns where to write, given what Prepare returned: the upper directory of an overlay, which then need not
// be mounted, or the directory of a bind. ok is false for mounts that cannot be written to.
func TargetOf(mounts []snapshot.Mount) (t Target, ok bool) {
	if len(mounts) != 1 || mounts[0].ReadOnly() {
		return Target{}, false
	}
	m := mounts[0]
	switch m.Type {
	case "bind":
		return Target{Dir: m.Source}, true
	case "overlay":
		form := Overlay
		if slices.Contains(m.Options, "userxattr") {
			form = UserOverlay
		}
		return Target{Dir: m.Upper, Lower: m.Lower, Form: form}, m.Upper != ""
	}
	return Target{}, false
}

// ownXattr says whether an xattr is overlayfs's own. Such names are neither taken from tars nor written to them.
func ownXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// keptXattr says whether an xattr is part of a layer: file capabilities, ACLs and what users and root attach. Other
// names (security.selinux, security.ima, security.evm) are labels of the host's policy, not of the image.
func keptXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return (strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")) && !ownXattr(name)
}
