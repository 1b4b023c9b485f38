package solver

import (
	"errors"
	"fmt"
)

// errLoses is why a vertex fails whose inputs or results cannot be kept alive for long enough to use them.
var errLoses = errors.New("what the step needs is lost again and again")

// again counts a loss that n has met, and reports whether n may try once more. Counting a vertex's losses in a row bounds
// one that can never succeed. Counting a build's bounds all of them together: a lost input is found again by vertices that
// may meet losses themselves, and a bound on each alone would let the work grow with the power of the graph's depth.
func (b *build) again(n *node) bool {
	n.losses++
	b.losses++
	if n.losses <= b.s.opts.Retries && b.losses <= b.s.opts.Retries*len(b.plan.nodes) {
		return true
	}
	b.fail(n, fmt.Errorf("%w (%d times)", errLoses, n.losses))
	return false
}

// retry sends n back to look at its inputs.
func (b *build) retry(n *node) {
	if b.again(n) {
		b.wait(n)
	}
}

// refind has the inputs of n that are gone found again, and then n.
func (b *build) refind(n *node, gone []int) {
	if !b.again(n) {
		return
	}
	for _, i := range gone {
		in := n.inputs[i]
		// An input that was done anew after n looked at it has been found again for another vertex already.
		if in.state == done && in.doneAt <= n.asOf {
			in.lost++
			b.leave(in)
			b.probe(in)
		}
	}
	b.wait(n)
}

// gone returns which inputs of n are gone when the flight says so of its own, used. The flight may have run on the
// results of another build, which need not be those of this one. If the flight names none, all are suspect.
func (b *build) gone(n *node, used []Result, named []int) (gone []int) {
	check := func(i int) {
		if i < 0 || i >= len(n.inputs) || i >= len(used) {
			return
		}
		in := n.inputs[i]
		if in.state == done && in.out[n.v.inputs[i].Output] == used[i] {
			gone = append(gone, i)
		}
	}
	for _, i := range named {
		check(i)
	}
	if len(named) == 0 {
		for i := range n.inputs {
			check(i)
		}
	}
	return gone
}

// fail ends n, and with it the build.
func (b *build) fail(n *node, err error) {
	b.move(n, failed)
	b.tell(n, Event{Kind: Failed, Err: err})
	b.giveUp(&VertexError{Vertex: n.v, Err: err}) // what failed is for err to say
}

// giveUp ends the build for err, unless it has failed before: everything that is not done is dropped as soon as nothing
// runs for it any more.
func (b *build) giveUp(err error) {
	if b.err != nil {
		return
	}
	b.err = err
	b.todo = ordered[*node]{}
	b.cancel(err)
	for _, n := range b.plan.nodes {
		switch n.state {
		case waiting:
			b.drop(n)
		case running:
			var owed bool
			if owed, n.m.dying = b.s.flights.abandon(n.m, err); !owed {
				n.m = nil
				b.drop(n)
			}
		case done:
			b.leave(n)
		default: // idle and failed need nothing; the jobs of the rest are ending
		}
	}
}

// drop ends n without a verdict.
func (b *build) drop(n *node) {
	b.move(n, failed)
	b.tell(n, Event{Kind: Canceled})
}

// settle notes that n is no longer on its way from its last input to its own step. The slot of the input's step is given
// back only now: n is in the queue, and if it is first in depth-first order it gets the slot.
func (b *build) settle(n *node) {
	in := n.cause
	if in == nil {
		return
	}
	n.cause = nil
	in.effects--
	if in.effects == 0 && in.state == done {
		b.leave(in)
	}
}

// leave ends n's membership of the flight that it was done by.
func (b *build) leave(n *node) {
	if m := n.m; m != nil {
		n.m = nil
		b.leaveMember(m)
	}
}

func (b *build) leaveMember(m *member) {
	if b.s.flights.leave(m) {
		b.tasks.Go(m.f.log.discard)
	}
}
