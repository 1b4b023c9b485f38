package bridge

import (
	"context"
	"io"
	"iter"
	"sync"
)

// maxFeed is how much input is kept for a process that does not read it, in bytes. Beyond it the stream stands still, and
// with it the other side.
const maxFeed = 1 << 20

// A feed is the input of a process: what arrives in messages, read as a stream. Signals for the process come by the same
// stream of messages, so that to write waits only if much is unread.
type feed struct {
	mu     sync.Mutex // guards what follows
	buf    []byte
	eof    bool
	closed bool
	more   chan struct{} // closed and replaced when anything changes
}

func newFeed() *feed { return &feed{more: make(chan struct{})} }

func (f *feed) changedLocked() {
	close(f.more)
	f.more = make(chan struct{})
}

// write adds data, and the end of all input if eof is set. What nobody will read is dropped.
func (f *feed) write(ctx context.Context, data []byte, eof bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.buf) > maxFeed && !f.closed {
		more := f.more
		f.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return
		}
	}
	if f.closed || f.eof {
		return
	}
	f.buf = append(f.buf, data...)
	f.eof = eof
	f.changedLocked()
}

// Read implements io.Reader.
func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.closed:
			return 0, io.EOF
		case len(f.buf) > 0:
			n := copy(p, f.buf)
			f.buf = f.buf[n:]
			f.changedLocked()
			return n, nil
		case f.eof:
			return 0, io.EOF
		}
		more := f.more
		f.mu.Unlock()
		<-more
		f.mu.Lock()
	}
}

// close ends the input: the process reads no more.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed, f.buf = true, nil
	f.changedLocked()
}

// chunks cuts b into parts of at most n bytes.
func chunks(b []byte, n int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			part := b[:min(n, len(b))]
			b = b[len(part):]
			if !yield(part) {
				return
			}
		}
	}
}
