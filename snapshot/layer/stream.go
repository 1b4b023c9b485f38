package layer

import (
	"context"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// Limits bound what Apply takes from a tar. A zero field stands for the default, a negative one for no limit.
type Limits struct {
	// Size is the largest uncompressed tar, and also the largest sum of file sizes, which sparse files can make greater;
	// in bytes.
	Size int64
	// Ratio is how many times the compressed bytes the uncompressed ones may be, once there are more than RatioFrom of
	// them. Zeros reach 1032 with gzip, so that a few of them are no reason to refuse anything.
	Ratio, RatioFrom int64
	// Entries is the largest number of entries, and also of directories that are made since entries lie in them. Directories
	// take memory while a tar is applied, and the name of one file can have thousands of them.
	Entries int64
}

// The default limits.
const (
	DefaultSize      = 256 << 30
	DefaultRatio     = 500
	DefaultEntries   = 5_000_000
	DefaultRatioFrom = 1 << 30
)

func (l Limits) withDefaults() Limits {
	for f, d := range map[*int64]int64{&l.Size: DefaultSize, &l.Ratio: DefaultRatio, &l.RatioFrom: DefaultRatioFrom, &l.Entries: DefaultEntries} {
		switch {
		case *f == 0:
			*f = d
		case *f < 0:
			*f = 1<<63 - 1
		}
	}
	return l
}

// A source decompresses and hashes ahead of its reader: one goroutine decompresses, one hashes, and the reader writes
// files. Buffers go round, so that memory is bounded by sourceBuffers of them.
type source struct {
	in     *counter // compressed
	limits Limits

	cur   []byte
	buf   []byte // that cur is a part of
	total int64  // bytes that were read
	err   error

	free, ready chan []byte
	stop        chan struct{}
	wg          sync.WaitGroup
	fail        error // why ready was closed; io.EOF at the end
}

const (
	sourceBuffers = 6
	sourceBuffer  = 256 << 10
)

// counter counts what is read through it; the count may be looked at meanwhile.
type counter struct {
	ctx      context.Context //nolint:containedctx // it ends with the call that made it
	r        io.Reader
	n        atomic.Int64
	err      error // of r, but for io.EOF; for whoever has seen that its reader failed
	progress func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		c.err = context.Cause(c.ctx)
		return 0, c.err
	}
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		c.err = err
	}
	total := c.n.Add(int64(n))
	if c.progress != nil && n > 0 {
		c.progress(total)
	}
	return n, err
}

// newSource starts to read from dec, which decompresses what comes through in, and to write all of it to h.
func newSource(in *counter, dec io.Reader, h hash.Hash, limits Limits) *source {
	s := &source{
		in: in, limits: limits,
		free: make(chan []byte, sourceBuffers), ready: make(chan []byte, sourceBuffers), stop: make(chan struct{}),
	}
	for range sourceBuffers {
		s.free <- nil // made when first used: most layers are small
	}
	filled := make(chan []byte, sourceBuffers)
	s.wg.Go(func() {
		defer close(filled)
		s.fail = s.fill(dec, filled)
	})
	s.wg.Go(func() {
		defer close(s.ready)
		for b := range filled {
			h.Write(b)
			s.ready <- b // never blocks: there are no more buffers than it holds
		}
	})
	return s
}

func (s *source) fill(dec io.Reader, out chan<- []byte) error {
	var total int64
	for {
		var b []byte
		select {
		case b = <-s.free:
		case <-s.stop:
			return io.ErrClosedPipe
		}
		if b == nil {
			b = make([]byte, sourceBuffer)
		}
		b = b[:cap(b)]
		n, err := 0, error(nil)
		for n < len(b) && err == nil {
			var m int
			m, err = dec.Read(b[n:])
			n += m
		}
		total += int64(n)
		if lerr := s.limits.check(total, s.in); lerr != nil {
			return lerr
		}
		if n > 0 {
			out <- b[:n] // never blocks
		}
		if err != nil {
			return err
		}
	}
}

// check says whether total bytes that came out of in are too many.
func (l Limits) check(total int64, in *counter) error {
	if total > l.Size {
		return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, l.Size)
	}
	if n := in.n.Load(); total > l.RatioFrom && total/l.Ratio > n {
		return fmt.Errorf("%w: %d bytes expand to more than %d", ErrTooLarge, n, total)
	}
	return nil
}

// Open decompresses r as Decompress does, within limits (but for that of entries), until ctx is done. Close does not close
// r.
func Open(ctx context.Context, r io.Reader, limits Limits) (io.ReadCloser, error) {
	in := &counter{ctx: ctx, r: r}
	dec, _, err := Decompress(in)
	if err != nil {
		return nil, err
	}
	return &limited{ReadCloser: dec, in: in, limits: limits.withDefaults()}, nil
}

type limited struct {
	io.ReadCloser
	in     *counter
	limits Limits
	total  int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	l.total += int64(n)
	if lerr := l.limits.check(l.total, l.in); lerr != nil {
		return 0, lerr
	}
	return n, err
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	for len(s.cur) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if s.buf != nil {
			s.free <- s.buf
			s.buf = nil
		}
		b, ok := <-s.ready
		if !ok {
			s.err = s.fail
			return 0, s.err
		}
		s.buf, s.cur = b, b
	}
	n := copy(p, s.cur)
	s.cur = s.cur[n:]
	s.total += int64(n)
	return n, nil
}

// Close ends the goroutines and waits for them; the last read of the source must return for that.
func (s *source) Close() {
	close(s.stop)
	for range s.ready {
		continue // drained, so that nobody waits for it to be taken
	}
	s.wg.Wait()
}
