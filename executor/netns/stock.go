package netns

import (
	"context"
	"os"
	"sync"
)

// A namespace is one that a sandbox can have.
type namespace struct {
	file *os.File
	free func() // gives its address back; may be nil
	once sync.Once
}

// close lets the namespace go. The kernel removes it, with its devices, once no process is in it.
func (n *namespace) close() {
	n.once.Do(func() {
		n.file.Close()
		if n.free != nil {
			n.free()
		}
	})
}

// A stock keeps namespaces ready.
type stock struct {
	make    func() (*namespace, error)
	ready   chan *namespace
	taken   chan struct{} // has an element when the stock may not be full
	started sync.Once
}

func newStock(size int, make_ func() (*namespace, error)) *stock {
	return &stock{make: make_, ready: make(chan *namespace, size), taken: make(chan struct{}, 1)}
}

// start begins to keep the stock full, until ctx ends.
func (s *stock) start(ctx context.Context, work *sync.WaitGroup) {
	s.started.Do(func() { work.Go(func() { s.fill(ctx) }) })
}

func (s *stock) fill(ctx context.Context) {
	for {
		for len(s.ready) < cap(s.ready) && ctx.Err() == nil {
			n, err := s.make()
			if err != nil {
				break // take has the error, when it tries itself
			}
			s.ready <- n // there is room: nobody else fills
		}
		select {
		case <-s.taken:
		case <-ctx.Done():
			return
		}
	}
}

// take returns a namespace that is ready, or makes one.
func (s *stock) take() (*namespace, error) {
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
			n.close()
		default:
			return
		}
	}
}
