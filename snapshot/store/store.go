// Package store keeps snapshots as directories. It is what the snapshotters that do so (snapshot/overlay,
// snapshot/native) have in common: names, life cycle, reference counts, accounting, removal and durability. They add a
// Driver, which fills a draft and says how to mount.
//
// # On disk
//
//	<dir>/<id>/meta       what is known of the snapshot, written at commit; its mtime is the time of the last use
//	<dir>/<id>/fs/        its files
//	<dir>/<id>/usage      size and number of files, if counting took too long for the commit
//	<dir>/new-<draft>/    a draft: fs/ and what else the driver puts there (work/)
//	<dir>/keep-<draft>/   one that is kept, likewise
//	<dir>/.trash/         what is being removed
//	<dir>/.durable        the snapshots that are known to be on the disk
//	<dir>/.boot           the boot of the machine in which the store was last open
//
// There is no database. Open reads the directory names and a meta each; drafts and trash it removes in the background, but
// for the drafts that are kept: which of these are still wanted, and what they stand on, Options.Keep says.
// Commit writes meta and renames new-<draft> to <id>; nothing is synced.
//
// # Durability
//
// A kill at any instant loses drafts only, since the page cache survives it. A power cut can lose or damage whatever
// was not synced, and a rename may be on the disk before what is in the files. So a background job calls syncfs(2) some
// time after a commit, and then appends the names of all that was committed before it to the log .durable, which it
// syncs. If Open finds another boot in .boot than the machine's present one, it believes the log and nothing else:
// snapshots that are not there are removed, and what stands on them. Each line of the log has the time of the commit
// too, so that an earlier snapshot of the same name does not vouch for a later one. The marker itself need not be
// synced: whatever a power cut leaves of it, it is not the identifier of the boot that follows.
//
// This relies on file systems that keep the order of renames and unlinks, as all with a journal do: a snapshot is
// renamed to the trash before anything in it is unlinked.
//
// # Goroutines and locks
//
// A Store owns two goroutines, the flusher and the janitor, from Open to Close. Store.mu guards the index and is never
// held during I/O: an operation reserves its names under the lock, works without it, and then makes the result known.
// flusher.turn, a semaphore, serialises the writers of the log and is taken before Store.mu; janitor.mu is a leaf.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
)

// ErrClosed is returned by what is called after Close.
var ErrClosed = errors.New("snapshot store is closed")

// Options change how a Store works. The zero value is what a daemon wants.
type Options struct {
	// BootID identifies the boot of the machine; empty means to ask the kernel. Tests give others to simulate reboots.
	BootID string
	// FlushAfter is how long after a commit its snapshot is written out; 0 means two seconds. All that are committed
	// meanwhile go with it. It bounds what a power cut costs.
	FlushAfter time.Duration
	// Log is told of what goes wrong in the background. nil means slog.Default().
	Log *slog.Logger
	// Keep says which drafts of a Keeper's are still wanted when the store is opened, and what they stand on. nil means
	// none.
	Keep func(snapshot.Draft) (parent snapshot.ID, ok bool)
}

// A Layer is a committed snapshot as a Driver sees it.
type Layer struct {
	ID  snapshot.ID
	Dir string // absolute; its files are in FS()
	Marks
	Bottom bool // it has no parent
}

// FS returns the directory of the layer's files.
func (l Layer) FS() string { return filepath.Join(l.Dir, "fs") }

// Marks are what a Driver finds out of a snapshot when it is committed. They are kept in its meta.
type Marks struct {
	Empty  bool // it adds nothing to its parent
	Opaque bool // it hides all of its parent
}

// A Driver is what differs between the kinds of snapshotters. Its methods are called concurrently. A chain is the
// layers that a draft stands on, topmost first; it is empty for a draft without a parent.
type Driver interface {
	// Fill makes what a new draft consists of in the directory dir, which is empty: at least dir/fs.
	Fill(ctx context.Context, dir string, chain []Layer) error
	// Inspect looks at a finished draft in dir, in which there are files besides the root or not, and returns its marks.
	Inspect(dir string, chain []Layer, files bool) (Marks, error)
	// Mounts says how to mount the draft in dir.
	Mounts(dir string, chain []Layer) []snapshot.Mount
	// Remount says how to mount it so that it can be mounted again afterwards, and again; with lax fsync(2) need do
	// nothing. It may mend in dir what an earlier mount has left.
	Remount(dir string, chain []Layer, lax bool) ([]snapshot.Mount, error)
	// View says how to mount the topmost layer of chain, which is not empty, for reading.
	View(chain []Layer) []snapshot.Mount
}

// A Store is a snapshot.Snapshotter whose snapshots are directories.
type Store struct {
	dir     string
	driver  Driver
	now     func() time.Time
	flusher *flusher
	janitor *janitor

	// mu guards what follows. No I/O is done while it is held.
	mu     sync.Mutex
	closed bool
	snaps  map[snapshot.ID]*node
	drafts map[snapshot.Draft]*draft
	used   map[*node]struct{} // whose time of use is to be written down
}

var (
	_ snapshot.Snapshotter = (*Store)(nil)
	_ snapshot.Keeper      = (*Store)(nil)
	_ snapshot.Syncer      = (*Store)(nil)
)

// A node is a snapshot in the index. Its fields are guarded by Store.mu, but for those that never change once the node
// is present: id, parent, depth, created, marks, delta.
type node struct {
	id       snapshot.ID
	parent   *node
	depth    int // number of ancestors
	created  time.Time
	marks    Marks
	delta    snapshot.Delta
	used     time.Time
	size     int64 // -1 while it is being counted
	inodes   int64
	children int  // snapshots, those that are being committed too
	drafts   int  // drafts and views
	lost     bool // the disk has failed to take it
	phase    phase
	settled  chan struct{} // closed when the phase changes; nil in phase present
}

// A phase is where a node is in its life.
type phase int

const (
	present    phase = iota // it exists
	committing              // its name is reserved; it does not exist yet
	removing                // it does not exist any more; its name is not free yet
)

// A draft is a draft or view in the index, guarded by Store.mu but for parent, view and kept, which never change.
type draft struct {
	parent *node
	view   bool
	kept   bool // it is a Keeper's
	ready  bool // it can be committed or discarded: Prepare is done and nobody has begun to end it
}

// Open opens the store in dir, which is made if it does not exist. There must be one Store at most for a directory:
// opening removes all drafts but those that are kept.
func Open(ctx context.Context, dir string, driver Driver, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening snapshots: %w", err)
	}
	if opts.FlushAfter == 0 {
		opts.FlushAfter = 2 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.BootID == "" {
		if opts.BootID, err = kernelBootID(); err != nil {
			return nil, fmt.Errorf("opening snapshots: %w", err)
		}
	}
	s := &Store{
		dir: dir, driver: driver, now: time.Now,
		snaps:  make(map[snapshot.ID]*node),
		drafts: make(map[snapshot.Draft]*draft),
		used:   make(map[*node]struct{}),
	}
	if err := s.load(ctx, opts); err != nil {
		return nil, fmt.Errorf("opening snapshots in %s: %w", dir, err)
	}
	s.janitor.start()
	s.flusher.start()
	return s, nil
}

// Close writes out what was committed, ends the background work and makes every later call fail with ErrClosed. What is
// left in the trash is removed after the next Open. Drafts that still exist are swept then too, unless they are kept.
func (s *Store) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.janitor.stop()
	s.flusher.stop()
	if err := s.flusher.flush(context.Background()); err != nil {
		return fmt.Errorf("closing snapshots in %s: %w", s.dir, err)
	}
	return s.flusher.close()
}

// Crash ends the background work as a kill does: nothing is written out. It is for tests.
func (s *Store) Crash() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.janitor.stop()
	s.flusher.stop()
	_ = s.flusher.close()
}

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

// Sync implements snapshot.Syncer.
func (s *Store) Sync(ctx context.Context, ids ...snapshot.ID) error {
	if err := s.flusher.flush(ctx); err != nil {
		return fmt.Errorf("syncing snapshots in %s: %w", s.dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.lostLocked(ids); n != nil {
		return fmt.Errorf("syncing snapshots in %s: %s was not written to the disk, which failed; it has to be made again, without the cache", s.dir, n.id)
	}
	return nil
}

// lostLocked returns a snapshot that the disk has failed to take and that one of ids is, stands on or is a copy of; nil if there
// is none.
func (s *Store) lostLocked(ids []snapshot.ID) *node {
	seen := make(map[*node]bool)
	todo := slices.Clone(ids)
	for len(todo) > 0 {
		n := s.snaps[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		for ; n != nil && !seen[n]; n = n.parent {
			seen[n] = true
			if n.lost {
				return n
			}
			todo = append(todo, n.delta.Lower, n.delta.Upper)
		}
	}
	return nil
}

// Drain returns once the background work that is there now is done: the space of what was removed before the call is
// free, and every size is known.
func (s *Store) Drain(ctx context.Context) error { return s.janitor.drain(ctx) }

// chain returns the layers from n down. Nodes in use, and so their ancestors, do not change.
func (s *Store) chain(n *node) []Layer {
	if n == nil {
		return nil
	}
	chain := make([]Layer, 0, n.depth+1)
	for ; n != nil; n = n.parent {
		chain = append(chain, Layer{ID: n.id, Dir: s.path(n.id), Marks: n.marks, Bottom: n.parent == nil})
	}
	return chain
}

func (s *Store) path(id snapshot.ID) string { return filepath.Join(s.dir, string(id)) }

func (s *Store) draftPath(d snapshot.Draft, kept bool) string {
	if kept {
		return filepath.Join(s.dir, keptPrefix+string(d))
	}
	return filepath.Join(s.dir, draftPrefix+string(d))
}

// These begin the directory names of drafts. They have a character that an ID has not.
const (
	draftPrefix = "new-"
	keptPrefix  = "keep-"
)

// valid says whether a name is one of an ID or Draft.
func valid(name string) bool {
	if len(name) == 0 || len(name) > 64 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// trash moves a directory of the store out of the way and leaves the rest to the janitor. One that does not exist is
// no error.
func (s *Store) trash(path string) error {
	err := s.janitor.trash(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

var errIsView = fmt.Errorf("it is a view: %w", snapshot.ErrNotFound)

func mkdir(path string) error { return os.Mkdir(path, 0o700) }
