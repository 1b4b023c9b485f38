package logfile

import (
	"bytes"
	"sync"
)

// A ring is where entries wait for the disk. It holds a bounded number of bytes: what finds it full is lost, so that who
// was logged first is kept, as by Docker's log mode non-blocking. Its goroutine ends with close.
type ring struct {
	limit int64
	write func([]entry) // called by the goroutine only
	ended chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	wake   *sync.Cond // of mu: there is something to write, or the end
	queue  []entry    // guarded by mu
	size   int64      // guarded by mu; of what waits and of what is being written
	closed bool       // guarded by mu
}

// entrySize is what an entry costs beside its text, so that empty lines fill a ring as well.
const entrySize = 96

func newRing(limit int64, write func([]entry)) *ring {
	r := &ring{limit: limit, write: write, ended: make(chan struct{})}
	r.wake = sync.NewCond(&r.mu)
	go r.run()
	return r
}

// add has a copy of e written, unless the ring is full. An empty ring takes an entry of any size.
func (r *ring) add(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := int64(len(e.text)) + entrySize
	if r.size > 0 && r.size+n > r.limit {
		return
	}
	own := *e
	own.text = bytes.Clone(e.text)
	r.queue = append(r.queue, own)
	r.size += n
	r.wake.Signal()
}

func (r *ring) run() {
	defer close(r.ended)
	for {
		list := r.take()
		if list == nil {
			return
		}
		r.write(list)
		var n int64
		for i := range list {
			n += int64(len(list[i].text)) + entrySize
		}
		r.mu.Lock()
		r.size -= n
		r.mu.Unlock()
	}
}

// take waits for entries, and returns all there are; nil at the end.
func (r *ring) take() []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 && !r.closed {
		r.wake.Wait()
	}
	list := r.queue
	r.queue = nil
	return list
}

// close returns when all that waited has been written. Nothing is added after it.
func (r *ring) close() {
	r.mu.Lock()
	r.closed = true
	r.wake.Signal()
	r.mu.Unlock()
	<-r.ended
}
