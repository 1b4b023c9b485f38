package history

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/boxbuild/boxbuild/solver"
)

// Watch calls fn for every event of the build id, from the first on, and returns nil after the last, once the build has
// ended. It waits up to wait for a build of that ID; if there is none it returns ErrNotFound. It ends with what fn returns
// if that is an error.
//
// The events have vertices of their own, which are alike in all that a vertex says of itself, except that their operation is
// only a text; a vertex is the same one throughout. Data is fn's until it returns. A slow fn holds up nobody else.
func (s *Store) Watch(ctx context.Context, id string, wait time.Duration, fn func(solver.Event) error) error {
	return s.Read(ctx, id, ReadOptions{Wait: wait, Follow: true}, fn)
}

// ReadOptions are those of Read.
type ReadOptions struct {
	Wait   time.Duration // for a build of the ID
	Follow bool          // go on until the build has ended
	// Steps are the vertices to read, numbered from 1 in the order of their declarations; all if there are none. Their
	// declarations come in any case, as do those of the others.
	Steps  []int
	NoLogs bool // leave out what the vertices wrote
}

// Read is Watch with options.
func (s *Store) Read(ctx context.Context, id string, opt ReadOptions, fn func(solver.Event) error) error {
	e, err := s.await(ctx, id, opt.Wait)
	if err != nil {
		return err
	}
	r := &reader{store: s, opt: opt, fn: fn}
	s.mu.Lock()
	live := e.live
	s.mu.Unlock()
	if live != nil {
		defer live.log.follow()()
		r.log = live.log
		select {
		case <-live.log.opened:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	// A build of the same ID that took this one's place has another file.
	f, err := os.Open(e.logPath())
	switch {
	case s.lookup(id) != e:
		if err == nil {
			_ = f.Close() // nothing was read
		}
		return s.Read(ctx, id, opt, fn)
	case errors.Is(err, os.ErrNotExist):
		return r.drain(ctx) // nothing could be recorded, or it is removed
	case err != nil:
		return err
	}
	defer f.Close()
	return r.run(ctx, f)
}

// await returns the build id, which it waits for.
func (s *Store) await(ctx context.Context, id string, wait time.Duration) (*entry, error) {
	var late <-chan time.Time
	for {
		s.mu.Lock()
		e, changed := s.entries[id], s.changed
		s.mu.Unlock()
		if e != nil {
			return e, nil
		}
		if wait <= 0 {
			return nil, notFound(id)
		}
		if late == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-changed:
		case <-late:
			return nil, notFound(id)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.done:
			return nil, ErrClosed
		}
	}
}

// A reader reads one log.
type reader struct {
	store *Store
	log   *journal // nil if the log has its end
	opt   ReadOptions
	fn    func(solver.Event) error
	graph replay
	buf   []byte
}

// run reads f up to its end, and goes on with what comes.
func (r *reader) run(ctx context.Context, f *os.File) error {
	if r.log == nil {
		return r.entries(ctx, bufio.NewReaderSize(f, 64<<10))
	}
	var at int64
	for {
		size, ended, grown := r.log.state()
		if size > at {
			section := io.NewSectionReader(f, at, size-at)
			if err := r.entries(ctx, bufio.NewReaderSize(section, int(min(size-at, 64<<10)))); err != nil {
				return err
			}
			at = size
			continue
		}
		if ended || !r.opt.Follow {
			return nil
		}
		if err := r.pause(ctx, grown); err != nil {
			return err
		}
	}
}

func (r *reader) pause(ctx context.Context, grown <-chan struct{}) error {
	select {
	case <-grown:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.store.done:
		return ErrClosed
	}
}

// drain waits for the end of a build that has no log.
func (r *reader) drain(ctx context.Context) error {
	for r.log != nil && r.opt.Follow {
		_, ended, grown := r.log.state()
		if ended {
			break
		}
		if err := r.pause(ctx, grown); err != nil {
			return err
		}
	}
	return nil
}

// entries tells of the entries in src.
func (r *reader) entries(ctx context.Context, src io.Reader) error {
	for {
		h, body, buf, err := readEntry(src, r.buf)
		r.buf = buf
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if h.kind >= kindRecord || h.kind == kindLogged && r.opt.NoLogs || h.kind != kindDeclared && !r.wanted(h.vertex) {
			continue
		}
		ev, err := r.graph.event(h, body)
		if err != nil {
			return err
		}
		if err := r.fn(ev); err != nil {
			return err
		}
	}
}

func (r *reader) wanted(vertex uint32) bool {
	for _, n := range r.opt.Steps {
		if n == int(vertex) {
			return true
		}
	}
	return len(r.opt.Steps) == 0
}
