package filesync

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// DefaultEntries is how many directory entries a Cache holds by default: about 60 MB of them.
const DefaultEntries = 250_000

// tick is the time in which two changes of a file may get the same timestamp: two ticks of the slowest clock that the
// kernel can be built with.
const tick = 20 * time.Millisecond

// A Cache remembers what directories looked like, so that what has not changed need not be read again: in memory, and
// in files of a state directory. It is safe for concurrent use.
//
// A file is taken to be unchanged if its inode number, size, mode, link count and both timestamps are, and if the
// last of its changes lay far enough back when it was read.
type Cache struct {
	dir    string // state directory, or empty
	max    int
	window time.Duration // see racy
	now    func() time.Time

	saves sync.WaitGroup // the goroutines that write state files

	mu     sync.Mutex
	byKey  map[cacheKey]*list.Element // of *remembered
	order  *list.List                 // the last used first
	total  int
	saving map[cacheKey]*node // being written; the node is what to write next, nil if nothing is
}

// A cacheKey names what a walk depends on: which directory, and what was selected.
type cacheKey struct {
	path      string
	selection [sha256.Size]byte
}

type remembered struct {
	key  cacheKey
	root *node
}

// NewCache returns a cache that keeps at most max entries in memory, DefaultEntries if max is 0 (one directory that has
// more is kept too, if dir is empty), and its state files in dir, which is made when it is first written to. With an empty
// dir nothing is kept on disk. What is found there but damaged is ignored.
func NewCache(dir string, max int) *Cache {
	if max <= 0 {
		max = DefaultEntries
	}
	return &Cache{
		dir: dir, max: max, window: tick, now: time.Now,
		byKey: map[cacheKey]*list.Element{}, order: list.New(), saving: map[cacheKey]*node{},
	}
}

// Close waits until what is being written to the state directory has been.
func (c *Cache) Close() error {
	c.saves.Wait()
	return nil
}

// maxAlts is how many other selections of a directory are asked for a file that a selection has not seen.
const maxAlts = 4

// find returns the node that was remembered for a key, or nil, and those of other selections of the same directory.
func (c *Cache) find(k cacheKey) (prev *node, alts []*node) {
	prev, alts = c.recall(k)
	if prev != nil || c.dir == "" {
		return prev, alts
	}
	if len(alts) > 0 {
		if n := c.load(k); n != nil {
			c.remember(k, n)
			return n, alts
		}
		return nil, alts
	}
	for _, f := range c.states(k) {
		if f.exact {
			c.remember(k, f.root)
			return f.root, nil
		}
		alts = append(alts, f.root)
	}
	return nil, alts
}

func (c *Cache) recall(k cacheKey) (prev *node, alts []*node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[k]; ok {
		c.order.MoveToFront(el)
		return el.Value.(*remembered).root, nil
	}
	for el := c.order.Front(); el != nil && len(alts) < maxAlts; el = el.Next() {
		if r := el.Value.(*remembered); r.key.path == k.path {
			alts = append(alts, r.root)
		}
	}
	return nil, alts
}

// put remembers what a walk has found, and starts to write it out.
func (c *Cache) put(k cacheKey, root *node) {
	c.remember(k, root)
	if c.dir == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, busy := c.saving[k]; busy {
		c.saving[k] = root
		return
	}
	c.saving[k] = nil
	c.saves.Go(func() { c.save(k, root) })
}

func (c *Cache) remember(k cacheKey, root *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[k]; ok {
		c.dropLocked(el)
	}
	// A directory that is too big by itself stays on disk alone, if there is a place for it there.
	if root.size > c.max && c.dir != "" {
		return
	}
	c.byKey[k] = c.order.PushFront(&remembered{key: k, root: root})
	c.total += root.size
	for c.total > c.max && c.order.Len() > 1 {
		c.dropLocked(c.order.Back())
	}
}

func (c *Cache) dropLocked(el *list.Element) {
	r := el.Value.(*remembered)
	c.order.Remove(el)
	delete(c.byKey, r.key)
	c.total -= r.root.size
}

// fingerprint names a selection by its patterns, in order.
func fingerprint(include, exclude []string) [sha256.Size]byte {
	var b []byte
	for _, list := range [][]string{include, exclude} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, s := range list {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	return sha256.Sum256(b)
}
