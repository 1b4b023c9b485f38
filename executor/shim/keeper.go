package shim

import (
	"context"
	"fmt"
	"sync"

	"github.com/boxbuild/boxbuild/executor"
)

// A Keeper is an executor that has a shim for as long as it is open: when one has ended, as by the kernel's hand when
// memory is short, the next sandbox gets a new one. What ran in the old one has ended with it, and is not started again.
type Keeper struct {
	opts Options
	turn chan struct{} // held while a shim is replaced

	mu      sync.Mutex
	current *Executor // guarded by mu
	closed  bool      // guarded by mu
}

var _ executor.Executor = (*Keeper)(nil)

// Keep starts a shim. ctx bounds the start only.
func Keep(ctx context.Context, opts Options) (*Keeper, error) {
	e, err := Start(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &Keeper{opts: opts, turn: make(chan struct{}, 1), current: e}, nil
}

// Start implements executor.Executor.
func (k *Keeper) Start(ctx context.Context, spec *executor.Spec, rw executor.IO) (executor.Sandbox, error) {
	e, err := k.living(ctx)
	if err != nil {
		return nil, err
	}
	return e.Start(ctx, spec, rw)
}

// living returns an executor whose shim has not ended, as far as can be known.
func (k *Keeper) living(ctx context.Context) (*Executor, error) {
	if e, err := k.get(); err != nil || !e.over() {
		return e, err
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	old, err := k.get()
	if err != nil || !old.over() {
		return old, err // somebody else was faster
	}
	// Its cgroups are the new one's too, so all of it has to be gone.
	if err := old.Close(); err != nil {
		return nil, fmt.Errorf("clearing away after boxshim: %w", err)
	}
	e, err := Start(ctx, k.opts)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = e
	return e, nil
}

func (k *Keeper) get() (*Executor, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, ErrClosed
	}
	return k.current, nil
}

// over says whether the shim has ended. It is known before anybody is told.
func (e *Executor) over() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls == nil
}

// Close ends every sandbox and the shim. It is idempotent.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.turn <- struct{}{} // whoever replaces the shim has done so
	defer func() { <-k.turn }()
	k.mu.Lock()
	e := k.current
	k.mu.Unlock()
	return e.Close()
}
