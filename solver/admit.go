package solver

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
)

// slots is the Admitter for a Runner that is none: so many steps at once. Who waits longest is served first; as each
// build has one step waiting at a time, builds take turns.
type slots chan struct{}

func (s slots) Admit(ctx context.Context, _ *Step) (release func(), err error) {
	select {
	case s <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return func() { <-s }, nil
}

// class returns what steps must have in common to wait for one another's admission. An Admitter may well have room for
// a download while a command waits for a CPU.
func (s *Solver) class(op Op) any {
	if s.classes {
		return reflect.TypeOf(op)
	}
	return nil
}

// A line is the steps of one build and class that wait to be admitted. It has the first one in depth-first order wait
// for admission, and calls that off when a step comes that goes before it. That only one waits is what makes the
// Admitter's order of arrival fair between builds. A flight with members of several builds stands in the line of each.
type line struct {
	admit func(ctx context.Context, step *Step) (release func(), err error)

	mu     sync.Mutex // guards what follows; never held while admitting
	wait   ordered[*flight]
	order  int                     // of the flight that is being admitted
	recall context.CancelCauseFunc // calls its admission off; nil when there is none
	served bool                    // a goroutine is in serve
	closed bool
	idle   sync.WaitGroup
}

// Why an admission was called off.
var (
	errOvertaken  = errors.New("a step that goes before this one is ready")
	errLineClosed = errors.New("the build is over")
)

// push puts f into the line.
func (l *line) push(f *flight, order int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wait.push(order, f)
	switch {
	case !l.served:
		l.served = true
		l.idle.Go(l.serve)
	case l.recall != nil && order < l.order:
		l.recall(errOvertaken)
	}
}

// serve has the flights admitted, in order, until there are none.
func (l *line) serve() {
	for {
		f, order, ctx := l.take()
		if f == nil {
			return
		}
		var release func()
		err := protect(func() (err error) {
			release, err = l.admit(ctx, f.step)
			return err
		})
		l.mu.Lock()
		recall := l.recall
		l.recall = nil
		// An Admitter that has just found room may not have seen that ctx has ended.
		overtaken := errors.Is(context.Cause(ctx), errOvertaken)
		if overtaken {
			l.wait.push(order, f)
		}
		l.mu.Unlock()
		switch {
		case overtaken && err == nil && release != nil:
			release()
		case overtaken:
		case err == nil && f.begin():
			if release == nil {
				release = func() {}
			}
			go f.run(release) // its members wait for the outcome
		case err == nil && release != nil:
			release()
		case err != nil && ctx.Err() == nil:
			f.refuse(fmt.Errorf("waiting for resources: %w", err))
		}
		recall(nil)
	}
}

// take returns the flight to be admitted next, or nil when there is none.
func (l *line) take() (f *flight, order int, ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed && l.wait.len() > 0 {
		order, f = l.wait.pop()
		if f.queue.Err() != nil {
			continue // it has been admitted through another line, or nobody waits for it
		}
		l.order = order
		ctx, l.recall = context.WithCancelCause(f.queue)
		return f, order, ctx
	}
	l.served = false
	return nil, 0, nil
}

// close ends the line and waits until nothing is being admitted through it. Flights that are still in it are either
// over or in other lines too.
func (l *line) close() {
	l.mu.Lock()
	l.closed = true
	if l.recall != nil {
		l.recall(errLineClosed)
	}
	l.mu.Unlock()
	l.idle.Wait()
}
