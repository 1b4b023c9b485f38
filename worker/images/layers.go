package images

import (
	"context"
	"errors"
	"sync"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
)

// Stores are where layers live.
type Stores struct {
	Snapshots snapshot.Snapshotter
	Blobs     *blob.Store
	Images    *image.Store
	// Cache is the database that need not be synced; the diff IDs of snapshots are remembered there.
	Cache *bbolt.DB
	// Compressor compresses layers; nil for one of its own.
	Compressor *layer.Compressor
	// Limits bound what is taken from a layer's tar.
	Limits layer.Limits
	// Walks is how many diff IDs are computed at once; 0 means 2.
	Walks int
}

// Layers turns blobs into snapshots and snapshots into blobs, each once. It is safe for concurrent use. Close ends it.
type Layers struct {
	Stores
	// DiffIDs computes the diff IDs of snapshots.
	DiffIDs *DiffIDs

	unpacks flights[snapshot.ID, image.Layer] // by chainSnapshot
	packs   flights[packKey, exporter.Descriptor]
}

// packKey names a blob that is being made.
type packKey struct {
	diffID digest.Digest
	form   exporter.Form
}

// NewLayers returns Layers on stores.
func NewLayers(s Stores) (*Layers, error) {
	if s.Compressor == nil {
		s.Compressor = layer.NewCompressor(0)
	}
	d, err := newDiffIDs(s)
	if err != nil {
		return nil, err
	}
	return &Layers{Stores: s, DiffIDs: d}, nil
}

// Close stops what is computed in the background and waits for it.
func (l *Layers) Close() { l.DiffIDs.Close() }

// hold keeps item alive for the lease that ctx carries; without one nothing is held. An error wraps snapshot.ErrNotFound.
func hold(ctx context.Context, item lease.Item) error {
	if l := lease.From(ctx); l != nil {
		return l.Hold(ctx, item)
	}
	return nil
}

// reserve is hold for what is about to be made.
func reserve(ctx context.Context, item lease.Item) error {
	if l := lease.From(ctx); l != nil {
		return l.Reserve(ctx, item)
	}
	return nil
}

// blobItem names a blob for a lease.
func blobItem(d digest.Digest) lease.Item { return lease.Item{Kind: lease.Blob, Name: string(d)} }

// flights run one function at a time for each key, for everybody who wants its result. The function's context ends when
// the last of them has gone.
type flights[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]*flight[V] // guarded by mu
}

type flight[V any] struct {
	waiters int  // guarded by flights.mu, as left is
	left    bool // cancelled, since all have gone
	cancel  context.CancelCauseFunc
	done    chan struct{}
	val     V
	err     error
}

// do returns what fn returns, calling it unless a call for k is under way. It returns early if ctx is done. A flight that
// failed because those who wanted it left before is tried again.
func (f *flights[K, V]) do(ctx context.Context, k K, fn func(ctx context.Context) (V, error)) (V, error) {
	for {
		val, err, again := f.join(ctx, k, fn)
		if !again {
			return val, err
		}
	}
}

var errLeft = errors.New("nobody waits for it any more")

func (f *flights[K, V]) join(ctx context.Context, k K, fn func(ctx context.Context) (V, error)) (val V, err error, again bool) { //nolint:revive // the flag belongs to both
	f.mu.Lock()
	fl := f.m[k]
	if fl == nil {
		fl = &flight[V]{done: make(chan struct{})}
		var fctx context.Context
		// The lease is the caller's, who may leave; everybody who waits holds for himself.
		fctx, fl.cancel = context.WithCancelCause(lease.With(context.WithoutCancel(ctx), nil))
		if f.m == nil {
			f.m = make(map[K]*flight[V])
		}
		f.m[k] = fl
		go func() {
			fl.val, fl.err = fn(fctx)
			f.mu.Lock()
			delete(f.m, k)
			f.mu.Unlock()
			fl.cancel(nil)
			close(fl.done)
		}()
	}
	fl.waiters++
	f.mu.Unlock()

	select {
	case <-fl.done:
		f.mu.Lock()
		again = fl.left && fl.err != nil && ctx.Err() == nil
		f.mu.Unlock()
		return fl.val, fl.err, again
	case <-ctx.Done():
	}
	f.mu.Lock()
	fl.waiters--
	last := fl.waiters == 0
	if last {
		fl.left = true
		fl.cancel(errLeft)
	}
	f.mu.Unlock()
	if last {
		<-fl.done // what was started for us has ended when we return
	}
	return val, context.Cause(ctx), false
}
