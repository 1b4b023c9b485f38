package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// TestTogether checks that of functions that fail the first tells its error, that one which was only cancelled does not,
// and that a failure cancels the rest.
func TestTogether(t *testing.T) {
	for range 100 {
		g, ctx := together(t.Context())
		g.Go(func() error { <-ctx.Done(); return context.Cause(ctx) })
		g.Go(func() error { <-ctx.Done(); return ctx.Err() })
		for _, text := range []string{"1", "2", "3"} {
			g.Go(func() error { return errors.New(text) })
		}
		err := g.Wait()
		// What the first got as the cause is an error of one of the others.
		if err == nil || errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	for range 100 {
		g, ctx := together(t.Context())
		g.Go(func() error { <-ctx.Done(); return fmt.Errorf("pulling: %w", context.Cause(ctx)) })
		g.Go(func() error { return errors.New("broken") })
		if err := g.Wait(); err == nil || err.Error() != "broken" {
			t.Fatalf("got %v, and nothing was pulled", err)
		}
	}
	for range 100 {
		g, _ := together(t.Context())
		for _, text := range []string{"1", "2", "3"} {
			g.Go(func() error { return errors.New(text) })
		}
		if err := g.Wait(); err == nil || err.Error() != "1" {
			t.Fatalf("got %v, want 1", err)
		}
	}
	g, _ := together(t.Context())
	g.Go(func() error { return context.Canceled })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("of one that was cancelled: %v", err)
	}
	g, _ = together(t.Context())
	if err := g.Wait(); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}
