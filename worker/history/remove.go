package history

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/boxbuild/boxbuild/worker"
)

// sweepEvery is how often records are looked at that have become too old.
const sweepEvery = time.Minute

// Remove removes a build that has ended, with all that was kept for it. ErrNotFound if there is none, worker.ErrRunning if
// it runs.
func (s *Store) Remove(id string) error {
	s.mu.Lock()
	e := s.entries[id]
	switch {
	case e == nil:
		s.mu.Unlock()
		return notFound(id)
	case e.live != nil:
		s.mu.Unlock()
		return fmt.Errorf("removing build %s: %w", id, worker.ErrRunning)
	}
	s.departLocked(e)
	s.mu.Unlock()
	return s.discard(e)
}

func notFound(id string) error { return fmt.Errorf("%w: %s", ErrNotFound, id) }

// A departure is a record that was removed.
type departure struct {
	rec  *Record
	rank uint64
}

// departuresKept is how many removals are remembered for those who listen.
const departuresKept = 1000

// departLocked takes e out of the table.
func (s *Store) departLocked(e *entry) {
	delete(s.entries, e.rec.ID)
	s.changedLocked(e)
	s.gone = append(s.gone, departure{e.rec, e.rank})
	if len(s.gone) > departuresKept {
		s.gone = slices.Delete(s.gone, 0, len(s.gone)-departuresKept)
	}
}

// discard deletes what a build that is no longer in the table has on the disk. The log goes first: without it the rest is
// removed at the next start. It is away when discard returns; its space, which may be much, is freed in the background.
func (s *Store) discard(e *entry) error {
	e.writing <- struct{}{}
	defer func() { <-e.writing }()
	e.gone = true
	doomed := filepath.Join(s.opt.Dir, gonePrefix+rand.Text())
	errs := []error{os.Rename(e.logPath(), doomed), os.Remove(e.recordPath())}
	for _, d := range e.rec.Attachments {
		errs = append(errs, os.Remove(e.blobPath(d.Digest)))
	}
	for i := range errs {
		errs[i] = ignoreGone(errs[i])
	}
	s.tasks.Go(func() { _ = os.Remove(doomed) }) // or the next start does
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing build %s: %w", e.rec.ID, err)
	}
	return nil
}

// expire removes what is too old or too much. Its files are removed in the background.
func (s *Store) expire() {
	now := time.Now()
	s.mu.Lock()
	var ended, drop []*entry
	for _, e := range s.entries {
		switch {
		case e.live != nil || e.rec.Pinned:
		case e.rec.Internal:
			if now.Sub(e.rec.Ended) >= internalKept {
				drop = append(drop, e)
			}
		case s.opt.MaxAge > 0 && now.Sub(e.rec.Ended) > s.opt.MaxAge:
			drop = append(drop, e)
		default:
			ended = append(ended, e)
		}
	}
	if n := len(ended) - s.opt.MaxEntries; s.opt.MaxEntries > 0 && n > 0 {
		slices.SortFunc(ended, func(a, b *entry) int { return a.rec.Created.Compare(b.rec.Created) })
		drop = append(drop, ended[:n]...)
	}
	for _, e := range drop {
		s.departLocked(e)
	}
	s.doomed = append(s.doomed, drop...)
	s.mu.Unlock()
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// purge discards what expire has removed.
func (s *Store) purge() {
	s.purging <- struct{}{}
	defer func() { <-s.purging }()
	s.mu.Lock()
	doomed := s.doomed
	s.doomed = nil
	s.mu.Unlock()
	for _, e := range doomed {
		if err := s.discard(e); err != nil {
			s.opt.Log.Warn("removing an old record", "error", err)
		}
	}
}

// sweep calls expire from time to time, and purge after it.
func (s *Store) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	defer s.purge()
	for {
		select {
		case <-tick.C:
			s.expire()
		case <-s.nudge:
			s.purge()
		case <-ctx.Done():
			return
		}
	}
}
