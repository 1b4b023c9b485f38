package history

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// internalKept is how long an internal build can be watched after it has ended.
const internalKept = time.Minute

// Wrap returns a Builder that records what b builds. A build whose ID is that of one that runs is refused with
// worker.ErrRunning; one whose ID is that of one that has ended takes its place. That a build cannot be recorded does not
// keep it from being built.
func (s *Store) Wrap(b worker.Builder) worker.Builder { return &recording{s, b} }

// recording is a worker.Builder.
type recording struct {
	store *Store
	next  worker.Builder
}

// Build implements worker.Builder.
func (b *recording) Build(ctx context.Context, req *worker.BuildRequest, events func(solver.Event)) (
	res *worker.BuildResult, err error,
) {
	r := *req
	if r.ID == "" {
		r.ID = strings.ToLower(rand.Text())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e, rec, err := b.store.begin(ctx, &r)
	if err != nil {
		return nil, err
	}
	rec.stop(cancel)
	returned := false
	defer func() {
		if !returned {
			err = errors.New("the builder panicked") // for the record; the panic goes on
		}
		b.store.finish(e, rec, res, err)
	}()
	res, err = b.next.Build(ctx, &r, func(ev solver.Event) {
		rec.event(&ev)
		if events != nil {
			events(ev)
		}
	})
	if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	if err != nil && r.Explain != nil {
		err = r.Explain(err)
	}
	returned = true
	return res, err
}

// begin makes the record of a build that is about to run.
func (s *Store) begin(ctx context.Context, req *worker.BuildRequest) (*entry, *recorder, error) {
	rec := &Record{
		ID: req.ID, Origin: redact(req.Origin), Tags: req.Tags, Created: time.Now(), Status: Running,
		Internal: req.Internal, Generation: 1,
	}
	if s.opt.TraceParent != nil {
		rec.TraceParent = s.opt.TraceParent(ctx)
	}
	e := newEntry(filepath.Join(s.opt.Dir, dirName(req.ID)), rec)
	r := newRecorder(s, nil)
	e.live = r
	s.mu.Lock()
	old := s.entries[req.ID]
	if old != nil && old.live != nil {
		s.mu.Unlock()
		return nil, nil, fmt.Errorf("build %s: %w", req.ID, worker.ErrRunning)
	}
	s.entries[req.ID] = e // its log is not there yet: see ready
	s.mu.Unlock()

	if old != nil {
		if err := s.discard(old); err != nil {
			s.opt.Log.Warn("replacing the record of a build", "error", err)
		}
	}
	log, err := s.create(e)
	if err != nil {
		s.opt.Log.Warn("a build cannot be recorded", "build", req.ID, "error", err)
		log = lostJournal(err)
	}
	r.log = log
	s.mu.Lock()
	close(e.ready)
	s.changedLocked(e)
	s.mu.Unlock()
	return e, r, nil
}

// create makes what a build has on the disk.
func (s *Store) create(e *entry) (*journal, error) {
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return nil, fmt.Errorf("recording a build: %w", err)
	}
	log, err := newJournal(filepath.Join(e.dir, eventsFile))
	if err != nil {
		return nil, err
	}
	if err := s.save(e); err != nil {
		_ = log.end() // there is nothing in it
		return nil, err
	}
	return log, nil
}

// finish records how a build has ended.
func (s *Store) finish(e *entry, r *recorder, res *worker.BuildResult, err error) {
	r.settle(0)
	lost := r.log.end()
	s.mu.Lock()
	rec := e.rec.clone()
	rec.Ended, rec.Steps = time.Now(), r.steps()
	if lost != nil {
		rec.LogError = lost.Error()
	}
	switch {
	case err == nil:
		rec.Status = Completed
		rec.Result = result(res)
	case errors.Is(err, context.Canceled):
		rec.Status, rec.Error = Canceled, s.remember(err)
	default:
		rec.Status, rec.Error = Failed, s.remember(err)
	}
	e.rec, e.live = rec, nil
	s.mu.Unlock()
	if !rec.Internal {
		if err := s.save(e); err != nil {
			s.opt.Log.Warn("the end of a build cannot be recorded", "build", rec.ID, "error", err)
		}
	}
	s.mu.Lock()
	s.changedLocked(e)
	s.mu.Unlock()
	s.expire()
}

// result returns what is recorded of res.
func result(res *worker.BuildResult) *Result {
	if res == nil {
		return nil
	}
	out := &Result{Metadata: res.Metadata}
	for _, img := range res.Images {
		out.Images = append(out.Images, Image{Platform: img.Platform, ID: img.ID.String(), Names: img.Names})
	}
	if res.Report != nil {
		if doc, err := report.JSON(res.Report); err == nil {
			out.Report = doc
		}
	}
	return out
}
