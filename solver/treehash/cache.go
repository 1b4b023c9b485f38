package treehash

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/boxbuild/boxbuild/solver"
)

// A Store keeps what a Cache knows of a snapshot across restarts. It is safe for concurrent use.
type Store interface {
	// Load returns what was saved last for the snapshot; an error that wraps fs.ErrNotExist if nothing was.
	Load(id string) ([]byte, error)
	// Save replaces what is stored for the snapshot.
	Save(id string, data []byte) error
}

// A Cache remembers the digests of snapshots, which never change, by their ID. It is safe for concurrent use.
type Cache struct {
	max   int
	store Store

	mu    sync.Mutex
	byID  map[string]*list.Element // of *record
	order *list.List               // the last used first
	total int                      // entries that the records hold
}

// DefaultEntries is how many directory entries a Cache holds by default: about 40 MB of them.
const DefaultEntries = 200_000

// NewCache returns a cache of at most max entries of directories, DefaultEntries if that is 0. store may be nil.
func NewCache(max int, store Store) *Cache {
	if max <= 0 {
		max = DefaultEntries
	}
	return &Cache{max: max, store: store, byID: map[string]*list.Element{}, order: list.New()}
}

// Snapshot returns the tree of a snapshot, whose root directory, a mount of it or a plain directory, is root. The tree
// keeps a descriptor of its own, which Close gives back.
func (c *Cache) Snapshot(id string, root *os.File) (*Snapshot, error) {
	rec, err := c.record(id)
	if err != nil {
		return nil, err
	}
	return newSnapshot(c, rec, root)
}

// Forget drops what is known of a snapshot, for when it has been removed.
func (c *Cache) Forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byID[id]; ok {
		c.dropLocked(el)
	}
}

func (c *Cache) record(id string) (*record, error) {
	c.mu.Lock()
	if el, ok := c.byID[id]; ok {
		c.order.MoveToFront(el)
		c.mu.Unlock()
		return el.Value.(*record), nil
	}
	c.mu.Unlock()

	rec := newRecord(id)
	if c.store != nil {
		data, err := c.store.Load(id)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("loading digests of snapshot %s: %w", id, err)
		}
		// What is damaged is computed again.
		rec.saved = decodeSums(data)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byID[id]; ok { // another was faster
		c.order.MoveToFront(el)
		return el.Value.(*record), nil
	}
	c.byID[id] = c.order.PushFront(rec)
	rec.held = len(rec.saved)
	c.total += rec.held
	c.trimLocked()
	return rec, nil
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
		c.dropLocked(c.order.Back())
	}
}

func (c *Cache) dropLocked(el *list.Element) {
	rec := el.Value.(*record)
	c.order.Remove(el)
	delete(c.byID, rec.id)
	c.total -= rec.held
}

// A record is what is known of one snapshot.
type record struct {
	id   string
	held int           // entries counted; guarded by Cache.mu
	busy chan struct{} // held by the one who hashes a directory, so that none is hashed twice at once

	mu    sync.Mutex
	dirs  map[string]*dirNode
	sums  map[string]solver.Digest // of files whose directories have not been listed
	saved map[string]solver.Digest // from the store; read-only
	dirty bool                     // there are digests that the store has not
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

const sumsMagic = "bbsums1\n"

// encodeLocked writes every digest that is known: sorted lines of a path's length, path and digest, and a checksum.
func (r *record) encodeLocked() []byte {
	all := maps.Clone(r.saved)
	if all == nil {
		all = map[string]solver.Digest{}
	}
	maps.Copy(all, r.sums)
	for dir, n := range r.dirs {
		if n.summed {
			all[dir+"/"] = n.sum
		}
		for i := range n.entries {
			if n.known[i] {
				all[n.entries[i].Path] = n.content[i]
			}
		}
	}
	b := []byte(sumsMagic)
	for _, p := range slices.Sorted(maps.Keys(all)) {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
		d := all[p]
		b = append(b, d[:]...)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// decodeSums reads what encodeLocked wrote, and returns nil for anything else.
func decodeSums(b []byte) map[string]solver.Digest {
	if len(b) < len(sumsMagic)+4 || string(b[:len(sumsMagic)]) != sumsMagic {
		return nil
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil
	}
	out := map[string]solver.Digest{}
	for s := string(body[len(sumsMagic):]); len(s) > 0; {
		n, w := binary.Uvarint([]byte(s[:min(len(s), binary.MaxVarintLen64)]))
		if w <= 0 || n > uint64(len(s)-w) || uint64(len(s)-w)-n < uint64(len(solver.Digest{})) {
			return nil
		}
		p := s[w : w+int(n)]
		s = s[w+int(n):]
		out[strings.Clone(p)] = solver.Digest([]byte(s[:len(solver.Digest{})]))
		s = s[len(solver.Digest{}):]
	}
	return out
}
