package network

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/worker/network/link"
)

const (
	// quiet is how long no container must have gone until work is done that can wait: the kernel makes and removes devices
	// one at a time, and whoever starts a container would wait for its turn.
	quiet = 250 * time.Millisecond
	// lowStock is how many namespaces are kept ready even so.
	lowStock = 2
	// maxDead is how many namespaces wait to be removed at most.
	maxDead = 64
	// patience is how long the kernel has to remove the devices of a namespace that nobody has any more, which it does for
	// many at a time. What is there then is removed by name: somebody else holds the namespace.
	patience = 2 * time.Second
)

// A grave removes namespaces that were used, many at a time, when nobody is kept waiting by it.
type grave struct {
	host *link.Host
	warn func(error)
	wake chan struct{}

	mu   sync.Mutex
	dead []dead // guarded by mu
}

type dead struct {
	key   string
	veths []string
}

func newGrave(h *link.Host, warn func(error)) *grave {
	return &grave{host: h, warn: warn, wake: make(chan struct{}, 1)}
}

func (g *grave) add(key string, veths []string) {
	g.mu.Lock()
	g.dead = append(g.dead, dead{key, veths})
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *grave) take() []dead {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.dead
	g.dead = nil
	return out
}

func (g *grave) full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.dead) >= maxDead
}

// dig removes what is added until ctx ends, and then all that is left.
func (g *grave) dig(ctx context.Context) {
	calm := time.NewTimer(quiet)
	defer calm.Stop()
	var late []string // veths that the kernel is to have removed
	for {
		select {
		case <-g.wake:
			if calm.Reset(quiet); !g.full() {
				continue
			}
		case <-calm.C:
		case <-ctx.Done():
			for _, d := range g.take() {
				late = append(late, d.veths...)
				g.unpin(d)
			}
			g.removeVeths(late)
			return
		}
		due := late
		late = nil
		for _, d := range g.take() {
			late = append(late, d.veths...)
			g.unpin(d)
		}
		g.removeVeths(due)
		if len(late) > 0 {
			calm.Reset(patience)
		}
	}
}

func (g *grave) unpin(d dead) {
	if err := link.Unpin(d.key); err != nil {
		g.warn(err)
	}
}

func (g *grave) removeVeths(list []string) {
	var errs []error
	for _, v := range list {
		errs = append(errs, g.host.RemoveVeth(v))
	}
	if err := errors.Join(errs...); err != nil {
		g.warn(err)
	}
}
