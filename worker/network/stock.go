package network

import (
	"context"
	"sync"

	"github.com/boxbuild/boxbuild/worker/network/link"
)

// A stock keeps namespaces ready.
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
	for ctx.Err() == nil {
		if len(s.ready) < cap(s.ready) {
			if n, err := s.make(); err == nil {
				s.ready <- n // there is room: nobody else fills
				continue
			}
			// Whoever takes one will see the error.
		}
		select {
		case <-s.taken:
		case <-ctx.Done():
		}
	}
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
