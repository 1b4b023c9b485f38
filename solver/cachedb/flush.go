package cachedb

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/solver"
)

// write is the goroutine that takes what is in memory to the file. What comes while it writes is written together.
func (c *Cache) write() {
	for {
		select {
		case <-c.stop:
			return
		case <-c.dirty:
			c.writing <- struct{}{}
			if err := c.writeOut(); err != nil {
				slog.Warn("cache records were not written", "err", err)
			}
			<-c.writing
		}
	}
}

// sync is the goroutine that sees to it that what has been written gets to the disk. It does not hold writers up.
func (c *Cache) sync() {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		if len(c.pending) > 0 {
			c.wakeLocked() // uses; they will be synced the next time
		}
		unsynced := c.unsynced
		c.unsynced = false
		c.mu.Unlock()
		if !unsynced {
			continue
		}
		if err := c.db.Sync(); err != nil {
			slog.Warn("the cache was not synced", "err", err)
		}
	}
}

// Flush writes what is in memory and syncs the file.
func (c *Cache) Flush(ctx context.Context) error {
	if err := c.lockFile(ctx); err != nil {
		return err
	}
	defer c.unlockFile()
	if err := c.writeOut(); err != nil {
		return err
	}
	if err := c.db.Sync(); err != nil {
		return fmt.Errorf("syncing the cache: %w", err)
	}
	return nil
}

func (c *Cache) lockFile(ctx context.Context) error {
	select {
	case c.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Cache) unlockFile() { <-c.writing }

// writeOut writes one batch. The caller holds the writing token. A batch that cannot be written is lost: the records
// that it would have replaced are as good as they were.
func (c *Cache) writeOut() error {
	c.mu.Lock()
	b := c.pending
	c.pending, c.flushing = make(batch), b
	c.mu.Unlock()
	if len(b) == 0 {
		return nil
	}
	err := c.db.Update(func(tx *bbolt.Tx) error {
		for k, ch := range b {
			if err := ch.write(tx, k); err != nil {
				return err
			}
		}
		return nil
	})
	c.mu.Lock()
	c.flushing = nil
	c.unsynced = true
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("writing %d cache records: %w", len(b), err)
	}
	return nil
}

// write applies the change to the record of k.
func (ch *change) write(tx *bbolt.Tx, k solver.Key) error {
	records, uses := tx.Bucket(recordsBucket), tx.Bucket(usesBucket)
	old, err := readRecord(tx, k)
	if err != nil && !ch.put {
		return nil // there is nothing to describe or use: it was dropped, or is damaged
	}
	rec := ch.apply(old)
	if ch.put || ch.described {
		if err := records.Put(k[:], encodeRecord(k, &rec)); err != nil {
			return err
		}
	}
	return uses.Put(k[:], encodeUse(k, rec.LastUsed, rec.Uses))
}

// apply returns the record as it is after the change. What is not known of the old one is zero.
func (ch *change) apply(rec Record) Record {
	if ch.put {
		rec.Results, rec.Created = ch.results, ch.at
	}
	if ch.described {
		took := rec.Duration
		rec.Record = ch.desc
		if rec.Duration == 0 {
			rec.Duration = took
		}
	}
	rec.LastUsed = ch.at
	rec.Uses += ch.uses
	return rec
}
