package history

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// A text is an operation for tests.
type text string

func (t text) WriteKey(h *solver.Hasher) { h.Version("text", 1); h.Str("text", string(t)) }
func (t text) String() string            { return string(t) }

func vertex(name string, inputs ...*solver.Vertex) *solver.Vertex {
	var in []solver.Input
	for _, v := range inputs {
		in = append(in, solver.Input{Vertex: v})
	}
	return solver.NewVertex(text(name), in, solver.Meta{Name: "[" + name + "]", Source: []solver.Range{{Start: 1, End: 2}}})
}

// A script is a builder whose builds are functions.
type script func(ctx context.Context, req *worker.BuildRequest, events func(solver.Event)) (*worker.BuildResult, error)

func (f script) Build(ctx context.Context, req *worker.BuildRequest, events func(solver.Event)) (*worker.BuildResult, error) {
	return f(ctx, req, events)
}

func open(t *testing.T, opt Options) *Store {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	s, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// lines says what events are, one a line.
func lines(evs []solver.Event) string {
	var b strings.Builder
	for _, ev := range evs {
		name := ""
		if ev.Vertex != nil {
			name = ev.Vertex.Name()
		}
		fmt.Fprintf(&b, "%d %s %q %v %v %v\n", ev.Kind, name, ev.Data, ev.Status.Current, ev.Warning.Short, ev.Err)
	}
	return b.String()
}

func watch(t *testing.T, s *Store, id string) []solver.Event {
	t.Helper()
	var got []solver.Event
	err := s.Watch(t.Context(), id, time.Minute, func(ev solver.Event) error {
		ev.Data = append([]byte(nil), ev.Data...)
		got = append(got, ev)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// sample sends events of every kind and returns them as Watch has to give them.
func sample(send func(solver.Event)) []solver.Event {
	a := vertex("a")
	b := vertex("b", a)
	at := time.Unix(1700000000, 5)
	evs := []solver.Event{
		{Kind: solver.Declared, Vertex: a},
		{Kind: solver.Declared, Vertex: b},
		{Kind: solver.Cached, Vertex: a, Key: a.Recipe(), Hit: solver.RecipeHit},
		{Kind: solver.Started, Vertex: b, Key: solver.Key{7}},
		{Kind: solver.Logged, Vertex: b, Stream: 2, Data: []byte("hello\xff\x00")},
		{Kind: solver.Progress, Vertex: b, Status: solver.Status{ID: "x", Current: 3, Total: 4}},
		{Kind: solver.Warned, Vertex: b, Warning: solver.Warning{Short: "careful", Source: []solver.Range{{Start: 3, End: 3}}}},
		{Kind: solver.Failed, Vertex: b, Err: errors.New("it broke")},
	}
	for i := range evs {
		evs[i].Time = at.Add(time.Duration(i) * time.Second)
		send(evs[i])
	}
	return evs
}

// What is watched is what was reported: while the build runs, after it has ended, and after a restart.
func TestReplay(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	var want []solver.Event
	live := make(chan []solver.Event)
	started := make(chan struct{})
	go func() {
		<-started
		live <- watch(t, s, "one")
	}()
	_, err := s.Wrap(script(func(_ context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
		close(started)
		want = sample(send)
		return &worker.BuildResult{Metadata: map[string]string{"k": "v"}}, nil
	})).Build(t.Context(), &worker.BuildRequest{ID: "one"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, got []solver.Event) {
		t.Helper()
		if g, w := lines(got), lines(want); g != w {
			t.Errorf("%s: got\n%swant\n%s", when, g, w)
		}
		for i := range got {
			g, w := got[i], want[i]
			if g.Vertex.Recipe() != w.Vertex.Recipe() || !reflect.DeepEqual(g.Vertex.Meta(), w.Vertex.Meta()) || !g.Time.Equal(w.Time) ||
				g.Key != w.Key || g.Hit != w.Hit || g.Stream != w.Stream {
				t.Errorf("%s: got %+v, want %+v", when, g, w)
			}
		}
		if in := got[1].Vertex.Inputs(); len(in) != 1 || in[0].Vertex != got[0].Vertex {
			t.Errorf("%s: inputs of b are %v", when, in)
		}
	}
	check("live", <-live)
	check("after", watch(t, s, "one"))
	s.Close()
	s = open(t, Options{Dir: dir})
	check("restarted", watch(t, s, "one"))
	rec, err := s.Get("one")
	if err != nil {
		t.Fatal(err)
	}
	if want := (Steps{Total: 2, Cached: 1, Completed: 2, Warnings: 1}); rec.Steps != want || rec.Status != Completed {
		t.Errorf("got %+v %s, want %+v", rec.Steps, rec.Status, want)
	}
	if rec.Result.Metadata["k"] != "v" {
		t.Errorf("result %+v", rec.Result)
	}
}
