package solver_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

const threeStages = `
	a1 = const 1
	a2 = add 1 a1[]
	a3 = add 1 a2
	b1 = const 2
	b2 = add 1 b1
	b3 = add 1 b2[]
	c1 = const 3
	c2 = add 1 c1
	c3 = add 1 c2
	all = add 0 a3 b3 c3`

// With room for one step at a time, a build ends each stage before it begins the next, whoever does the admitting. With
// one look-up at a time it is certain which source is ready first.
func TestDepthFirst(t *testing.T) {
	want := strings.Fields("a1 a2 a3 b1 b2 b3 c1 c2 c3 all")
	for range 100 {
		r := newRig(t, solver.Options{Parallelism: 1, Probes: 1})
		r.build(solvertest.MustParse(threeStages).Inputs("all"))
		r.equal(r.w.Ran(), want)

		for _, deaf := range []bool{false, true} {
			a := &admitter{deaf: deaf, room: map[string]chan struct{}{"": make(chan struct{}, 1)}}
			s := solver.New(a, &solvertest.Cache{}, solver.Options{Probes: 1})
			// The Admitter's classes are the types of the operations, of which there is but one.
			if _, _, err := solve(t.Context(), s, solvertest.MustParse(threeStages).Inputs("all")); err != nil {
				t.Fatal(err)
			}
			if got := a.Ran(); !slices.Equal(got, want) {
				t.Errorf("deaf %v: ran in the order %v", deaf, got)
			}
		}
	}
}

// An admitter is a World with so much room for steps, by the name of the vertex, or for all.
type admitter struct {
	solvertest.World
	room map[string]chan struct{}
	deaf bool // it waits for room, whatever has become ready meanwhile

	mu                sync.Mutex // guards what follows
	admitted, release int
	refuse            error
}

func (a *admitter) Admit(ctx context.Context, step *solver.Step) (func(), error) {
	a.mu.Lock()
	err := a.refuse
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	room := a.room[step.Vertex.Name()]
	if room == nil {
		room = a.room[""]
	}
	if a.deaf {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case room <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a.mu.Lock()
	a.admitted++
	a.mu.Unlock()
	return func() {
		<-room
		a.mu.Lock()
		a.release++
		a.mu.Unlock()
	}, nil
}

// What was admitted is given back, however the step and the build end.
func TestReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admitter{room: map[string]chan struct{}{"": make(chan struct{}, 2)}}
		s := solver.New(a, &solvertest.Cache{}, solver.Options{Probes: 1})
		g := solvertest.MustParse(threeStages)
		for _, fail := range []string{"", "a2", "c1", "all"} {
			a.OnRun = failing(fail, errFails)
			_, events, err := solve(t.Context(), s, fresh(g).Inputs("all"))
			check(t, events)
			if (err != nil) != (fail != "") {
				t.Errorf("failing %q: got %v", fail, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, events, _ := solve(ctx, s, fresh(g).Inputs("all"))
		check(t, events)
		synctest.Wait()
		if a.admitted != a.release || a.admitted == 0 {
			t.Errorf("admitted %d, released %d", a.admitted, a.release)
		}
	})
}

// fresh returns g with every vertex ignoring the cache.
func fresh(g *solvertest.Graph) *solvertest.Graph {
	out := &solvertest.Graph{}
	made := make(map[*solver.Vertex]*solver.Vertex)
	for _, name := range g.Names {
		v := g.Vertex(name)
		inputs := slices.Clone(v.Inputs())
		for i := range inputs {
			inputs[i].Vertex = made[inputs[i].Vertex]
		}
		meta := v.Meta()
		meta.IgnoreCache = true
		made[v] = solver.NewVertex(v.Op(), inputs, meta)
		out.Add(name, made[v])
	}
	return out
}

// A refusal fails the step.
func TestRefusal(t *testing.T) {
	a := &admitter{refuse: errors.New("needs 2 TB of memory")}
	s := solver.New(a, &solvertest.Cache{}, solver.Options{Probes: 1})
	_, events, err := solve(t.Context(), s, solvertest.MustParse("a = const 1").Inputs("a"))
	check(t, events)
	var ve *solver.VertexError
	if !errors.As(err, &ve) || !errors.Is(err, a.refuse) {
		t.Errorf("got %v", err)
	}
}

// Builds take turns: a small build that comes when a large one has filled the queue is through long before it.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{Parallelism: 2})
		r.w.OnRun = sleep(time.Second)
		large, small := solvertest.Wide(200), solvertest.MustParse(threeStages)
		var wg sync.WaitGroup
		wg.Go(func() { r.build(large.Inputs("v199")) })
		time.Sleep(time.Second / 2)
		start := time.Now()
		r.build(small.Inputs("all"))
		if took := time.Since(start); took > 14*time.Second {
			t.Errorf("the small build took %v", took)
		}
		wg.Wait()
		if took := time.Since(start); took < 100*time.Second || took > 110*time.Second {
			t.Errorf("all took %v", took)
		}
	})
}

// As many steps run at once as there is room for, and no more.
func TestParallelism(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{Parallelism: 7})
		var mu sync.Mutex
		now, most := 0, 0
		add := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			now += n
			most = max(most, now)
		}
		r.w.OnRun = func(ctx context.Context, step *solver.Step) error {
			add(1)
			defer add(-1)
			return sleep(time.Second)(ctx, step)
		}
		start := time.Now()
		r.build(solvertest.Wide(71).Inputs("v70"))
		r.equal(most, 7)
		r.equal(time.Since(start), 11*time.Second)
	})
}
