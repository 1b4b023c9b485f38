package dockerfile

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// A group is an errgroup.Group of whose functions the one that began first tells its error, if several fail by themselves:
// which of two places in a file is reported does not hang on a race. Its methods are for one goroutine.
type group struct {
	group *errgroup.Group
	cause func() error // why the functions are to end; nil while they are not
	errs  []*failure
}

// A failure is how a function of a group ended.
type failure struct {
	err      error
	followed bool // only since another failed
}

// together returns a group and the context of its functions, which ends when one of them fails.
func together(ctx context.Context) (*group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return &group{group: g, cause: func() error { return context.Cause(ctx) }}, ctx
}

// Go begins fn.
func (g *group) Go(fn func() error) {
	f := new(failure)
	g.errs = append(g.errs, f)
	g.group.Go(func() error {
		f.err = fn()
		// What is cancelled may say so by its cause, with words of its own around it.
		cause := g.cause()
		f.followed = errors.Is(f.err, context.Canceled) || cause != nil && errors.Is(f.err, cause)
		return f.err
	})
}

// Wait waits for all functions.
func (g *group) Wait() error {
	first := g.group.Wait()
	for _, f := range g.errs {
		if f.err != nil && !f.followed {
			return f.err
		}
	}
	return first
}
