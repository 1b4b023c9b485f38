package solver_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

// Builds of one graph at the same time run each step once, however they meet: in a flight, or in the cache after it.
func TestConcurrentBuildsRunEachStepOnce(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		g := solvertest.Random(rng, 150)
		want, err := solvertest.Eval(everything(g))
		if err != nil {
			t.Fatal(err)
		}
		w := &solvertest.World{}
		var cached []string // what ignores the cache may run once for each build
		for _, name := range g.Names {
			v := g.Vertex(name)
			if v.Meta().IgnoreCache || v.Op().(solvertest.Op).Ephemeral() {
				cached = append(cached, name)
			}
		}
		if len(cached) > 0 {
			g = withoutSpecials(g)
		}
		s := solver.New(w, &solvertest.Cache{}, solver.Options{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				out, events, err := solve(t.Context(), s, everything(g))
				if err != nil {
					t.Error(err)
					return
				}
				check(t, events)
				if got := w.Values(out); !equal(got, want) {
					t.Errorf("seed %d: got %v, want %v", seed, got, want)
				}
			})
		}
		wg.Wait()
		if got := w.Most(); got != 1 {
			t.Errorf("seed %d: a step ran %d times", seed, got)
		}
	}
}

// withoutSpecials returns g with every vertex cached as usual.
func withoutSpecials(g *solvertest.Graph) *solvertest.Graph {
	out := &solvertest.Graph{}
	for _, name := range g.Names {
		v := g.Vertex(name)
		op := v.Op().(solvertest.Op)
		kind := strings.Replace(op.Kind, "temp", "const", 1)
		line := fmt.Sprintf("%s = %s %d", name, kind, op.Arg)
		for _, in := range v.Inputs() {
			line += fmt.Sprintf(" %s.%d", in.Vertex.Name(), in.Output)
			if in.Select != nil {
				line += "[" + strings.Join(in.Select.Paths, ",") + "]"
			}
		}
		if err := out.Define(line); err != nil {
			panic(err)
		}
	}
	return out
}

// A build that has found nothing in the cache, and is slow to say so, does not run a step that another has finished in
// between.
func TestStepThatLandedSinceItWasLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &solvertest.World{}
		c := &slowCache{}
		s := solver.New(w, c, solver.Options{})
		g := solvertest.MustParse("a = const 3")
		c.delay.Store(int64(time.Second))
		done := make(chan string, 1)
		go func() {
			_, events, err := solve(t.Context(), s, g.Inputs("a"))
			done <- fmt.Sprint(events.Story("a"), err)
		}()
		synctest.Wait()
		c.delay.Store(0)
		if _, _, err := solve(t.Context(), s, g.Inputs("a")); err != nil {
			t.Fatal(err)
		}
		if got, want := <-done, "cached step<nil>"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := w.Most(); got != 1 {
			t.Errorf("the step ran %d times", got)
		}
	})
}

// slowCache takes its time between looking up and answering.
type slowCache struct {
	solvertest.Cache
	delay atomic.Int64
}

func (c *slowCache) Get(ctx context.Context, k solver.Key) ([]solver.Result, error) {
	out, err := c.Cache.Get(ctx, k)
	time.Sleep(time.Duration(c.delay.Load()))
	return out, err
}

// A vertex that ignores the cache joins a step that runs for another build, since that is as fresh as can be, but makes
// it run if it was about to be found in the cache after all.
func TestIgnoreCacheJoinsFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &solvertest.World{OnRun: sleep(time.Second)}
		c := &slowCache{}
		s := solver.New(w, c, solver.Options{})
		usual, fresh := solvertest.MustParse("a = const 3"), solvertest.MustParse("a = const 3 !nocache")
		var wg sync.WaitGroup
		build := func(g *solvertest.Graph, want string) {
			wg.Go(func() {
				_, events, err := solve(t.Context(), s, g.Inputs("a"))
				if got := fmt.Sprint(events.Story("a"), err); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
		build(usual, "started done<nil>")
		time.Sleep(time.Second / 2)
		build(fresh, "started done<nil>")
		wg.Wait()
		if got := w.Most(); got != 1 {
			t.Fatalf("the step ran %d times", got)
		}
		// Now the record is there, but the first build's look-up by recipe does not see it. Its second look, when the
		// flight boards, does; by then the fresh one has joined.
		c.Delete(usual.Vertex("a").Recipe())
		c.delay.Store(int64(time.Second))
		build(usual, "started done<nil>")
		time.Sleep(time.Second / 2)
		c.Put(t.Context(), usual.Vertex("a").Recipe(), []solver.Result{"r1"})
		time.Sleep(time.Second)
		build(fresh, "started done<nil>")
		wg.Wait()
		if got := w.Most(); got != 2 {
			t.Errorf("the step ran %d times", got)
		}
	})
}

// sleep returns a World.OnRun that takes d, unless it is cancelled.
func sleep(d time.Duration) func(context.Context, *solver.Step) error {
	return func(ctx context.Context, _ *solver.Step) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Cancelling one of two builds that wait for a step leaves the other and the step unharmed; whoever came first.
func TestCancelOneOfTwo(t *testing.T) {
	for victim := range 2 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, solver.Options{})
			r.w.OnRun = sleep(time.Second)
			g := solvertest.MustParse("a = const 3\nb = add 1 a\nc = add 1 b")
			cause := errors.New("ctrl-C")
			ctx, cancel := context.WithCancelCause(t.Context())
			ctxs := []context.Context{t.Context(), t.Context()}
			ctxs[victim] = ctx
			var wg sync.WaitGroup
			for i, ctx := range ctxs {
				wg.Go(func() {
					start := time.Now()
					out, events, err := solve(ctx, r.s, g.Inputs("c"))
					check(t, events)
					if i == victim {
						if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || time.Since(start) != 3*time.Second/2 {
							t.Errorf("the victim got %v after %v", err, time.Since(start))
						}
						r.stories(events, "a", "started done", "b", "started canceled", "c", "canceled")
						return
					}
					if err != nil || !equal(r.w.Values(out), []int{5}) || time.Since(start) != 3*time.Second {
						t.Errorf("the other got %v, %v after %v", out, err, time.Since(start))
					}
				})
				synctest.Wait()
			}
			time.Sleep(3 * time.Second / 2)
			cancel(cause)
			wg.Wait()
			r.equal(r.w.Ran(), []string{"a", "b", "c"})
		})
	}
}

// When the last build leaves, the step's context ends, with a cause that says so, and Solve returns only when the step
// has ended.
func TestLastOneOutCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{})
		var ended time.Time
		var cause error
		r.w.OnRun = func(ctx context.Context, step *solver.Step) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			time.Sleep(time.Second) // to kill what it has started
			step.Log(solver.Stdout, []byte("bye"))
			ended = time.Now()
			return ctx.Err()
		}
		g := solvertest.MustParse("a = const 3")
		why := errors.New("ctrl-C")
		ctx1, cancel1 := context.WithCancelCause(t.Context())
		ctx2, cancel2 := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		for i, ctx := range []context.Context{ctx1, ctx2} {
			wg.Go(func() {
				_, events, _ := solve(ctx, r.s, g.Inputs("a"))
				r.stories(events, "a", "started canceled")
				if i == 1 {
					r.equal(time.Now(), ended)
					r.equal(events.Output("a"), "bye")
				}
			})
		}
		time.Sleep(time.Second)
		cancel1(why)
		synctest.Wait()
		if cause != nil {
			t.Error("the step was cancelled while a build waited for it")
		}
		cancel2(why)
		wg.Wait()
		if !errors.Is(cause, why) {
			t.Errorf("the cause is %v", cause)
		}
	})
}

// A build that comes when another's step is dying starts the step anew.
func TestJoinAfterLastLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{})
		r.w.OnRun = func(ctx context.Context, step *solver.Step) error {
			err := sleep(time.Second)(ctx, step)
			if err != nil {
				time.Sleep(time.Second)
			}
			return err
		}
		g := solvertest.MustParse("a = const 3")
		ctx, cancel := context.WithCancel(t.Context())
		go solve(ctx, r.s, g.Inputs("a"))
		synctest.Wait()
		cancel()
		synctest.Wait()
		got, _ := r.build(g.Inputs("a"))
		r.equal(got, []int{3})
		time.Sleep(time.Hour)
	})
}

// A step that fails after the build has gone for which it ran, and whose secrets or session it may have used, is tried
// again for those who still wait.
func TestOrphanedStepRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{})
		type session struct{}
		ctx1, cancel := context.WithCancel(context.WithValue(t.Context(), session{}, "first"))
		ctx2 := context.WithValue(t.Context(), session{}, "second")
		r.w.OnRun = func(ctx context.Context, step *solver.Step) error {
			name := ctx.Value(session{})
			sleep(time.Second)(ctx, step)
			if now := ctx.Value(session{}); now != name {
				return fmt.Errorf("the session is %v no more, but %v", name, now)
			}
			return nil
		}
		g := solvertest.MustParse("a = const 3")
		go solve(ctx1, r.s, g.Inputs("a"))
		synctest.Wait()
		go func() {
			time.Sleep(time.Second / 2)
			cancel()
		}()
		out, events, err := solve(ctx2, r.s, g.Inputs("a"))
		if err != nil {
			t.Fatal(err)
		}
		r.equal(r.w.Values(out), []int{3})
		r.stories(events, "a", "started done")
		r.equal(r.w.Ran(), []string{"a", "a"})
	})
}

// Whoever waits for a step gets all of its output, in order, whenever he came, and even if it is far more than what is
// kept in memory; progress and warnings too.
func TestEverybodyGetsTheWholeLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{LogMemory: 1000, LogDir: t.TempDir()})
		var want strings.Builder
		r.w.OnRun = func(_ context.Context, step *solver.Step) error {
			step.Warn(solver.Warning{Short: "careful"})
			for i := range 10 {
				line := strings.Repeat(fmt.Sprint(i), 10_007*(i%5)) + "\n"
				want.WriteString(line)
				step.Log(solver.Stdout+solver.Stream(i%2), []byte(line))
				step.Status(solver.Status{ID: "x", Current: int64(i)})
				time.Sleep(time.Second)
			}
			return nil
		}
		g := solvertest.MustParse("a = const 3")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				_, events := r.build(g.Inputs("a"))
				if got := events.Output("a"); got != want.String() {
					t.Errorf("got %d bytes of output, want %d", len(got), want.Len())
				}
				r.stories(events, "a", "started warned done")
				var last solver.Status
				for _, e := range events.Of("a") {
					if e.Kind == solver.Progress {
						last = e.Status
					}
				}
				r.equal(last.Current, int64(9))
			})
			time.Sleep(2500 * time.Millisecond)
		}
		wg.Wait()
	})
}

// A client that takes events slowly gets all of them, and holds up neither the step nor another build.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &solvertest.World{OnRun: func(_ context.Context, step *solver.Step) error {
			for range 1000 {
				step.Log(solver.Stdout, make([]byte, 1000))
			}
			return nil
		}}
		s := solver.New(w, &solvertest.Cache{}, solver.Options{LogMemory: 10_000, Parallelism: 1})
		g := solvertest.MustParse("a = const 3")
		got := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Solve(t.Context(), &solver.Build{Targets: g.Inputs("a"), Events: func(e solver.Event) {
				got += len(e.Data)
				if e.Kind == solver.Logged {
					time.Sleep(time.Second)
				}
			}})
		}()
		synctest.Wait()
		start := time.Now()
		other := solvertest.MustParse("b = const 4")
		if _, _, err := solve(t.Context(), s, append(g.Inputs("a"), other.Inputs("b")...)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the other build took %v", took)
		}
		<-done
		if got != 1_000_000 {
			t.Errorf("got %d bytes", got)
		}
	})
}

// Two builds may share a step whose inputs differ, where they are equal in what is selected. When the build leaves whose
// inputs the step runs on, the other goes on to hold them; if it could not, the step runs again on its own.
func TestInheritedInputs(t *testing.T) {
	for _, hold := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := &heldOnly{World: solvertest.World{Strict: true}}
			w.OnRun = func(ctx context.Context, step *solver.Step) error {
				if step.Vertex.Name() != "b" {
					return nil
				}
				return sleep(time.Second)(ctx, step)
			}
			s := solver.New(w, &solvertest.Cache{}, solver.Options{})
			first := solvertest.MustParse("a = const 13\nb = add 1 a[/mod/10]")
			second := solvertest.MustParse("a = const 23\nb = add 1 a[/mod/10]")
			ctx1, release := solvertest.WithLease(t.Context())
			ctx1, cancel := context.WithCancel(ctx1)
			ctx2, release2 := solvertest.WithLease(t.Context())
			defer release2()
			var wg sync.WaitGroup
			wg.Go(func() {
				defer release()
				solve(ctx1, s, first.Inputs("b"))
			})
			synctest.Wait()
			if !hold {
				w.refuse.Store("r1")
			}
			wg.Go(func() {
				time.Sleep(time.Second / 2)
				cancel()
			})
			out, events, err := solve(ctx2, s, second.Inputs("b"))
			if err != nil || !equal(w.Values(out), []int{4}) {
				t.Fatalf("got %v, %v", out, err)
			}
			check(t, events)
			wg.Wait()
			want := map[bool]int{true: 1, false: 2}[hold]
			if got := w.Most(); got != want || w.Losses() != 0 {
				t.Errorf("hold %v: b ran %d times, %d losses", hold, got, w.Losses())
			}
		})
	}
}

// The build that takes over a flight is one that holds its inputs, and it is that one's context which the step sees.
func TestHeirIsFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type who struct{}
		w := &heldOnly{}
		seen := "nobody"
		w.OnRun = func(ctx context.Context, step *solver.Step) error {
			if step.Vertex.Name() == "b" {
				err := sleep(time.Second)(ctx, step)
				seen, _ = ctx.Value(who{}).(string)
				return err
			}
			return nil
		}
		s := solver.New(w, &solvertest.Cache{}, solver.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		join := func(ctx context.Context, name string, n int) {
			g := solvertest.MustParse(fmt.Sprintf("a = const %d\nb = add 1 a[/mod/10]", n))
			wg.Go(func() { solve(context.WithValue(ctx, who{}, name), s, g.Inputs("b")) })
			synctest.Wait()
		}
		join(ctx, "first", 13)
		w.refuse.Store("r1")
		join(t.Context(), "unfit", 23)
		w.refuse.Store("")
		join(t.Context(), "fit", 33)
		cancel()
		wg.Wait()
		if seen != "fit" {
			t.Errorf("the step saw the context of %s", seen)
		}
		if n := w.Most(); n != 1 {
			t.Errorf("a step ran %d times", n)
		}
	})
}

// heldOnly is a World that refuses to hold one result.
type heldOnly struct {
	solvertest.World
	refuse atomic.Value
}

func (h *heldOnly) Hold(ctx context.Context, r solver.Result) error {
	if h.refuse.Load() == string(r) {
		return solver.ErrMiss
	}
	return h.World.Hold(ctx, r)
}
