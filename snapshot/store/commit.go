package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/boxbuild/boxbuild/snapshot"
)

// countNow is how many files of a draft are counted while Commit waits: at about a microsecond each it is not
// noticed. Most steps of a build add fewer. The others are counted by the janitor.
const countNow = 128

// Commit implements snapshot.Snapshotter.
func (s *Store) Commit(ctx context.Context, d snapshot.Draft, id snapshot.ID) error {
	return s.CommitDelta(ctx, d, id, snapshot.Delta{})
}

// CommitDelta implements snapshot.DeltaCommitter.
func (s *Store) CommitDelta(ctx context.Context, d snapshot.Draft, id snapshot.ID, delta snapshot.Delta) error {
	dr := s.claim(d)
	if dr == nil {
		return fmt.Errorf("committing %s as %s: %w", d, id, snapshot.ErrNotFound)
	}
	if dr.view {
		s.setReady(dr)
		return fmt.Errorf("committing %s as %s: %w", d, id, errIsView)
	}
	err := s.commit(ctx, d, dr, &node{id: id, delta: delta})
	if err != nil {
		err = errors.Join(err, s.trash(s.draftPath(d, dr.kept)))
		s.drop(d, dr)
		return fmt.Errorf("committing %s as %s: %w", d, id, err)
	}
	return nil
}

// commit makes n, of which id and delta are set, of a draft.
func (s *Store) commit(ctx context.Context, d snapshot.Draft, dr *draft, n *node) error {
	if !valid(string(n.id)) {
		return fmt.Errorf("%q is no name for a snapshot", n.id)
	}
	if err := s.reserveID(ctx, dr, n); err != nil {
		return err
	}
	dir := s.draftPath(d, dr.kept)
	err := s.finish(dir, dr, n)
	if err == nil {
		err = os.Rename(dir, s.path(n.id))
	}
	if err != nil {
		s.mu.Lock()
		s.unlinkLocked(n)
		s.mu.Unlock()
		return err
	}
	s.mu.Lock()
	n.phase = present
	close(n.settled)
	n.settled = nil
	s.dropLocked(d, dr)
	count := n.size < 0
	s.mu.Unlock()

	if count {
		s.janitor.do(func() { s.count(n) })
	}
	s.flusher.committed(n)
	return nil
}

// reserveID enters n, which does not exist yet. It waits for others that are about to settle the same name: only when the
// other commit has succeeded is ErrExists true.
func (s *Store) reserveID(ctx context.Context, dr *draft, n *node) error {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrClosed
		}
		for _, id := range []snapshot.ID{n.delta.Lower, n.delta.Upper} {
			if of := s.snaps[id]; id != "" && (of == nil || of.phase != present) {
				s.mu.Unlock()
				return fmt.Errorf("its delta names %s: %w", id, snapshot.ErrNotFound)
			}
		}
		old := s.snaps[n.id]
		if old == nil {
			now := s.now()
			n.parent, n.created, n.used, n.phase, n.settled = dr.parent, now, now, committing, make(chan struct{})
			if dr.parent != nil {
				n.depth = dr.parent.depth + 1
				dr.parent.children++
			}
			s.snaps[n.id] = n
			s.mu.Unlock()
			return nil
		}
		settled := old.settled
		s.mu.Unlock()
		if settled == nil {
			return snapshot.ErrExists
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// unlinkLocked takes a node that does not exist, or not any more, out of the index and frees its name.
func (s *Store) unlinkLocked(n *node) {
	delete(s.snaps, n.id)
	delete(s.used, n)
	if n.parent != nil {
		n.parent.children--
	}
	close(n.settled)
	n.settled = nil
}

// finish completes n from the draft in dir, and writes its meta there.
func (s *Store) finish(dir string, dr *draft, n *node) error {
	fs := filepath.Join(dir, "fs")
	u, err := measure(fs, countNow)
	switch {
	case errors.Is(err, errTooMany):
		n.size, n.inodes = -1, -1
	case err != nil:
		return fmt.Errorf("counting files: %w", err)
	default:
		n.size, n.inodes = u.bytes, u.inodes
	}
	if n.marks, err = s.driver.Inspect(dir, s.chain(dr.parent), n.inodes != 0); err != nil {
		return err
	}
	m := meta{Version: metaVersion, Created: n.created.UnixNano(), Size: n.size, Inodes: n.inodes, Marks: n.marks}
	if n.parent != nil {
		m.Parent = n.parent.id
	}
	if n.delta != (snapshot.Delta{}) {
		m.Delta = &n.delta
	}
	// What overlayfs worked in has no more use.
	return errors.Join(m.write(dir), s.trash(filepath.Join(dir, "work")))
}

// Remove implements snapshot.Snapshotter. The space is freed in the background.
func (s *Store) Remove(ctx context.Context, id snapshot.ID) error {
	n, err := s.reserveRemoval(ctx, id)
	if err != nil {
		return fmt.Errorf("removing %s: %w", id, err)
	}
	if n == nil {
		return nil
	}
	err = s.trash(s.path(id))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		n.phase = present
		close(n.settled)
		n.settled = nil
		return fmt.Errorf("removing %s: %w", id, err)
	}
	s.unlinkLocked(n)
	return nil
}

// reserveRemoval marks the node of id as removed, and returns nil if there is none to remove.
func (s *Store) reserveRemoval(ctx context.Context, id snapshot.ID) (*node, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, ErrClosed
		}
		n := s.snaps[id]
		switch {
		case n == nil || n.phase == committing:
			s.mu.Unlock()
			return nil, nil
		case n.phase == present && n.children+n.drafts > 0:
			err := fmt.Errorf("%w: %d snapshots and %d drafts or views stand on it", snapshot.ErrInUse, n.children, n.drafts)
			s.mu.Unlock()
			return nil, err
		case n.phase == present:
			n.phase = removing
			n.settled = make(chan struct{})
			s.mu.Unlock()
			return n, nil
		}
		settled := n.settled // somebody else removes it: when we return it is to be gone
		s.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
