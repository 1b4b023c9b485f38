package solvertest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/boxbuild/boxbuild/solver"
)

// Events collects the events of one build. Its Add is a Build.Events. The zero Events is ready for use.
type Events struct {
	busy atomic.Bool

	mu   sync.Mutex // guards what follows
	all  []solver.Event
	errs []string
}

// Add takes an event. Unlike the rest it notes as an error when it is called concurrently.
func (l *Events) Add(e solver.Event) {
	if !l.busy.CompareAndSwap(false, true) {
		l.note("events were reported concurrently")
	}
	defer l.busy.Store(false)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
}

func (l *Events) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, fmt.Sprintf(format, args...))
}

// Of returns the events of the vertex called name.
func (l *Events) Of(name string) []solver.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []solver.Event
	for _, e := range l.all {
		if e.Vertex.Name() == name {
			out = append(out, e)
		}
	}
	return out
}

// Output returns what the vertex called name has written, both streams together.
func (l *Events) Output(name string) string {
	var b strings.Builder
	for _, e := range l.Of(name) {
		if e.Kind == solver.Logged {
			b.Write(e.Data)
		}
	}
	return b.String()
}

// Story returns the life of the vertex called name in words: "started done", "cached recipe", "failed: why". It is
// empty if the vertex was declared and never needed, and "-" if it was not declared.
func (l *Events) Story(name string) string {
	words := []string{}
	declared := false
	for _, e := range l.Of(name) {
		switch e.Kind {
		case solver.Declared:
			declared = true
		case solver.Started:
			words = append(words, "started")
		case solver.Cached:
			words = append(words, "cached "+map[solver.HitKind]string{
				solver.RecipeHit: "recipe", solver.StepHit: "step",
			}[e.Hit])
		case solver.Done:
			words = append(words, "done")
		case solver.Failed:
			words = append(words, "failed: "+e.Err.Error())
		case solver.Canceled:
			words = append(words, "canceled")
		case solver.Warned:
			words = append(words, "warned")
		case solver.Logged, solver.Progress: // come as often as they like
		}
	}
	if !declared {
		return "-"
	}
	return strings.Join(words, " ")
}

// Check returns what is wrong with the events, by the rules in the comment of EventKind: a vertex is declared first
// and once; it has at most one Started and at most one final event, in this order; output comes after Started; Failed
// has an error and Cached says what was hit. Whoever has been started has ended.
func (l *Events) Check() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	bad := append([]string{}, l.errs...)
	type life struct{ declared, started, final bool }
	lives := make(map[*solver.Vertex]*life)
	for i, e := range l.all {
		at := lives[e.Vertex]
		if at == nil {
			at = &life{}
			lives[e.Vertex] = at
		}
		wrong := func(what string) { bad = append(bad, fmt.Sprintf("event %d, %s: %s", i, e.Vertex.Name(), what)) }
		if e.Time.IsZero() {
			wrong("no time")
		}
		if e.Kind != solver.Declared && !at.declared {
			wrong("not declared")
		}
		switch e.Kind {
		case solver.Declared:
			if at.declared {
				wrong("declared twice")
			}
			at.declared = true
		case solver.Started:
			if at.started || at.final || e.Key == (solver.Key{}) {
				wrong("started twice, after the end or without a key")
			}
			at.started = true
		case solver.Logged, solver.Progress:
			if !at.started && !at.final {
				wrong("output before the start")
			}
		case solver.Warned:
		default:
			if at.final {
				wrong("ended twice")
			}
			at.final = true
			if (e.Kind == solver.Failed) != (e.Err != nil) || (e.Kind == solver.Cached) != (e.Hit != solver.NoHit) {
				wrong("the final event does not say what it should")
			}
		}
	}
	for v, at := range lives {
		if at.started && !at.final {
			bad = append(bad, v.Name()+" has been started and has not ended")
		}
	}
	return bad
}
