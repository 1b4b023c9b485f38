package network

import (
	"context"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/worker/network/link"
)

const (
	// quiet is how long nothing must have happened until work is done that can wait: the kernel makes and removes devices
	// one at a time, and whoever starts a container would wait for its turn.
	quiet = 250 * time.Millisecond
	// low is how many namespaces are kept ready even so.
	low = 2
)

// A stock keeps namespaces ready: a few always, and all of its size when nobody has asked for one lately.
type stock struct {
	make    func() (*link.Namespace, error)
	ready   chan *link.Namespace
	taken   chan struct{} // has an element when the stock may not be full
	started sync.Once
}

func newStock(size int, make_ func() (*link.Namespace, error)) *stock {
	return &stock{make: make_, ready: make(chan *link.Namespace, size), taken: make(chan struct{}, 1)}
}

// fill keeps the stock full until ctx ends.
func (s *stock) fill(ctx context.Context) {
	calm := time.NewTimer(0)
	defer calm.Stop()
	for ctx.Err() == nil {
		if len(s.ready) < min(low, cap(s.ready)) && s.add() {
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

// add makes one more. If that fails, take has the error when it tries itself.
func (s *stock) add() bool {
	n, err := s.make()
	if err == nil {
		s.ready <- n // there is room: nobody else fills
	}
	return err == nil
}

// take returns a namespace that is ready, or makes one.
func (s *stock) take() (*link.Namespace, error) {
	defer func() {
		select {
		case s.taken <- struct{}{}:
		default:
		}
	}()
	select {
	case n := <-s.ready:
		return n, nil
	default:
		return s.make()
	}
}

// close closes what is ready. Nothing may fill or take any more.
func (s *stock) close() {
	for {
		select {
		case n := <-s.ready:
			n.Close()
		default:
			return
		}
	}
}
