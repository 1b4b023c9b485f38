package solver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Why a flight's context has ended.
var (
	errNobodyWaits = errors.New("no build waits for the step any more")
	errLanded      = errors.New("the step is over and its results are held")
	errTakenOff    = errors.New("the step has been admitted")
	errNoHeir      = errors.New("the build whose inputs the step runs on has gone")
)

// flights are the steps that are running or about to, one for each step key. This is where concurrent builds meet. A
// flight stays in byKey until its result is in the cache, so a step that was looked up before and is not found there
// is either here or in the cache.
//
// Lock order: flights.mu, then a logbook's or a mailbox's. Nothing is called under it that blocks.
type flights struct {
	s *Solver

	mu    sync.Mutex // guards byKey and what the flights and members say that it does
	byKey map[Key]*flight
}

// A phase is how far a flight is.
type phase uint8

const (
	queued   phase = iota // waits for admission, in the line of each of its members
	boarding              // admitted; looks into the cache a last time
	flying                // runs
	landed                // over; its members are being told
)

// A request is what a build asks of a flight.
type request struct {
	v      *Vertex
	key    stepKey
	in     []Result
	fresh  bool // the result must not come from the cache
	record bool // it may be put there
}

// A flight is one run of a step for all the builds that wait for it.
type flight struct {
	fs     *flights
	step   *Step
	doc    string
	record bool
	log    *logbook

	// The contexts live as long as the flight and not as long as a call. ctx is the one of Run: it ends when the last
	// member has left. queue is the one of Admit: it also ends when the flight has taken off.
	ctx, queue    context.Context //nolint:containedctx // a flight is the life time that these contexts stand for
	cancel, leave context.CancelCauseFunc

	// Guarded by fs.mu:
	phase    phase
	members  []*member
	lead     *member // answers for it: its build holds the inputs, and its context's values are the flight's
	orphaned bool    // the first lead has left before the end
	fresh    bool    // some member's request was
	began    time.Time
	release  func() // gives back what was admitted, once a member has gone on
}

// A member is a node of a build that waits for a flight. The functions may be called from any goroutine.
type member struct {
	order  int
	line   *line
	value  func(key any) any                // looks into the build's context
	keep   func(o outcome) (outcome, error) // makes the results the build's own; may block
	hold   func(out []Result) error         // under the build's context; may block
	began  func(at time.Time)               // must not block
	ended  func(o outcome)                  // must not block
	reader *reader                          // of the flight's log
	f      *flight                          // set by join
	dying  bool                             // the build's own: the flight has been cancelled for this member
	backs  bool                             // guarded by flights.mu: the build holds what the flight runs on
}

// An outcome is how a flight ended.
type outcome struct {
	key      Key
	in       []Result // what it ran on
	out      []Result
	err      error
	hit      bool          // found in the cache after all
	record   bool          // may be put in the cache
	took     time.Duration // zero for a hit
	orphaned bool
	warn     error
	kept     error // why the member could not keep the results
}

// join makes m a member of the flight for q's step, starting one where there is none.
func (fs *flights) join(q *request, m *member) {
	fs.mu.Lock()
	f := fs.byKey[q.key.key]
	if f == nil {
		f = fs.newFlight(q)
		f.lead = m
		fs.byKey[q.key.key] = f
	}
	m.f = f
	m.backs = slices.Equal(q.in, f.step.Inputs) // a build holds its own inputs
	if !m.backs {
		m.reader.tasks.Go(func() { fs.back(m) })
	}
	f.members = append(f.members, m)
	f.fresh = f.fresh || q.fresh
	if f.phase == flying {
		m.began(f.began)
	}
	f.log.attach(m.reader)
	wait := f.phase == queued
	fs.mu.Unlock()
	if wait {
		m.line.push(f, m.order)
	}
}

func (fs *flights) newFlight(q *request) *flight {
	f := &flight{fs: fs, doc: q.key.doc, record: q.record}
	f.log = newLogbook(fs.s.opts.LogMemory, fs.s.opts.LogDir)
	f.step = &Step{
		Vertex: q.v, Key: q.key.key, Inputs: q.in,
		Log: f.log.write, Status: f.log.status, Warn: f.log.warn,
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	f.ctx, f.cancel = flightContext{ctx, f}, cancel
	f.queue, f.leave = context.WithCancelCause(f.ctx)
	return f
}

// back makes m fit to answer for a flight that runs on another build's inputs, equal in what is selected of them but not
// the same. If it cannot, the flight ends should its lead leave.
func (fs *flights) back(m *member) {
	if m.hold(m.f.step.Inputs) == nil {
		fs.mu.Lock()
		m.backs = true
		fs.mu.Unlock()
	}
}

// A flightContext has the values of the context of the build that answers for the flight.
type flightContext struct {
	context.Context //nolint:containedctx // it is a context
	f               *flight
}

func (c flightContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	if key == (leftKey{}) {
		return c.f.anyKeepsLeft()
	}
	c.f.fs.mu.Lock()
	value := c.f.lead.value
	c.f.fs.mu.Unlock()
	return value(key)
}

// current returns the members there are.
func (f *flight) current() []*member {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return slices.Clone(f.members)
}

// begin takes the flight out of the queue. It reports false if there is nothing to begin: another line has had it
// admitted, or nobody waits for it.
func (f *flight) begin() bool {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.phase != queued {
		return false
	}
	f.phase = boarding
	f.leave(errTakenOff)
	return true
}

// run is the flight, from its admission to its end.
func (f *flight) run(release func()) {
	o := outcome{key: f.step.Key, in: f.step.Inputs, record: f.record, err: errExited}
	defer func() { f.land(o, release) }()
	if out, ok := f.lookAgain(); ok {
		o.out, o.err, o.hit = out, nil, true
		return
	}
	start := f.takeOff()
	s := f.fs.s
	o.err = protect(func() (err error) {
		o.out, err = s.runner.Run(f.ctx, f.step)
		return err
	})
	o.took = time.Since(start)
	if want := f.step.Vertex.outputs; o.err == nil && len(o.out) != want {
		o.err = fmt.Errorf("running the step: it has %d results, not %d", len(o.out), want)
	}
	if o.err == nil && f.record {
		// A result that is there is worth recording, even if everybody has just left.
		o.warn = s.record(context.WithoutCancel(f.ctx), f.step.Key, o.out, describe(f.step.Vertex, f.doc, o.took))
	}
}

// lookAgain looks into the cache a last time: since a member did so, a flight for the same step may have landed.
func (f *flight) lookAgain() ([]Result, bool) {
	fs := f.fs
	fs.mu.Lock()
	fresh := f.fresh
	fs.mu.Unlock()
	if fresh {
		return nil, false
	}
	out, ok, _ := fs.s.lookup(f.ctx, f.step.Key, f.step.Vertex.outputs)
	if !ok {
		return nil, false
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.fresh {
		return nil, false // such a member has joined in the meantime
	}
	fs.closeLocked(f)
	return out, true
}

// takeOff tells the members that the step runs.
func (f *flight) takeOff() time.Time {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.phase, f.began = flying, time.Now()
	for _, m := range f.members {
		m.began(f.began)
	}
	return f.began
}

// closeLocked lets nobody join f any more.
func (fs *flights) closeLocked(f *flight) {
	f.phase = landed
	fs.forgetLocked(f)
}

func (fs *flights) forgetLocked(f *flight) {
	if fs.byKey[f.step.Key] == f {
		delete(fs.byKey, f.step.Key)
	}
}

// land tells the members how the flight ended.
func (f *flight) land(o outcome, release func()) {
	f.log.close()
	if f.log.behind() {
		// A client that reads slowly must not keep the slot.
		release()
		release = nil
	}
	f.fs.mu.Lock()
	f.fs.closeLocked(f)
	o.orphaned = f.orphaned
	f.release = release
	members := slices.Clone(f.members)
	f.fs.mu.Unlock()
	holdLeft(o.err, members)
	for i, m := range members {
		if i == len(members)-1 {
			m.deliver(o)
		} else {
			go m.deliver(o) // the build of m waits for the outcome
		}
	}
}

// deliver hands m the outcome when it has made the results its own and has read the log to its end. The results come
// first, so that a slow client has no part in what they are kept alive for.
func (m *member) deliver(o outcome) {
	if o.err == nil {
		o, o.kept = m.keep(o)
	}
	m.reader.drain()
	m.ended(o)
}

// refuse ends a flight that was not admitted.
func (f *flight) refuse(err error) {
	f.fs.mu.Lock()
	wait := f.phase == queued
	if wait {
		f.fs.closeLocked(f)
	}
	f.fs.mu.Unlock()
	if wait {
		f.land(outcome{key: f.step.Key, in: f.step.Inputs, err: err}, func() {})
	}
}

// abandon takes m off a flight whose outcome its build no longer wants. If the build is still owed one, m stays until
// the outcome has come: the step has just ended, or m was the last to wait for it and it is dying.
func (fs *flights) abandon(m *member, cause error) (owed, dying bool) {
	fs.mu.Lock()
	f := m.f
	last := len(f.members) == 1
	switch {
	case f.phase == landed:
		fs.mu.Unlock()
		return true, false
	case last && f.phase != queued:
		fs.forgetLocked(f)
		fs.mu.Unlock()
		f.cancel(fmt.Errorf("%w: %w", errNobodyWaits, cause))
		return true, true
	}
	f.members = slices.DeleteFunc(f.members, func(x *member) bool { return x == m })
	end := fs.succeedLocked(f, m)
	fs.mu.Unlock()
	f.log.detach(m.reader)
	switch {
	case last:
		f.cancel(fmt.Errorf("%w: %w", errNobodyWaits, cause))
	case end != nil:
		m.reader.tasks.Go(end)
	}
	return false, false
}

// succeedLocked deals with the members of f that remain when m has left. If m was the lead, another one that holds what
// the flight runs on becomes it. If there is none, the flight must end, and those who remain will try again: the
// function that is returned ends it. It may block.
func (fs *flights) succeedLocked(f *flight, m *member) (end func()) {
	if len(f.members) == 0 {
		fs.closeLocked(f)
		return nil
	}
	if f.lead != m {
		return nil
	}
	f.orphaned = true
	for _, heir := range f.members {
		if heir.backs {
			f.lead = heir
			return nil
		}
	}
	if f.phase != queued {
		fs.forgetLocked(f)
		return func() { f.cancel(errNoHeir) }
	}
	fs.closeLocked(f)
	return func() { f.land(outcome{key: f.step.Key, in: f.step.Inputs, err: errNoHeir}, func() {}) }
}

// leave takes m off after its outcome. It reports whether m was the last, so that the log can be thrown away.
func (fs *flights) leave(m *member) (last bool) {
	fs.mu.Lock()
	f := m.f
	f.members = slices.DeleteFunc(f.members, func(x *member) bool { return x == m })
	last = len(f.members) == 0
	release := f.release
	f.release = nil
	fs.mu.Unlock()
	if release != nil {
		release()
	}
	if last {
		f.cancel(errLanded)
	}
	return last
}
