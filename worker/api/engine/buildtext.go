package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	bkprogress "github.com/boxbuild/boxbuild/worker/api/buildkit/progress"
)

// watchWait is how long the events of a build are waited for that is about to begin.
const watchWait = 6 * time.Second

// A narrator tells the events of a build as docker's own builder does, in texts that are printed as they come, or as
// BuildKit's messages, which clients draw themselves. It is not safe for concurrent use.
type narrator struct {
	p     *progress
	quiet bool
	trace *bkprogress.Teller // nil for texts

	steps   map[*solver.Vertex]int // of the user's, from 1
	current *solver.Vertex         // whose output was printed last
	line    bool                   // the output has not ended with the end of a line
}

func newNarrator(p *progress, q *buildQuery) *narrator {
	n := &narrator{p: p, quiet: q.quiet, steps: map[*solver.Vertex]int{}}
	if q.trace {
		n.trace = bkprogress.New()
	}
	return n
}

// tell tells events that came together.
func (n *narrator) tell(evs []solver.Event) error {
	switch {
	case n.quiet:
	case n.trace != nil:
		m := &controlapi.StatusResponse{}
		for i := range evs {
			n.trace.Tell(m, &evs[i])
		}
		b, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		n.p.aux("moby.buildkit.trace", b)
	default:
		for i := range evs {
			n.text(&evs[i])
		}
	}
	n.p.mu.Lock()
	defer n.p.mu.Unlock()
	return n.p.err
}

func (n *narrator) say(text string) { n.p.send(jsonstream.Message{Stream: text}) }

// header says which step it is that is spoken of from now on.
func (n *narrator) header(v *solver.Vertex) {
	if n.line {
		n.say("\n")
		n.line = false
	}
	n.current = v
	n.say(fmt.Sprintf("Step %d/%d : %s\n", n.steps[v], len(n.steps), stepName(v.Name())))
}

// stepName is what a step of the user's does, without its place, and without what tags have been pinned to; empty for what
// is none.
func stepName(name string) string {
	_, rest, ok := strings.Cut(name, "] ")
	if !ok || !strings.HasPrefix(name, "[") || strings.HasPrefix(name, "[internal]") {
		return ""
	}
	if strings.HasPrefix(rest, "FROM ") {
		rest, _, _ = strings.Cut(rest, "@")
	}
	return rest
}

func (n *narrator) text(ev *solver.Event) {
	if ev.Kind == solver.Warned { // most are of the file, which is no step
		n.warn(&ev.Warning)
		return
	}
	if ev.Vertex == nil {
		return
	}
	if ev.Kind == solver.Declared {
		if !ev.Vertex.Meta().Internal && stepName(ev.Vertex.Name()) != "" && n.steps[ev.Vertex] == 0 {
			n.steps[ev.Vertex] = len(n.steps) + 1
		}
		return
	}
	if n.steps[ev.Vertex] == 0 {
		return
	}
	switch ev.Kind {
	case solver.Started:
		n.header(ev.Vertex)
	case solver.Cached:
		n.header(ev.Vertex)
		n.say(" ---> Using cache\n")
	case solver.Logged:
		if n.current != ev.Vertex {
			n.header(ev.Vertex)
		}
		n.say(string(ev.Data))
		n.line = len(ev.Data) > 0 && ev.Data[len(ev.Data)-1] != '\n'
	case solver.Progress:
		if st := ev.Status; st.Action == "downloading" || st.Action == "extracting" {
			n.p.part(st, pullFirst)
		}
	case solver.Warned, solver.Declared, solver.Done, solver.Failed, solver.Canceled:
	}
}

func (n *narrator) warn(w *solver.Warning) {
	if n.line {
		n.say("\n")
		n.line = false
	}
	const mark = "[Warning] "
	n.say(mark + strings.TrimPrefix(w.Short, mark) + "\n")
}

// done tells what was made.
func (n *narrator) done(id string, tags []string, aux bool) {
	if id == "" {
		return
	}
	switch {
	case n.quiet:
		n.say(id + "\n")
	case n.trace != nil:
		n.p.aux("moby.image.id", build.Result{ID: id})
	default:
		if n.line {
			n.say("\n")
		}
		if aux {
			n.p.aux("", build.Result{ID: id})
		}
		n.say("Successfully built " + shortID(id) + "\n")
		for _, t := range tags {
			n.say("Successfully tagged " + familiar(t) + "\n")
		}
	}
}

// maxWaiting is how many events a client may be behind before its build is ended.
const maxWaiting = 1 << 16

// errStalled is why it is.
var errStalled = errors.New("the client does not read what the build says")

// An outbox tells a client the events of a build, which does not wait for the client.
type outbox struct {
	narrator *narrator
	lost     func(error) // is called once the client takes no more

	mu      sync.Mutex // guards what follows
	waiting []solver.Event
	wake    chan struct{} // has a token while there is something to tell
	once    sync.Once
	last    chan struct{} // closed by close
	ended   chan struct{}
}

func newOutbox(n *narrator, lost func(error)) *outbox {
	b := &outbox{narrator: n, lost: lost, wake: make(chan struct{}, 1), last: make(chan struct{}), ended: make(chan struct{})}
	go b.pump()
	return b
}

// event takes an event.
func (b *outbox) event(ev solver.Event) {
	ev.Data = slices.Clone(ev.Data)
	b.mu.Lock()
	full := len(b.waiting) >= maxWaiting
	if !full {
		b.waiting = append(b.waiting, ev)
	}
	b.mu.Unlock()
	if full {
		b.lost(errStalled)
		return
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// pump tells until close.
func (b *outbox) pump() {
	defer close(b.ended)
	for over := false; !over; {
		select {
		case <-b.wake:
		case <-b.last:
			over = true
		}
		b.mu.Lock()
		evs := b.waiting
		b.waiting = nil
		b.mu.Unlock()
		if len(evs) == 0 {
			continue
		}
		if err := b.narrator.tell(evs); err != nil {
			b.lost(fmt.Errorf("the client has gone: %w", err))
		}
	}
}

// close tells what is left. It is idempotent.
func (b *outbox) close() {
	b.once.Do(func() { close(b.last) })
	<-b.ended
}

// cacheFilters are docker's filters of the build cache in BuildKit's words, and for how long what was used is spared. What
// is in the cache has no labels, and those are passed over, as docker does: its system prune sends one set of filters for
// everything.
func cacheFilters(f worker.Filters) ([]string, time.Duration, error) {
	if err := f.Check(
		"description", "id", "inuse", "label", "label!", "parent", "private", "shared", "type", "until", "unused-for",
	); err != nil {
		return nil, 0, err
	}
	var keep time.Duration
	for _, key := range []string{"until", "unused-for"} {
		for _, v := range f[key] {
			t, err := parseUntil(v)
			if err != nil {
				return nil, 0, err
			}
			keep = max(keep, time.Since(t))
		}
	}
	var terms []string
	for _, key := range []string{"id", "parent", "type", "description", "inuse", "shared", "private"} {
		switch values := f[key]; {
		case len(values) > 1:
			return nil, 0, worker.Invalidf("filter %q has more than one value", key)
		case len(values) == 0:
		case key == "id":
			terms = append(terms, key+"~="+values[0])
		case key == "inuse" || key == "shared" || key == "private":
			terms = append(terms, key)
		default:
			terms = append(terms, key+"=="+values[0])
		}
	}
	if len(terms) == 0 {
		return nil, keep, nil
	}
	return []string{strings.Join(terms, ",")}, keep, nil
}
