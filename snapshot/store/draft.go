package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/boxbuild/boxbuild/snapshot"
)

// Prepare implements snapshot.Snapshotter.
func (s *Store) Prepare(ctx context.Context, d snapshot.Draft, parent snapshot.ID) ([]snapshot.Mount, error) {
	dr, err := s.make(ctx, d, parent, draft{})
	if err != nil {
		return nil, err
	}
	return s.driver.Mounts(s.draftPath(d, false), s.chain(dr.parent)), nil
}

// Keep implements snapshot.Keeper.
func (s *Store) Keep(ctx context.Context, d snapshot.Draft, parent snapshot.ID) error {
	_, err := s.make(ctx, d, parent, draft{kept: true})
	return err
}

// Mounts implements snapshot.Keeper.
func (s *Store) Mounts(_ context.Context, d snapshot.Draft, lax bool) ([]snapshot.Mount, error) {
	s.mu.Lock()
	dr := s.drafts[d]
	ok := dr != nil && dr.ready && dr.kept
	s.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("mounting draft %s: %w", d, snapshot.ErrNotFound)
	}
	mounts, err := s.driver.Remount(s.draftPath(d, true), s.chain(dr.parent), lax)
	if err != nil {
		return nil, fmt.Errorf("mounting draft %s: %w", d, err)
	}
	return mounts, nil
}

// make makes a draft like kind.
func (s *Store) make(ctx context.Context, d snapshot.Draft, parent snapshot.ID, kind draft) (*draft, error) {
	dr, err := s.reserve(d, parent, kind)
	if err != nil {
		return nil, fmt.Errorf("preparing %s on %q: %w", d, parent, err)
	}
	dir := s.draftPath(d, dr.kept)
	if err = mkdir(dir); err == nil {
		err = s.driver.Fill(ctx, dir, s.chain(dr.parent))
	}
	if err != nil {
		err = errors.Join(err, s.trash(dir))
		s.drop(d, dr)
		return nil, fmt.Errorf("preparing %s on %q: %w", d, parent, err)
	}
	s.setReady(dr)
	return dr, nil
}

// View implements snapshot.Snapshotter. It touches no disk.
func (s *Store) View(_ context.Context, d snapshot.Draft, parent snapshot.ID) ([]snapshot.Mount, error) {
	if parent == "" {
		return nil, fmt.Errorf("viewing %q as %s: %w", parent, d, snapshot.ErrNotFound)
	}
	dr, err := s.reserve(d, parent, draft{view: true})
	if err != nil {
		return nil, fmt.Errorf("viewing %s as %s: %w", parent, d, err)
	}
	s.setReady(dr)
	return s.driver.View(s.chain(dr.parent)), nil
}

// reserve enters a draft like kind in the index, from which moment its parent is in use.
func (s *Store) reserve(d snapshot.Draft, parent snapshot.ID, kind draft) (*draft, error) {
	if !valid(string(d)) {
		return nil, fmt.Errorf("%q is no name for a draft", d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if s.drafts[d] != nil {
		return nil, snapshot.ErrExists
	}
	dr := &kind
	if parent != "" {
		p := s.snaps[parent]
		if p == nil || p.phase != present {
			return nil, snapshot.ErrNotFound
		}
		dr.parent = p
		p.drafts++
		p.used = s.now()
		s.used[p] = struct{}{}
	}
	s.drafts[d] = dr
	return dr, nil
}

func (s *Store) setReady(dr *draft) {
	s.mu.Lock()
	dr.ready = true
	s.mu.Unlock()
}

// claim returns the draft d for the one caller that may end it, or nil.
func (s *Store) claim(d snapshot.Draft) *draft {
	s.mu.Lock()
	defer s.mu.Unlock()
	dr := s.drafts[d]
	if dr == nil || !dr.ready {
		return nil
	}
	dr.ready = false
	return dr
}

// drop takes a draft out of the index.
func (s *Store) drop(d snapshot.Draft, dr *draft) {
	s.mu.Lock()
	s.dropLocked(d, dr)
	s.mu.Unlock()
}

func (s *Store) dropLocked(d snapshot.Draft, dr *draft) {
	delete(s.drafts, d)
	if dr.parent != nil {
		dr.parent.drafts--
	}
}

// Discard implements snapshot.Snapshotter. A draft that is being prepared does not exist yet. After Close it still
// works on what was opened before, so that users can clean up in any order.
func (s *Store) Discard(_ context.Context, d snapshot.Draft) error {
	dr := s.claim(d)
	if dr == nil {
		return nil
	}
	var err error
	if !dr.view {
		err = s.trash(s.draftPath(d, dr.kept))
	}
	s.drop(d, dr)
	if err != nil {
		return fmt.Errorf("discarding %s: %w", d, err)
	}
	return nil
}

// DraftFS returns the directory of the files of the draft d; ErrNotFound if there is no such draft or it is a view.
func (s *Store) DraftFS(d snapshot.Draft) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dr := s.drafts[d]
	switch {
	case dr == nil || !dr.ready:
		return "", fmt.Errorf("looking up draft %s: %w", d, snapshot.ErrNotFound)
	case dr.view:
		return "", fmt.Errorf("looking up draft %s: %w", d, errIsView)
	}
	return filepath.Join(s.draftPath(d, dr.kept), "fs"), nil
}
