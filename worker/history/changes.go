package history

import (
	"cmp"
	"context"
	"slices"
)

// A Change is a record that came, changed or went.
type Change struct {
	Record  *Record
	Removed bool
	rank    uint64
}

// Snapshot returns what List does, and from where on Changes tells of what has happened since.
func (s *Store) Snapshot() ([]*Record, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listLocked(), s.rank
}

// Changes waits until something has changed since after, and returns what, in order, and the place to go on from. Of a
// record that has changed several times since it has the last state only. Of removals it knows the last thousand.
func (s *Store) Changes(ctx context.Context, after uint64) ([]Change, uint64, error) {
	for {
		s.mu.Lock()
		changes, rank, changed := s.sinceLocked(after), s.rank, s.changed
		s.mu.Unlock()
		if len(changes) > 0 {
			return changes, rank, nil
		}
		after = rank
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, after, context.Cause(ctx)
		case <-s.done:
			return nil, after, ErrClosed
		case <-s.still:
			return nil, after, ErrClosed
		}
	}
}

// Hush has Changes return ErrClosed where it would wait, from now on: a daemon that goes down has nobody wait for news. It may
// be called more than once.
func (s *Store) Hush() { s.hush() }

func (s *Store) sinceLocked(after uint64) []Change {
	var out []Change
	for _, e := range s.entries {
		if e.rank > after && !e.rec.Internal {
			out = append(out, Change{Record: e.recordLocked(), rank: e.rank})
		}
	}
	for _, d := range s.gone {
		if d.rank > after && !d.rec.Internal {
			out = append(out, Change{Record: d.rec, Removed: true, rank: d.rank})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return cmp.Compare(a.rank, b.rank) })
	return out
}
