package solver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Solver solves builds. It is safe for concurrent use; builds that it solves at the same time share the steps that
// they have in common.
type Solver struct {
	runner    Runner
	cache     Cache
	describer Describer // the cache, if it is one
	admitter  Admitter
	classes   bool // whether the kinds of Op are admitted independently
	opts      Options

	probes, hashes *pool
	flights        *flights
}

// New returns a Solver that runs steps with r and remembers them in c.
func New(r Runner, c Cache, opts Options) *Solver {
	s := &Solver{runner: r, cache: c, opts: opts.withDefaults()}
	s.describer, _ = c.(Describer)
	if s.admitter, s.classes = r.(Admitter); !s.classes {
		s.admitter = make(slots, s.opts.Parallelism)
	}
	s.probes, s.hashes = &pool{limit: s.opts.Probes}, &pool{limit: s.opts.Hashes}
	s.flights = &flights{s: s, byKey: make(map[Key]*flight)}
	return s
}

// A build is one call of Solve. The goroutine that made the call owns all of it; what others do for it they send back
// through the mailbox.
type build struct {
	s      *Solver
	req    *Build
	plan   *plan
	box    *mailbox
	active int            // how many nodes are in an active state
	todo   ordered[*node] // nodes in state waiting whose inputs are to be looked at
	clock  uint64         // counts the times that a node was done
	losses int            // over all nodes
	err    error          // why the build has failed

	probes, hashes lane
	lines          map[any]*line
	tasks          sync.WaitGroup // goroutines that the build waits for before it returns

	// What depends on the contexts, which are not kept. job binds a function that a pool is to call to the context
	// that ends when the build fails; what it returns is posted. hold and keep use the context of the caller of Solve,
	// since what is held must outlive Solve.
	cancel context.CancelCauseFunc
	job    func(func(ctx context.Context) (event func())) (run func())
	hold   func(out []Result) error
	keep   func(v *Vertex, out outcome) (outcome, error)
	value  func(key any) any
}

// Solve finds the results of b.Targets, in their order. Everything that it returns is held under ctx, which stands for
// the whole of the caller's build: Runner.Hold gets it unchanged.
//
// If a vertex fails, the error wraps a *VertexError that names the first to do so. If ctx ends, the error wraps ctx's
// error and its cause. Either way, Solve returns when everything has ended that ran only for this build.
func (s *Solver) Solve(ctx context.Context, b *Build) ([]Result, error) {
	for i, t := range b.Targets {
		if t.Vertex == nil || t.Output < 0 || t.Output >= t.Vertex.outputs {
			return nil, fmt.Errorf("solving build %q: target %d does not exist", b.ID, i)
		}
	}
	x := s.newBuild(ctx, b)
	x.run(ctx)
	if x.err != nil {
		return nil, x.err
	}
	out := make([]Result, len(b.Targets))
	for i, t := range b.Targets {
		out[i] = x.plan.byVertex[t.Vertex].out[t.Output]
	}
	return out, nil
}

func (s *Solver) newBuild(ctx context.Context, req *Build) *build {
	b := &build{s: s, req: req, plan: newPlan(req.Targets), box: newMailbox(), lines: make(map[any]*line)}
	jobs, cancel := context.WithCancelCause(ctx)
	b.cancel = cancel
	b.job = func(f func(context.Context) func()) func() { return func() { b.box.post(f(jobs)) } }
	b.hold = func(out []Result) error { return s.hold(ctx, out) }
	b.keep = func(v *Vertex, o outcome) (outcome, error) {
		if err := b.hold(o.out); err != nil {
			return o, err
		}
		if o.record && v.key != o.key {
			// The caller may be going; what is known now is worth recording all the same.
			o.warn = errors.Join(o.warn, s.record(context.WithoutCancel(ctx), v.key, o.out, describe(v, v.doc, o.took)))
		}
		return o, nil
	}
	b.value = ctx.Value
	return b
}

// run works on the build until every vertex that was needed is done, or one has failed and all are given up.
func (b *build) run(ctx context.Context) {
	defer b.close()
	for _, n := range b.plan.nodes {
		b.tell(n, Event{Kind: Declared})
	}
	if ctx.Err() != nil {
		b.err = interruption(ctx)
		return
	}
	for _, t := range b.req.Targets {
		b.demand(b.plan.byVertex[t.Vertex])
	}
	cancelled := ctx.Done()
	for b.gather(); b.active > 0; b.gather() {
		select {
		case <-cancelled:
			cancelled = nil
			b.giveUp(interruption(ctx))
		case <-b.box.ready:
			b.box.handle()
		}
	}
}

// interruption is the error for the end of ctx: it matches both context.Canceled and the cause that was given.
func interruption(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return fmt.Errorf("solving the build: %w", cause)
	}
	return fmt.Errorf("solving the build: %w: %w", err, cause)
}

// close waits for whatever the build has started and takes back its place in the queues.
func (b *build) close() {
	b.cancel(errBuildOver)
	for _, l := range b.lines {
		l.close()
	}
	b.tasks.Wait()
}

var errBuildOver = errors.New("the build is over")

// tell reports an event of n, unless it is one of the life cycle and comes too late: a vertex that is found a second
// time, after a loss, has had its final event.
func (b *build) tell(n *node, e Event) {
	if e.Kind < Logged {
		if e.Kind <= n.told || n.told >= Cached {
			return
		}
		n.told = e.Kind
	}
	if b.req.Events == nil {
		return
	}
	e.Vertex = n.v
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b.req.Events(e)
}

// warn reports an error that fails nothing, if there is one.
func (b *build) warn(n *node, err error) {
	if err != nil && b.err == nil {
		b.tell(n, Event{Kind: Warned, Warning: Warning{Short: err.Error()}})
	}
}
