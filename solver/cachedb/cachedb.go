// Package cachedb is a solver.Cache on bbolt: what the results of a key were, with what the key is the hash of, when it
// was last of use and what it cost to compute.
//
// # Durability
//
// It is a cache: it may lose the last seconds at a power cut, but is never wrong. Put and Describe return when memory
// has the record; one goroutine writes what has come together in the meantime, in one transaction that is not synced,
// usually within a millisecond; another syncs the file every few seconds. Reads see what has not been written.
//
// A process that is killed loses what is in memory, and nothing else: bbolt writes pages that nothing refers to and then
// the meta page that does, and the kernel's page cache outlives the process. A power cut is another matter, as pages of
// transactions that were not synced reach the disk in any order, over pages that the last synced one still uses. So
// Open keeps a note beside the file that says which boot of the machine has it open. When that was an earlier one and
// it was not closed, all records that can still be read are copied to a new file. Each record has a checksum of its key
// and value, so whatever is read is what was written for that key. A file that cannot be read at all is moved aside.
//
// # Life cycle and locks
//
// Open or New starts the two goroutines and Close ends them, after a last write. Cache.mu guards the maps in memory and
// is never held during I/O; writing, a channel of one token, is held by whoever writes to the file and is taken first.
package cachedb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/solver"
)

// syncEvery is how much may be lost at a power cut, and how long uses are counted in memory.
const syncEvery = 5 * time.Second

// A Record is what the cache knows of a key.
type Record struct {
	solver.Record
	Key      solver.Key
	Results  []solver.Result
	Created  time.Time // when it was put last, to the second
	LastUsed time.Time // when it was put or got last, to the second
	Uses     int       // how often it was got
}

// A Cache is a solver.Cache and a solver.Describer. It is safe for concurrent use.
type Cache struct {
	db      *bbolt.DB
	onClose func() error  // what Close does at the end
	writing chan struct{} // has a token while somebody writes to the file
	dirty   chan struct{} // has a token when there is something to write
	stop    chan struct{}
	tasks   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	pending  batch      // to be written
	flushing batch      // being written; read after pending
	unsynced bool       // something has been written since the last sync
	closed   bool
}

var (
	_ solver.Cache     = (*Cache)(nil)
	_ solver.Describer = (*Cache)(nil)
)

// A batch is changes that are written together.
type batch map[solver.Key]*change

// A change is what has happened to a record since it was written last.
type change struct {
	put       bool
	results   []solver.Result // if put
	described bool
	desc      solver.Record // if described
	at        time.Time     // when it was put or got last
	uses      int           // how often it was got
}

// New returns a Cache in db, which may hold other things as well. The caller closes db after the Cache, and sees to it
// that db is whole; the checksums of single records are checked all the same.
func New(db *bbolt.DB) (*Cache, error) {
	if err := makeBuckets(db); err != nil {
		return nil, fmt.Errorf("preparing the cache: %w", err)
	}
	c := &Cache{
		db:      db,
		onClose: func() error { return nil },
		writing: make(chan struct{}, 1),
		dirty:   make(chan struct{}, 1),
		stop:    make(chan struct{}),
		pending: make(batch),
	}
	c.tasks.Go(c.write)
	c.tasks.Go(c.sync)
	return c, nil
}

func makeBuckets(db *bbolt.DB) error {
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{recordsBucket, usesBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// Get implements solver.Cache. A record that is damaged is none.
func (c *Cache) Get(_ context.Context, k solver.Key) ([]solver.Result, error) {
	c.mu.Lock()
	out, ok := c.recentLocked(k)
	if ok {
		c.touchLocked(k)
	}
	c.mu.Unlock()
	if ok {
		return out, nil
	}
	err := c.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(recordsBucket).Get(k[:])
		if v == nil {
			return solver.ErrMiss
		}
		rec, err := decodeRecord(k, v, resultsOnly)
		if err != nil {
			slog.Warn("a cache record is damaged", "key", k.Short(), "err", err)
			return solver.ErrMiss
		}
		out = rec.Results
		return nil
	})
	switch {
	case errors.Is(err, solver.ErrMiss):
		return nil, solver.ErrMiss
	case err != nil:
		return nil, fmt.Errorf("reading cache record %s: %w", k.Short(), err)
	}
	c.mu.Lock()
	c.touchLocked(k)
	c.mu.Unlock()
	return out, nil
}

// recentLocked returns the results of k if they are not in the file yet.
func (c *Cache) recentLocked(k solver.Key) ([]solver.Result, bool) {
	for _, b := range []batch{c.pending, c.flushing} {
		if ch := b[k]; ch != nil && ch.put {
			return append([]solver.Result{}, ch.results...), true
		}
	}
	return nil, false
}

// touchLocked notes a use of k. It is written with whatever is written next, or when the file is synced.
func (c *Cache) touchLocked(k solver.Key) {
	ch := c.changeLocked(k)
	ch.uses++
	ch.at = time.Now()
}

func (c *Cache) changeLocked(k solver.Key) *change {
	ch := c.pending[k]
	if ch == nil {
		ch = &change{at: time.Now()}
		c.pending[k] = ch
	}
	return ch
}

// Put implements solver.Cache. It does not wait for the disk, and its error is always nil unless c is closed.
func (c *Cache) Put(_ context.Context, k solver.Key, out []solver.Result) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	ch := c.changeLocked(k)
	ch.put, ch.results, ch.at = true, slices.Clone(out), time.Now()
	c.wakeLocked()
	return nil
}

var errClosed = errors.New("the cache is closed")

// Describe implements solver.Describer. The description of a key that is never put is forgotten. A description without
// a duration leaves the one that is there, since it comes from a build that found the result and did not compute it.
func (c *Cache) Describe(_ context.Context, k solver.Key, rec solver.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	ch := c.changeLocked(k)
	ch.described, ch.desc = true, rec
	c.wakeLocked()
}

func (c *Cache) wakeLocked() {
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// Close writes what is in memory, syncs the file and ends the Cache. It closes the file if Open has opened it.
func (c *Cache) Close() error {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	if was {
		return nil
	}
	close(c.stop)
	c.tasks.Wait()
	return errors.Join(c.Flush(context.Background()), c.onClose())
}
