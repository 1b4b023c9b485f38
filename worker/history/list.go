package history

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// List returns the records of all builds that are not internal, the newest first.
func (s *Store) List() []*Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listLocked()
}

func (s *Store) listLocked() []*Record {
	out := make([]*Record, 0, len(s.entries))
	for _, e := range s.entries {
		if !e.rec.Internal {
			out = append(out, e.recordLocked())
		}
	}
	slices.SortFunc(out, func(a, b *Record) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// recordLocked returns the record as it is now.
func (e *entry) recordLocked() *Record {
	if e.live == nil {
		return e.rec
	}
	rec := e.rec.clone()
	rec.Steps = e.live.steps()
	return rec
}

// Get returns the record of a build; ErrNotFound if there is none.
func (s *Store) Get(id string) (*Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return nil, notFound(id)
	}
	return e.recordLocked(), nil
}

// Find returns the record of the build whose ID is, or begins with, prefix, which must not be empty; ErrNotFound or
// ErrAmbiguous if there is not exactly one. Internal builds are found by their full ID only.
func (s *Store) Find(prefix string) (*Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[prefix]; e != nil {
		return e.recordLocked(), nil
	}
	var found *entry
	for id, e := range s.entries {
		if prefix == "" || e.rec.Internal || !strings.HasPrefix(id, prefix) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w %q", ErrAmbiguous, prefix)
		}
		found = e
	}
	if found == nil {
		return nil, notFound(prefix)
	}
	return found.recordLocked(), nil
}

func (s *Store) lookup(id string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[id]
}

// Pin keeps a build until it is removed by its ID, or no longer. It may be called while the build runs.
func (s *Store) Pin(id string, pinned bool) error {
	return s.update(id, func(rec *Record) { rec.Pinned = pinned })
}

// update changes a record, and writes it to the disk.
func (s *Store) update(id string, change func(*Record)) error {
	s.mu.Lock()
	e := s.entries[id]
	if e == nil {
		s.mu.Unlock()
		return notFound(id)
	}
	rec := e.rec.clone()
	change(rec)
	rec.Generation++
	e.rec = rec
	s.changedLocked(e)
	s.mu.Unlock()
	if err := s.save(e); err != nil {
		return err
	}
	s.expire()
	return nil
}

// Wait returns the record of a build once that has ended.
func (s *Store) Wait(ctx context.Context, id string) (*Record, error) {
	for {
		s.mu.Lock()
		e, changed := s.entries[id], s.changed
		if e == nil {
			s.mu.Unlock()
			return nil, notFound(id)
		}
		rec, ended := e.rec, e.live == nil
		s.mu.Unlock()
		if ended {
			return rec, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.done:
			return nil, ErrClosed
		}
	}
}

// errCanceled is the cause with which Cancel cancels.
var errCanceled error = stopped{}

// A stopped build was cancelled, which its text need not say twice.
type stopped struct{}

func (stopped) Error() string { return "stopped on request" }
func (stopped) Unwrap() error { return context.Canceled }

// Cancel cancels a build that runs, whoever asked for it. It does not wait for the end. One that has ended is no error.
func (s *Store) Cancel(id string) error {
	s.mu.Lock()
	e := s.entries[id]
	if e == nil {
		s.mu.Unlock()
		return notFound(id)
	}
	live := e.live
	s.mu.Unlock()
	if live == nil {
		return nil
	}
	live.mu.Lock()
	defer live.mu.Unlock()
	if live.cancel != nil {
		live.cancel(errCanceled)
	}
	return nil
}
