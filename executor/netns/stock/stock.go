// Package stock keeps things ready that take the kernel long to make, such as network namespaces: some always, and more of
// them when nobody has asked for one lately.
//
// A Stock is filled by one goroutine (Fill) until its context ends; then Close lets go of what is left. It holds no lock.
package stock

import (
	"context"
	"time"
)

// quiet is how long nothing must have been asked for until work is done that can wait. The kernel makes and removes network
// devices one at a time, and whoever starts a process would wait for its turn.
const quiet = 250 * time.Millisecond

// Options say how much is kept ready.
type Options struct {
	Low  int // always
	High int // when it is quiet: a burst of that many does not slow itself down by making them
}

// A Stock keeps things of one kind ready. Its methods are safe for concurrent use.
type Stock[T any] struct {
	low   int
	make  func() (T, error)
	ready chan T
	taken chan struct{} // has an element when the stock may not be full
}

// New returns an empty stock of what produce makes.
func New[T any](opts Options, produce func() (T, error)) *Stock[T] {
	return &Stock[T]{
		low: min(opts.Low, opts.High), make: produce, ready: make(chan T, opts.High), taken: make(chan struct{}, 1),
	}
}

// Fill keeps the stock full until ctx ends. It is called once.
func (s *Stock[T]) Fill(ctx context.Context) {
	calm := time.NewTimer(quiet)
	defer calm.Stop()
	for ctx.Err() == nil {
		if len(s.ready) < s.low && s.add() {
			continue
		}
		select {
		case <-s.taken:
			calm.Reset(quiet)
		case <-calm.C:
			for len(s.taken) == 0 && len(s.ready) < cap(s.ready) && ctx.Err() == nil && s.add() {
			}
		case <-ctx.Done():
		}
	}
}

// add makes one more. If that fails, Take has the error when it tries itself.
func (s *Stock[T]) add() bool {
	t, err := s.make()
	if err == nil {
		s.ready <- t // there is room: nobody else fills
	}
	return err == nil
}

// Take returns one that is ready, or makes one; its error is that of the making.
func (s *Stock[T]) Take() (T, error) {
	defer func() {
		select {
		case s.taken <- struct{}{}:
		default:
		}
	}()
	select {
	case t := <-s.ready:
		return t, nil
	default:
		return s.make()
	}
}

// Ready returns how many are ready.
func (s *Stock[T]) Ready() int { return len(s.ready) }

// Close hands what is ready to let go of it. Nothing may fill or take any more.
func (s *Stock[T]) Close(release func(T)) {
	for {
		select {
		case t := <-s.ready:
			release(t)
		default:
			return
		}
	}
}
