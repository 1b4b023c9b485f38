package netns

import (
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
	// quiet is how long no namespace must have come until those that did are closed.
	quiet = 250 * time.Millisecond
	// reserve is how many times as many namespaces are kept ready when nobody has asked for one lately. So a build of that
	// many steps, which needs the processors itself, is not slowed down by the making of namespaces.
	reserve = 8
	// maxSpent is how many namespaces that were used wait to be closed at most.
	maxSpent = 16
)

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
