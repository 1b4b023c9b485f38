package images

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
)

var bucketDiffIDs = []byte("diffids.v3") // snapshot ID to Derived

// Derived is what is derived from a snapshot: what its layer's tar is.
type Derived struct {
	DiffID digest.Digest
	Size   int64 // of the tar, uncompressed, in bytes
	Files  int64 // sum of the sizes of its files, in bytes
	// LeftOut is a file of the snapshot that its layer cannot have; empty if there is none, or if images know the layer.
	LeftOut string `json:",omitempty"`
}

// layer returns the layer of which id is the top.
func (d Derived) layer(id snapshot.ID) image.Layer {
	return image.Layer{DiffID: d.DiffID, Snapshot: id, Size: d.Size, Files: d.Files}
}

// DiffIDs finds out the diff IDs of snapshots, in the background, a few at a time, each once. The answers are remembered
// in a database that need not be synced: what is lost is computed again, to the same bytes. The diff IDs of layers that
// came as tars are those of the tars, and are told with Set.
//
// Locks: mu guards running and is not held across I/O.
type DiffIDs struct {
	snapshots snapshot.Snapshotter
	images    *image.Store
	db        *bbolt.DB
	slots     *semaphore.Weighted
	ctx       context.Context //nolint:containedctx // ends with Close
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	running map[snapshot.ID]*walk // guarded by mu, as closed is
}

// A walk computes one diff ID.
type walk struct {
	done chan struct{}
	val  Derived
	err  error
}

func newDiffIDs(s Stores) (*DiffIDs, error) {
	err := s.Cache.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketDiffIDs)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening diff IDs: %w", err)
	}
	n := s.Walks
	if n <= 0 {
		n = 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &DiffIDs{
		snapshots: s.Snapshots, images: s.Images, db: s.Cache, slots: semaphore.NewWeighted(int64(n)),
		ctx: ctx, cancel: cancel, running: make(map[snapshot.ID]*walk),
	}, nil
}

// Start has the diff ID of id computed, unless it is known or being computed. It does not wait, not even for a disk.
func (d *DiffIDs) Start(id snapshot.ID) { d.start(id) }

func (d *DiffIDs) start(id snapshot.ID) *walk {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.running[id]
	if w != nil || d.closed {
		return w
	}
	w = &walk{done: make(chan struct{})}
	d.running[id] = w
	d.wg.Go(func() { d.run(id, w) })
	return w
}

func (d *DiffIDs) run(id snapshot.ID, w *walk) {
	fresh := false
	if w.val, fresh = d.lookup(id); !fresh {
		w.err = d.compute(id, w)
	}
	close(w.done)
	if w.err == nil && !fresh {
		d.remember(id, w.val)
	}
	d.mu.Lock()
	delete(d.running, id)
	d.mu.Unlock()
}

func (d *DiffIDs) compute(id snapshot.ID, w *walk) error {
	of, delta, err := d.original(id)
	if err != nil {
		return fmt.Errorf("computing the diff ID of snapshot %s: %w", id, err)
	}
	if of != "" && !delta.Loose {
		w.val, err = d.Wait(d.ctx, of)
		return err
	}
	if err := d.slots.Acquire(d.ctx, 1); err != nil {
		return err
	}
	defer d.slots.Release(1)
	h := &countHash{h: sha256.New()}
	var v Derived
	lacks := false
	opt := layer.DiffOptions{Files: &v.Files, LeftOut: &v.LeftOut, TimeOnly: &lacks}
	if err := layer.DiffSnapshot(d.ctx, d.snapshots, id, h, opt); err != nil {
		return fmt.Errorf("computing the diff ID of snapshot %s: %w", id, err)
	}
	if known, ok := d.lookup(of); ok && of != "" && !lacks {
		w.val = known
		return nil
	}
	v.DiffID, v.Size = digest.NewDigest(digest.SHA256, h.h), h.n
	w.val = v
	return nil
}

// original returns the snapshot whose layer the one of id is a copy of, or "". The copy's tar is that one's, also where that
// came as a tar which nobody here could write again; unless the copy is a loose one and lacks something.
func (d *DiffIDs) original(id snapshot.ID) (of snapshot.ID, delta snapshot.Delta, err error) {
	info, err := d.snapshots.Stat(d.ctx, id)
	if err != nil || info.Delta.Upper == "" {
		return "", info.Delta, err
	}
	var windows []bool
	upper, err := d.snapshots.Stat(d.ctx, info.Delta.Upper)
	if err != nil || upper.Parent != info.Delta.Lower || upper.Delta != (snapshot.Delta{}) {
		return "", info.Delta, err
	}
	for _, id := range []snapshot.ID{upper.ID, id} {
		is, err := layer.IsWindows(d.ctx, d.snapshots, id)
		if err != nil {
			return "", info.Delta, err
		}
		windows = append(windows, is)
	}
	if windows[0] != windows[1] {
		return "", info.Delta, nil // the same files in another form
	}
	return upper.ID, info.Delta, nil
}

// Wait returns what is derived from id, computing it if need be.
func (d *DiffIDs) Wait(ctx context.Context, id snapshot.ID) (Derived, error) {
	if v, ok := d.lookup(id); ok {
		return v, nil
	}
	w := d.start(id)
	if w == nil {
		return Derived{}, fmt.Errorf("computing the diff ID of snapshot %s: %w", id, context.Canceled)
	}
	select {
	case <-w.done:
		return w.val, w.err
	case <-ctx.Done():
		return Derived{}, context.Cause(ctx)
	}
}

// Known returns what is derived from id if it has been computed or told.
func (d *DiffIDs) Known(id snapshot.ID) (Derived, bool) { return d.lookup(id) }

// lookup asks what remembers: images, since their word counts even if the cache has lost its own, and the cache.
func (d *DiffIDs) lookup(id snapshot.ID) (v Derived, ok bool) {
	if l, ok := d.images.Layer(id); ok {
		return Derived{DiffID: l.DiffID, Size: l.Size, Files: l.Files}, true
	}
	err := d.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketDiffIDs).Get([]byte(id))
		if b == nil {
			return nil
		}
		ok = true
		return json.Unmarshal(b, &v)
	})
	return v, ok && err == nil && v.DiffID != ""
}

// Set says what the tar was that the layer of id came as.
func (d *DiffIDs) Set(id snapshot.ID, v Derived) {
	if have, ok := d.lookup(id); ok && have.DiffID == v.DiffID {
		return
	}
	d.remember(id, v)
}

// remember records an answer. What cannot be recorded is computed again.
func (d *DiffIDs) remember(id snapshot.ID, v Derived) {
	b, err := json.Marshal(v)
	if err != nil {
		return
	}
	_ = d.db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucketDiffIDs).Put([]byte(id), b) })
}

// Forget drops the answer for a snapshot that has been removed.
func (d *DiffIDs) Forget(id snapshot.ID) {
	_ = d.db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucketDiffIDs).Delete([]byte(id)) })
}

// Close cancels what is being computed and waits for it.
func (d *DiffIDs) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.wg.Wait()
}
