package container

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// lazily is how long what nobody waits for may stay unwritten. A container that was run and removed within it costs no
// transaction beyond that of its creation.
const lazily = 200 * time.Millisecond

// A recorder writes records in synced transactions: all that is there to be written in one, whoever waits for it. It owns
// a goroutine until close.
type recorder struct {
	update func(func(*bbolt.Tx) error) error // the database's
	log    *slog.Logger

	wake chan struct{} // has room for one
	quit chan struct{}
	done chan struct{}

	mu     sync.Mutex // guards what follows
	next   *batch
	timer  *time.Timer // for what nobody waits for; nil if there is nothing
	closed bool        // nothing is written any more
}

// A batch is what one transaction writes: a record, or nil where one is to be deleted, by ID.
type batch struct {
	records map[string][]byte
	done    chan struct{}
	err     error // set before done is closed
}

func newBatch() *batch { return &batch{records: make(map[string][]byte), done: make(chan struct{})} }

func newRecorder(db *bbolt.DB, log *slog.Logger) (*recorder, error) {
	err := db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucket) == nil {
			return errNoBucket
		}
		return nil
	})
	if err != nil {
		if err := db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(bucket)
			return err
		}); err != nil {
			return nil, err
		}
	}
	r := &recorder{
		update: db.Update, log: log, next: newBatch(),
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	go r.run()
	return r, nil
}

var errNoBucket = fmt.Errorf("no bucket %s", bucket)

// put has rec written, and returns when that is on the disk.
func (r *recorder) put(rec *record) error {
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return r.write(rec.ID, raw)
}

// remove has the record of id deleted, and returns when that is on the disk.
func (r *recorder) remove(id string) error { return r.write(id, nil) }

func (r *recorder) write(id string, raw []byte) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return errClosing
	}
	b := r.next
	b.records[id] = raw
	r.mu.Unlock()
	r.poke()
	<-b.done
	return b.err
}

// note has rec written soon. Nobody waits, and nothing is lost by that which could not be found out again.
func (r *recorder) note(rec *record) error {
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	r.later(rec.ID, raw)
	return nil
}

// forget is remove that nobody waits for.
func (r *recorder) forget(id string) { r.later(id, nil) }

func (r *recorder) later(id string, raw []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next.records[id] = raw
	if r.timer == nil {
		r.timer = time.AfterFunc(lazily, r.poke)
	}
}

func (r *recorder) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *recorder) run() {
	defer close(r.done)
	for {
		select {
		case <-r.quit:
			r.flush()
			return
		case <-r.wake:
			r.flush()
		}
	}
}

func (r *recorder) flush() {
	r.mu.Lock()
	b := r.next
	r.next = newBatch()
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.mu.Unlock()
	if len(b.records) > 0 {
		b.err = r.update(func(tx *bbolt.Tx) error {
			bk := tx.Bucket(bucket)
			for id, raw := range b.records {
				if err := apply(bk, id, raw); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if b.err != nil {
		b.err = fmt.Errorf("writing the records of containers: %w", b.err)
		r.log.Error("what has become of containers is not written down", "error", b.err)
		r.again(b)
	}
	close(b.done)
}

func apply(bk *bbolt.Bucket, id string, raw []byte) error {
	if raw == nil {
		return bk.Delete([]byte(id))
	}
	return bk.Put([]byte(id), raw)
}

// again keeps what could not be written for the next transaction, unless there is something newer.
func (r *recorder) again(b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	newer := r.next.records
	r.next.records = b.records
	maps.Copy(r.next.records, newer)
}

// close writes what is left.
func (r *recorder) close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	close(r.quit)
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.next.records) > 0 {
		return errUnwritten
	}
	return nil
}

var errUnwritten = fmt.Errorf("what has become of containers could not be written down")
