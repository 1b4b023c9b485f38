package netns

import (
	"context"
	"os"
	"sync"
	"time"
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

const (
	// quiet is how long nothing must have been asked for until work is done that can wait.
	quiet = 250 * time.Millisecond
	// reserve is how many times its size a stock grows to when it is quiet.
	reserve = 8
	// maxSpent is how many namespaces that were used wait to be closed at most.
	maxSpent = 16
)

// A stock keeps namespaces ready: size of them always, and reserve times as many when nobody has asked for one lately. So
// a build of that many steps, which needs the processors itself, is not slowed down by the making of namespaces.
type stock struct {
	size    int
	make    func() (*namespace, error)
	ready   chan *namespace
	taken   chan struct{} // has an element when the stock may not be full
	started sync.Once
}

func newStock(size int, make_ func() (*namespace, error)) *stock {
	return &stock{
		size: size, make: make_, ready: make(chan *namespace, size*reserve), taken: make(chan struct{}, 1),
	}
}

// start begins to keep the stock full, until ctx ends.
func (s *stock) start(ctx context.Context, work *sync.WaitGroup) {
	s.started.Do(func() { work.Go(func() { s.fill(ctx) }) })
}

func (s *stock) fill(ctx context.Context) {
	calm := time.NewTimer(quiet)
	defer calm.Stop()
	for ctx.Err() == nil {
		if len(s.ready) < s.size && s.add() {
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

// A grave closes namespaces that were used, many at a time: the kernel waits for the same grace periods for one as for
// many, and a build has better use for the processors.
type grave struct {
	mu    sync.Mutex
	spent []*namespace // guarded by mu, as timer is
	timer *time.Timer
}

// add has n closed some time later.
func (g *grave) add(n *namespace) {
	g.mu.Lock()
	g.spent = append(g.spent, n)
	full := len(g.spent) >= maxSpent
	switch {
	case full:
	case g.timer == nil:
		g.timer = time.AfterFunc(quiet, g.empty)
	default:
		g.timer.Reset(quiet)
	}
	g.mu.Unlock()
	if full {
		g.empty()
	}
}

// empty closes what was added.
func (g *grave) empty() {
	g.mu.Lock()
	spent := g.spent
	g.spent = nil
	g.mu.Unlock()
	for _, n := range spent {
		n.close()
	}
}
