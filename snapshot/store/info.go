package store

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"path/filepath"
	"slices"

	"github.com/boxbuild/boxbuild/snapshot"
)

// Stat implements snapshot.Snapshotter. It touches no disk.
func (s *Store) Stat(_ context.Context, id snapshot.ID) (snapshot.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.lookupLocked(id)
	if err != nil {
		return snapshot.Info{}, fmt.Errorf("looking up %q: %w", id, err)
	}
	return n.info(), nil
}

// FS returns the directory of the files of id, without looking at the disk.
func (s *Store) FS(id snapshot.ID) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.lookupLocked(id); err != nil {
		return "", fmt.Errorf("looking up %q: %w", id, err)
	}
	return filepath.Join(s.path(id), "fs"), nil
}

func (s *Store) lookupLocked(id snapshot.ID) (*node, error) {
	if s.closed {
		return nil, ErrClosed
	}
	n := s.snaps[id]
	if n == nil || n.phase != present {
		return nil, snapshot.ErrNotFound
	}
	return n, nil
}

func (n *node) info() snapshot.Info {
	i := snapshot.Info{ID: n.id, Created: n.created, Used: n.used, Size: n.size, Inodes: n.inodes}
	if n.parent != nil {
		i.Parent = n.parent.id
	}
	i.Delta = n.delta
	return i
}

// All implements snapshot.Snapshotter. It yields what there is when the iteration begins, in order of depth and age.
func (s *Store) All(ctx context.Context) iter.Seq2[snapshot.Info, error] {
	return func(yield func(snapshot.Info, error) bool) {
		type entry struct {
			info  snapshot.Info
			depth int
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			yield(snapshot.Info{}, fmt.Errorf("listing snapshots: %w", ErrClosed))
			return
		}
		all := make([]entry, 0, len(s.snaps))
		for _, n := range s.snaps {
			if n.phase == present {
				all = append(all, entry{n.info(), n.depth})
			}
		}
		s.mu.Unlock()
		slices.SortFunc(all, func(a, b entry) int {
			return cmp.Or(cmp.Compare(a.depth, b.depth), a.info.Created.Compare(b.info.Created), cmp.Compare(a.info.ID, b.info.ID))
		})
		for _, e := range all {
			if ctx.Err() != nil {
				yield(snapshot.Info{}, fmt.Errorf("listing snapshots: %w", context.Cause(ctx)))
				return
			}
			if !yield(e.info, nil) {
				return
			}
		}
	}
}
