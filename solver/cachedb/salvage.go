package cachedb

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/solver"
)

// salvage copies every record that can be read and is whole to a new file, and puts that in the place of the old one.
// A copy is the only check that is worth the name: bbolt's own runs in goroutines where a fault cannot be caught, and a
// tree that can be read may still have a free list that hands out pages in use.
func salvage(path string) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("checking the cache: %w", err)
	}
	old, err := openFile(path, true)
	if isDamage(err) {
		return setAside(path, err)
	}
	if err != nil {
		return fmt.Errorf("checking the cache: %w", err)
	}
	good, damage, err := copyRecords(old, fresh)
	old.Close()
	if err != nil {
		os.Remove(fresh)
		return fmt.Errorf("checking the cache: %w", err)
	}
	if damage != nil {
		if err := setAside(path, damage); err != nil {
			return err
		}
	}
	slog.Info("the cache was checked", "path", path, "records", good)
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("replacing the cache by its copy: %w", err)
	}
	return nil
}

// copyRecords makes the file fresh of the records of old. What is wrong with old is returned as damage.
func copyRecords(old *bbolt.DB, fresh string) (good int, damage, err error) {
	db, err := openFile(fresh, false)
	if err != nil {
		return 0, nil, err
	}
	if err = makeBuckets(db); err != nil {
		db.Close()
		return 0, nil, err
	}
	var batch []Record
	damage = readAll(old, func(rec Record) bool {
		if batch = append(batch, rec); len(batch) == page {
			good += len(batch)
			err = putRecords(db, batch)
			batch = batch[:0]
		}
		return err == nil
	})
	if err == nil {
		good += len(batch)
		err = putRecords(db, batch)
	}
	return good, damage, errors.Join(err, db.Sync(), db.Close())
}

func putRecords(db *bbolt.DB, batch []Record) error {
	return db.Update(func(tx *bbolt.Tx) error {
		for _, rec := range batch {
			if err := tx.Bucket(recordsBucket).Put(rec.Key[:], encodeRecord(rec.Key, &rec)); err != nil {
				return err
			}
			if err := tx.Bucket(usesBucket).Put(rec.Key[:], encodeUse(rec.Key, rec.LastUsed, rec.Uses)); err != nil {
				return err
			}
		}
		return nil
	})
}

// readAll calls keep with each record that is whole, until it returns false, and returns what is wrong with the rest.
func readAll(db *bbolt.DB, keep func(Record) bool) (damage error) {
	defer catch(&damage)()
	return db.View(func(tx *bbolt.Tx) (damage error) {
		b := tx.Bucket(recordsBucket)
		if b == nil || tx.Bucket(usesBucket) == nil {
			return nil // it was not finished being made
		}
		left := tx.Size() / int64(len(solver.Key{})) // more there cannot be: the tree would have a loop
		cur := b.Cursor()
		for k, _ := cur.First(); k != nil; k, _ = cur.Next() {
			if left--; left < 0 || len(k) != len(solver.Key{}) {
				return errDamaged
			}
			rec, err := readRecord(tx, solver.Key(k))
			switch {
			case err != nil:
				damage = err
			case !keep(rec):
				return damage
			}
		}
		return damage
	})
}
