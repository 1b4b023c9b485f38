package cachedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/solver"
)

// page is how many records are read in one transaction: an open one keeps the file from reusing space.
const page = 256

// Lookup returns what is known of k, or solver.ErrMiss. It does not count as a use.
func (c *Cache) Lookup(ctx context.Context, k solver.Key) (rec Record, err error) {
	if err := c.lockFile(ctx); err != nil {
		return Record{}, err
	}
	defer c.unlockFile()
	if err := c.writeOut(); err != nil {
		return Record{}, err
	}
	err = c.db.View(func(tx *bbolt.Tx) (err error) {
		rec, err = readRecord(tx, k)
		return err
	})
	if errors.Is(err, errDamaged) {
		err = solver.ErrMiss
	}
	return rec, err
}

// Records yields every record, in the order of their keys, with those that were put before the call and are not in the
// file yet. Damaged ones are left out. The loop's body may use the Cache. After an error there are no more.
func (c *Cache) Records(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := c.settle(ctx); err != nil {
			yield(Record{}, err)
			return
		}
		var after []byte
		for {
			recs, err := c.page(ctx, after)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if len(recs) == 0 {
				return
			}
			for _, rec := range recs {
				after = rec.Key[:]
				if rec.Results != nil && !yield(rec, nil) {
					return
				}
			}
		}
	}
}

// settle writes what is in memory, without a sync.
func (c *Cache) settle(ctx context.Context) error {
	if err := c.lockFile(ctx); err != nil {
		return err
	}
	defer c.unlockFile()
	return c.writeOut()
}

// page returns the records after the key after. One that is damaged has no results.
func (c *Cache) page(ctx context.Context, after []byte) (recs []Record, err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	err = c.db.View(func(tx *bbolt.Tx) error {
		cur := tx.Bucket(recordsBucket).Cursor()
		k, _ := cur.Seek(after)
		if after != nil && bytes.Equal(k, after) {
			k, _ = cur.Next()
		}
		for ; k != nil && len(recs) < page; k, _ = cur.Next() {
			if len(k) != len(solver.Key{}) {
				continue
			}
			rec, err := readRecord(tx, solver.Key(k))
			if err != nil {
				rec.Results = nil
			}
			recs = append(recs, rec)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading cache records: %w", err)
	}
	return recs, nil
}

// Drop deletes the records for which drop returns true, and returns how many those were. The record may be in use: a
// build that has got it holds its results by other means. drop must not use the Cache.
func (c *Cache) Drop(ctx context.Context, drop func(Record) bool) (n int, err error) {
	if err := c.lockFile(ctx); err != nil {
		return 0, err
	}
	defer c.unlockFile() // until the end, so that no record changes after drop has seen it
	if err := c.writeOut(); err != nil {
		return 0, err
	}
	var after []byte
	for {
		recs, err := c.page(ctx, after)
		if err != nil || len(recs) == 0 {
			return n, err
		}
		after = recs[len(recs)-1].Key[:]
		var doomed []solver.Key
		for _, rec := range recs {
			if rec.Results == nil || drop(rec) {
				doomed = append(doomed, rec.Key)
			}
		}
		if err := c.delete(doomed); err != nil {
			return n, err
		}
		n += len(doomed)
	}
}

// Delete deletes the records of keys; one that does not exist is no error.
func (c *Cache) Delete(ctx context.Context, keys ...solver.Key) error {
	if err := c.lockFile(ctx); err != nil {
		return err
	}
	defer c.unlockFile()
	if err := c.writeOut(); err != nil {
		return err
	}
	return c.delete(keys)
}

func (c *Cache) delete(keys []solver.Key) error {
	if len(keys) == 0 {
		return nil
	}
	err := c.db.Update(func(tx *bbolt.Tx) error {
		for _, k := range keys {
			if err := tx.Bucket(recordsBucket).Delete(k[:]); err != nil {
				return err
			}
			if err := tx.Bucket(usesBucket).Delete(k[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("deleting %d cache records: %w", len(keys), err)
	}
	c.mu.Lock()
	c.unsynced = true
	c.mu.Unlock()
	return nil
}
