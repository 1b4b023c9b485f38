package history

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// internalKept is how long an internal build can be watched after it has ended.
const internalKept = time.Minute

// Wrap returns a Builder that records what b builds. A build whose ID is that of one that runs is refused with
// worker.ErrRunning, and one whose ID the history has with worker.ErrRecorded: nothing takes the place of a record. That a
// build cannot be recorded does not keep it from being built.
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
	if r.Begun != nil {
		r.Begun()
	}
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
	e := s.newEntry(rec)
	r := newRecorder(s, newJournal())
	e.live = r
	s.mu.Lock()
	old := s.entries[req.ID]
	if old != nil {
		err := worker.ErrRecorded
		if old.live != nil {
			err = worker.ErrRunning
		}
		s.mu.Unlock()
		return nil, nil, fmt.Errorf("build %s: %w", req.ID, err)
	}
	s.entries[req.ID] = e
	s.changedLocked(e)
	s.mu.Unlock()
	// finish waits for it.
	go func() {
		if err := r.log.open(func() (*os.File, error) { return s.create(e) }); err != nil {
			s.opt.Log.Warn("a build cannot be recorded", "build", req.ID, "error", err)
		}
	}()
	// A large record is written at once, for which the file has to be on its way.
	r.document(head{kind: kindRecord, time: rec.Created}, rec)
	return e, r, nil
}

// create makes what a build has on the disk while it runs: a log, whose first entry is the record.
func (s *Store) create(e *entry) (*os.File, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(e.logPath(), flags, 0o600)
	if errors.Is(err, os.ErrExist) {
		s.purge() // one of that ID is on its way out
		f, err = os.OpenFile(e.logPath(), flags, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("recording a build: %w", err)
	}
	return f, nil
}

// finish records how a build has ended: at the end of its log or, if that cannot be or if there is a file with the record
// already, there.
func (s *Store) finish(e *entry, r *recorder, res *worker.BuildResult, err error) {
	r.settle(0)
	end := func(rec *Record) *Record {
		rec = rec.clone()
		rec.Ended, rec.Steps = time.Now(), r.steps()
		switch {
		case err == nil:
			rec.Status, rec.Result = Completed, result(res)
		case errors.Is(err, context.Canceled):
			rec.Status, rec.Error, rec.Result = Canceled, s.remember(err), exported(res)
		default:
			rec.Status, rec.Error, rec.Result = Failed, s.remember(err), exported(res)
		}
		return rec
	}
	s.mu.Lock()
	rec := e.rec
	s.mu.Unlock()
	rec = end(rec)
	doc, merr := json.Marshal(rec)
	if merr != nil {
		panic(merr) // plain data only
	}
	lost := r.log.end(rec.Ended, doc)
	s.mu.Lock()
	if e.rec.Generation != rec.Generation || len(e.rec.Attachments) != len(rec.Attachments) {
		rec = end(e.rec) // it was changed meanwhile
	}
	if lost != nil {
		rec.LogError = lost.Error()
	}
	e.rec, e.live = rec, nil
	s.changedLocked(e)
	s.mu.Unlock()
	if !rec.Internal && (lost != nil || rec.Generation > 1 || len(rec.Attachments) > 0) {
		if err := s.save(e); err != nil {
			s.opt.Log.Warn("the end of a build cannot be recorded", "build", rec.ID, "error", err)
		}
	}
	s.expire()
}

// exported returns what is recorded of a build that has failed: nil if nothing had been exported.
func exported(res *worker.BuildResult) *Result {
	if res == nil || len(res.Exports) == 0 {
		return nil
	}
	return &Result{Exports: res.Exports, Documents: res.Documents}
}

// result returns what is recorded of res.
func result(res *worker.BuildResult) *Result {
	if res == nil {
		return nil
	}
	out := &Result{Metadata: res.Metadata, Exports: res.Exports, Documents: res.Documents}
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
