// Package snapshot is about file system trees that are written once, in layers, and then never change.
//
// # Life cycle
//
// A tree that is being written is a Draft. Prepare makes a draft on top of a parent (or of nothing), and returns how to
// mount it; whatever is written there becomes the difference to the parent. Commit turns the draft into an ID, which is
// immutable from then on: it can be viewed, be a parent, and be removed once nothing stands on it, but never be written
// again. Discard throws a draft away. Only an ID can be a parent.
//
//	Prepare ──> Draft ──Commit──> ID ──Remove──> gone
//	              └────Discard──> gone
//
// A View is a draft that is never committed: a read-only mount of an ID, ended by Discard.
//
// An ID exists when its final name exists: Commit is a rename. Drafts do not survive a restart, unless they are a Keeper's;
// what is left of them is swept when the snapshotter is opened. Snapshotters hold no mounts: they say how to mount, and
// package snapshot/mount makes that a file descriptor which the kernel takes back when the process dies.
//
// Commit does not wait for the disk. After a power cut a snapshotter keeps the IDs which it knows to have been written
// out and drops the others, so an ID is there whole or not at all.
package snapshot

import (
	"context"
	"errors"
	"iter"
	"time"
)

// An ID names a committed snapshot: [a-z0-9]{1,64}.
type ID string

// A Draft names a snapshot that is being written, or a view: [a-z0-9]{1,64}. Drafts and IDs are different name spaces.
type Draft string

// A Mount says how to mount a snapshot, in the terms of mount(2): an overlay, or a bind of a directory.
type Mount struct {
	Type    string // "overlay" or "bind"
	Source  string // for "bind", an absolute path
	Options []string
	// Lower, Upper and Work are the directories of an overlay, topmost lower first, as absolute paths. They stand
	// apart from Options since mount(2) takes one page of options only. Upper and Work are empty for a read-only one.
	Lower       []string
	Upper, Work string
}

// ReadOnly says whether the mount cannot be written to.
func (m Mount) ReadOnly() bool {
	for _, o := range m.Options {
		if o == "ro" {
			return true
		}
	}
	return false
}

// Info is what is known of a committed snapshot.
type Info struct {
	ID      ID
	Parent  ID // empty for a bottom
	Created time.Time
	Used    time.Time // last used as a parent or a view; a hint
	// Size is the bytes that the snapshot takes on the disk beyond its parent, and Inodes its files without the root.
	// They are counted at commit; both are -1 for a moment after the commit of a snapshot with many files.
	Size   int64
	Inodes int64
	// Delta, if not zero, is the difference that was made again here, on another parent: the layer of this snapshot is that
	// of the delta, byte for byte, whatever of it shows on this parent.
	Delta Delta
}

// A Delta is the difference between two trees: what has to be added to Lower and taken from it to get Upper. Either may
// be "", an empty tree. If Lower is the parent of Upper, it is what Upper itself adds.
type Delta struct {
	Lower ID `json:"lower,omitempty"`
	Upper ID `json:"upper,omitempty"`
	// Loose says that directories of which nothing but the time differs are no part of it.
	Loose bool `json:"loose,omitempty"`
}

// Errors of a Snapshotter.
var (
	ErrNotFound = errors.New("no such snapshot")
	ErrExists   = errors.New("snapshot exists")
	ErrInUse    = errors.New("snapshot is in use") // it has children, drafts or views
)

// A Snapshotter stores snapshots. It is safe for concurrent use. Errors wrap the ones above and name the snapshot.
type Snapshotter interface {
	// Prepare makes the draft d on top of parent ("" for none). ErrExists if d exists, ErrNotFound if parent does not.
	Prepare(ctx context.Context, d Draft, parent ID) ([]Mount, error)
	// View is Prepare for reading only.
	View(ctx context.Context, d Draft, parent ID) ([]Mount, error)
	// Commit makes the draft d the snapshot id. If id exists the draft is discarded and ErrExists returned. The caller
	// must have ended every mount of the draft. d is gone whatever is returned, except for ErrNotFound.
	Commit(ctx context.Context, d Draft, id ID) error
	// Discard throws a draft or view away. Discarding one that does not exist is no error.
	Discard(ctx context.Context, d Draft) error
	// Remove removes id; ErrInUse while it has children, drafts or views; nil if it does not exist.
	Remove(ctx context.Context, id ID) error
	// Stat describes id.
	Stat(ctx context.Context, id ID) (Info, error)
	// All yields every committed snapshot, parents before children.
	All(ctx context.Context) iter.Seq2[Info, error]
}

// A Syncer is a Snapshotter whose Commit does not wait for the disk.
type Syncer interface {
	// Sync returns once everything that was committed before the call is on the disk, and survives a power cut. It is an error
	// if that will never be so for one of ids, or for what it stands on or is a copy of: the disk has failed to take it, now
	// or when it was written out before.
	Sync(ctx context.Context, ids ...ID) error
}

// A DeltaCommitter is a Snapshotter that remembers of which difference a snapshot is another copy.
type DeltaCommitter interface {
	// CommitDelta is Commit of a draft into which delta was applied. Info.Delta of id is delta. What delta names exists,
	// and has to be kept as long as id is: what is left at the next start of an id whose delta is gone is removed.
	CommitDelta(ctx context.Context, d Draft, id ID, delta Delta) error
}

// A Keeper is a Snapshotter with drafts that outlive it: the writable layers of containers. Such a draft is there again when
// the snapshotter has been closed, or killed, and is opened with the word that it is to be kept. It is mounted by one at a
// time, as often as wanted, and ended by Discard or Commit like any other.
type Keeper interface {
	// Keep is Prepare of a draft that is kept.
	Keep(ctx context.Context, d Draft, parent ID) error
	// Mounts says how to mount a draft that Keep has made. What is synced in such a mount is on the disk, unless lax is
	// set: then fsync(2) does nothing, and what is written is lost, or damaged, with a power cut. ErrNotFound if there is
	// no such draft.
	Mounts(ctx context.Context, d Draft, lax bool) ([]Mount, error)
}

// A Differ is a Snapshotter that can say where the difference of a snapshot to its parent lies, without comparing.
type Differ interface {
	// Upper returns the directory that holds what id adds to its parent, with overlayfs's whiteouts (character devices
	// 0:0) and opaque marks (the xattr trusted.overlay.opaque, or user.overlay.opaque in a user namespace, with the
	// value "y"). Other attributes of these two prefixes are overlayfs's notes and no part of the difference. The root
	// directory always has the owner, mode, times and attributes of the whole tree's root. ok is false where id has no
	// such directory. The directory must not be written to.
	Upper(ctx context.Context, id ID) (dir string, ok bool, err error)
}

// A DraftWriter is a Snapshotter that lets the difference be written straight into a directory, in the form that
// Differ.Upper has, which saves a mount. Only layer application uses it.
type DraftWriter interface {
	// DraftUpper returns that directory of the draft d. An opaque mark on the directory itself hides all of the parent.
	// In a draft without a parent there must be no whiteouts: nothing would hide them.
	DraftUpper(ctx context.Context, d Draft) (dir string, ok bool, err error)
}
