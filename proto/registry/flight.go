package registry

import (
	"context"
	"sync"
)

// A flight does equal work once: calls of do with the same key while one is under way share its result. The work's
// context carries the values of the first caller's, and is cancelled when the last caller has left.
//
// The zero flight is ready for use.
type flight[K comparable, V any] struct {
	mu    sync.Mutex // guards calls and the counts in them
	calls map[K]*call[V]
	wg    sync.WaitGroup // one for each goroutine of do
}

type call[V any] struct {
	waiters int
	cancel  context.CancelFunc
	done    chan struct{} // closed once value and err are set
	value   V
	err     error
}

// do returns what work returns, or ctx's cause if that ends first.
func (f *flight[K, V]) do(ctx context.Context, key K, work func(context.Context) (V, error)) (V, error) {
	f.mu.Lock()
	c, ok := f.calls[key]
	if !ok {
		if f.calls == nil {
			f.calls = map[K]*call[V]{}
		}
		c = f.startLocked(ctx, key, work)
	}
	c.waiters++
	f.mu.Unlock()

	select {
	case <-c.done:
		f.leave(key, c)
		return c.value, c.err
	case <-ctx.Done():
		f.leave(key, c)
		var zero V
		return zero, context.Cause(ctx)
	}
}

// startLocked begins the work of a key in a goroutine that wait waits for.
func (f *flight[K, V]) startLocked(ctx context.Context, key K, work func(context.Context) (V, error)) *call[V] {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &call[V]{cancel: cancel, done: make(chan struct{})}
	f.calls[key] = c
	f.wg.Go(func() {
		c.value, c.err = work(inner)
		f.mu.Lock()
		if f.calls[key] == c {
			delete(f.calls, key)
		}
		f.mu.Unlock()
		cancel()
		close(c.done)
	})
	return c
}

// leave takes one waiter off c and cancels it when none is left. A cancelled call is forgotten at once, so that whoever
// comes next does not join work that is about to fail.
func (f *flight[K, V]) leave(key K, c *call[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.waiters--
	if c.waiters > 0 {
		return
	}
	if f.calls[key] == c {
		delete(f.calls, key)
	}
	c.cancel()
}

// wait waits until no work is under way.
func (f *flight[K, V]) wait() { f.wg.Wait() }
