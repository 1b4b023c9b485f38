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
	errs  []*error
}

// together returns a group and the context of its functions, which ends when one of them fails.
func together(ctx context.Context) (*group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return &group{group: g}, ctx
}

// Go begins fn.
func (g *group) Go(fn func() error) {
	err := new(error)
	g.errs = append(g.errs, err)
	g.group.Go(func() error {
		*err = fn()
		return *err
	})
}

// Wait waits for all functions.
func (g *group) Wait() error {
	first := g.group.Wait()
	for _, err := range g.errs {
		if *err != nil && !errors.Is(*err, context.Canceled) {
			return *err
		}
	}
	return first
}
