package solver

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// demand makes sure that n is being worked on.
func (b *build) demand(n *node) {
	if n.state == idle {
		b.probe(n)
	}
}

// probe starts to look for n by its recipe key, where that is allowed.
func (b *build) probe(n *node) {
	b.move(n, probing)
	if !n.trusts(useAll) {
		b.wait(n)
		return
	}
	v := n.v
	b.s.probes.submit(&b.probes, n.order, b.job(func(ctx context.Context) func() {
		out, ok, warn := b.find(ctx, v.key, v.outputs)
		return func() { b.probed(n, out, ok, warn) }
	}))
}

func (b *build) probed(n *node, out []Result, ok bool, warn error) {
	b.warn(n, warn)
	switch {
	case b.err != nil:
		b.drop(n)
	case ok:
		b.finish(n, out, Event{Kind: Cached, Key: n.v.key, Hit: RecipeHit})
	default:
		b.wait(n)
	}
}

// wait has n's inputs found. It only notes that they are to be looked at, since what follows from what in a deep graph
// must not be followed on the goroutine's stack.
func (b *build) wait(n *node) {
	b.move(n, waiting)
	b.todo.push(n.order, n)
}

// gather looks at the inputs of every node on the list, and demands those that are not done.
func (b *build) gather() {
	for b.todo.len() > 0 {
		_, n := b.todo.pop()
		for _, in := range n.inputs {
			if in.state != done {
				n.pending++
				in.waiters = append(in.waiters, n)
				b.demand(in)
			}
		}
		if n.pending > 0 {
			b.settle(n) // one of its inputs was lost again in the meantime
			continue
		}
		b.hash(n)
	}
}

// hash has the step key of n computed, and looked up where that is allowed. All its inputs are done.
func (b *build) hash(n *node) {
	n.asOf = b.clock
	v := n.v
	if len(n.inputs) == 0 {
		// The step key is the recipe key, which has been looked up if it may be.
		b.launch(n, nil, stepKey{key: v.key, doc: v.doc})
		return
	}
	b.move(n, hashing)
	in := make([]Result, len(n.inputs))
	p, l := b.s.probes, &b.probes
	for i, x := range n.inputs {
		in[i] = x.out[v.inputs[i].Output]
		if v.inputs[i].Select != nil {
			p, l = b.s.hashes, &b.hashes
		}
	}
	look := n.trusts(useStep)
	p.submit(l, n.order, b.job(func(ctx context.Context) func() {
		k, err := b.s.hash(ctx, v, in)
		if !look || err != nil || k.lost != nil {
			return func() { b.hashed(n, in, k, err) }
		}
		out, ok, warn := b.find(ctx, k.key, v.outputs)
		if ok {
			warn = b.s.record(context.WithoutCancel(ctx), v.key, out, describe(v, v.doc, 0))
		}
		return func() {
			b.warn(n, warn)
			if ok && b.err == nil {
				b.finish(n, out, Event{Kind: Cached, Key: k.key, Hit: StepHit})
				b.settle(n)
				return
			}
			b.hashed(n, in, k, nil)
		}
	}))
}

// hashed goes on with n when its step key is known and in no cache.
func (b *build) hashed(n *node, in []Result, k stepKey, err error) {
	defer b.settle(n) // after n is in the queue for its flight
	switch {
	case b.err != nil:
		b.drop(n)
	case err != nil:
		b.fail(n, err)
	case k.lost != nil:
		b.refind(n, k.lost)
	default:
		b.launch(n, in, k)
	}
}

// launch has n join the flight for its step.
func (b *build) launch(n *node, in []Result, k stepKey) {
	b.move(n, running)
	v := n.v
	n.m = &member{
		order: n.order,
		line:  b.line(v),
		value: b.value,
		hold:  b.hold,
		keep:  func(o outcome) (outcome, error) { return b.keep(v, o) },
		began: func(at time.Time) {
			b.box.post(func() { b.tell(n, Event{Kind: Started, Time: at, Key: k.key}) })
		},
	}
	m := n.m
	m.ended = func(o outcome) { b.box.post(func() { b.landed(n, m, o) }) }
	m.reader = newReader(&b.tasks, func(events []Event, ack chan<- struct{}) {
		b.box.post(func() {
			for _, e := range events {
				b.tell(n, e)
			}
			ack <- struct{}{}
		})
	})
	b.s.flights.join(&request{
		v: v, key: k, in: in,
		fresh:  !n.trusts(useStep),
		record: n.policy < noRecord,
	}, m)
}

// line returns the queue in which the build's steps of v's kind wait for admission.
func (b *build) line(v *Vertex) *line {
	class := b.s.class(v.op)
	l := b.lines[class]
	if l == nil {
		l = &line{admit: b.s.admitter.Admit}
		b.lines[class] = l
	}
	return l
}

// landed goes on with n when its flight is over.
func (b *build) landed(n *node, m *member, o outcome) {
	b.warn(n, o.warn)
	var lost *LostError
	if o.err == nil && o.kept == nil {
		e := Event{Kind: Done, Key: o.key}
		if o.hit {
			e.Kind, e.Hit = Cached, StepHit
		}
		b.finish(n, o.out, e)
		if b.err != nil || n.effects == 0 {
			b.leave(n)
		}
		return
	}
	n.m = nil
	switch {
	case b.err != nil && (o.err == nil || m.dying):
		b.drop(n)
	case o.err == nil && errors.Is(o.kept, ErrMiss):
		n.lost++
		b.retry(n)
	case o.err == nil:
		b.fail(n, fmt.Errorf("holding the result: %w", o.kept))
	case b.err != nil:
		b.fail(n, o.err)
	case errors.As(o.err, &lost):
		b.refind(n, b.gone(n, o.in, lost.Inputs))
	case errors.Is(o.err, ErrMiss):
		b.refind(n, b.gone(n, o.in, nil))
	case o.orphaned:
		b.retry(n) // the build that the step ran for has gone, maybe with what the step needed of it
	default:
		b.fail(n, o.err)
	}
	b.leaveMember(m)
}

// finish makes n done, and wakes what waits for it.
func (b *build) finish(n *node, out []Result, e Event) {
	b.move(n, done)
	b.clock++
	n.out, n.doneAt, n.losses = out, b.clock, 0
	b.tell(n, e)
	for _, w := range n.waiters {
		w.pending--
		if w.pending == 0 && w.state == waiting && b.err == nil {
			w.cause = n
			n.effects++
			b.todo.push(w.order, w)
		}
	}
	n.waiters = nil
}
