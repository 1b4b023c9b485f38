package solver_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

// A leaver is a world whose step b fails and leaves a tree, if that is wanted. What a build holds of it is noted.
type leaver struct {
	*solvertest.World
	mu     sync.Mutex
	wanted []bool         // what KeepsLeft said, by run
	held   map[string]int // by the name of the build
	slow   time.Duration  // how long it takes to hold it
}

type nameKey struct{}

func (l *leaver) Run(ctx context.Context, step *solver.Step) ([]solver.Result, error) {
	if step.Vertex.Name() != "b" {
		return l.World.Run(ctx, step)
	}
	time.Sleep(time.Second)
	keep := solver.KeepsLeft(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = append(l.wanted, keep)
	err := errors.New("no")
	if keep {
		return nil, &solver.LeftError{Left: []solver.Result{"", "left"}, Err: err}
	}
	return nil, err
}

func (l *leaver) Hold(ctx context.Context, r solver.Result) error {
	if r != "left" {
		return l.World.Hold(ctx, r)
	}
	time.Sleep(l.slow)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[ctx.Value(nameKey{}).(string)]++
	return nil
}

// A step that fails is asked to keep what it has left if one of the builds that wait for it wants that, whoever came first;
// and those builds hold it, no others, before any is told.
func TestLeft(t *testing.T) {
	for _, tc := range []struct {
		wants []bool // by build, in the order in which they come
		held  int
	}{
		{[]bool{false}, 0},
		{[]bool{true}, 1},
		{[]bool{true, false}, 1},
		{[]bool{false, true}, 1},
		{[]bool{true, true, false}, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &leaver{World: &solvertest.World{}, held: map[string]int{}}
			s := solver.New(l, &solvertest.Cache{}, solver.Options{})
			g := solvertest.MustParse("a = const 3\nb = add 1 a")
			var wg sync.WaitGroup
			for i, want := range tc.wants {
				name := string(rune('A' + i))
				ctx := context.WithValue(t.Context(), nameKey{}, name)
				if want {
					ctx = solver.KeepLeft(ctx)
				}
				wg.Go(func() {
					_, events, err := solve(ctx, s, g.Inputs("b"))
					check(t, events)
					l.mu.Lock()
					defer l.mu.Unlock()
					if len(l.held) != tc.held || want && l.held[name] != 1 {
						t.Errorf("%v: when %s is told, it is held by %v", tc.wants, name, l.held)
					}
					var left *solver.LeftError
					if errors.As(err, &left) != slices.Contains(tc.wants, true) || err == nil {
						t.Errorf("%v: %s got %#v", tc.wants, name, err)
					}
				})
				synctest.Wait()
			}
			wg.Wait()
			if len(l.wanted) != 1 {
				t.Errorf("%v: the step ran %d times", tc.wants, len(l.wanted))
			}
		})
	}
}

// A build that comes while others hold what a step has left, before they are told, holds it as well, or has the step run again.
func TestLeftLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leaver{World: &solvertest.World{}, held: map[string]int{}, slow: time.Second}
		s := solver.New(l, &solvertest.Cache{}, solver.Options{})
		g := solvertest.MustParse("a = const 3\nb = add 1 a")
		var wg sync.WaitGroup
		for _, name := range []string{"A", "B"} {
			wg.Go(func() {
				_, _, err := solve(solver.KeepLeft(context.WithValue(t.Context(), nameKey{}, name)), s, g.Inputs("b"))
				l.mu.Lock()
				defer l.mu.Unlock()
				var left *solver.LeftError
				if !errors.As(err, &left) || l.held[name] != 1 {
					t.Errorf("%s got %v, held by %v", name, err, l.held)
				}
			})
			time.Sleep(1500 * time.Millisecond) // it has run, and is being held
		}
		wg.Wait()
	})
}
