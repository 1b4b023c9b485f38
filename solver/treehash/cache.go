package treehash

import (
	"container/list"
	"os"
	"sync"

	"github.com/boxbuild/boxbuild/solver"
)

// A Cache remembers the digests of snapshots, which never change, by their ID. It is safe for concurrent use.
type Cache struct {
	max int

	mu    sync.Mutex               // guards what follows
	byID  map[string]*list.Element // of *record
	order *list.List               // the last used first
	total int                      // entries that the records hold
}

// DefaultEntries is how many directory entries a Cache holds by default: about 40 MB of them.
const DefaultEntries = 200_000

// NewCache returns a cache of at most max entries of directories, DefaultEntries if that is 0.
func NewCache(max int) *Cache {
	if max <= 0 {
		max = DefaultEntries
	}
	return &Cache{max: max, byID: map[string]*list.Element{}, order: list.New()}
}

// Snapshot returns the tree of a snapshot, whose root directory, a mount of it or a plain directory, is root. The tree
// keeps a descriptor of its own, which Close gives back.
func (c *Cache) Snapshot(id string, root *os.File) (*Snapshot, error) {
	return newSnapshot(c, c.record(id), root)
}

func (c *Cache) record(id string) *record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byID[id]; ok {
		c.order.MoveToFront(el)
		return el.Value.(*record)
	}
	rec := newRecord(id)
	c.byID[id] = c.order.PushFront(rec)
	rec.held = 1 // itself: there may be many of which little is asked
	c.total++
	c.trimLocked()
	return rec
}

// grew counts n more entries of rec, and drops the records that were used least lately if there are too many.
func (c *Cache) grew(rec *record, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byID[rec.id]; !ok || el.Value != any(rec) {
		return // dropped; its users still hold it
	}
	rec.held += n
	c.total += n
	c.trimLocked()
}

// trimLocked keeps at least the record that was used last, however big it is.
func (c *Cache) trimLocked() {
	for c.total > c.max && c.order.Len() > 1 {
		rec := c.order.Remove(c.order.Back()).(*record)
		delete(c.byID, rec.id)
		c.total -= rec.held
	}
}

// A record is what is known of one snapshot.
type record struct {
	id   string
	held int           // entries counted; guarded by Cache.mu
	busy chan struct{} // held by the one who hashes a directory, so that none is hashed twice at once

	mu   sync.Mutex // guards what follows
	dirs map[string]*dirNode
	sums map[string]solver.Digest // of files whose directories have not been listed
}

func newRecord(id string) *record {
	return &record{
		id: id, busy: make(chan struct{}, 1),
		dirs: map[string]*dirNode{}, sums: map[string]solver.Digest{},
	}
}

// A dirNode is a listed directory. entries does not change; the rest is guarded by the record's mutex.
type dirNode struct {
	entries []Entry
	content []solver.Digest // of the regular files
	known   []bool          // which of content are
	sum     solver.Digest
	summed  bool
}
