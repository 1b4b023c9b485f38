package history

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/solver"
)

// progressEvery is how often the progress of one thing is recorded.
const progressEvery = 100 * time.Millisecond

// A recorder writes the log of one build. Event is for one goroutine at a time.
type recorder struct {
	store   *Store
	log     *journal
	numbers map[solver.Key]uint32 // vertices with one key are one to those who watch
	parts   map[part]*partState

	mu     sync.Mutex // guards what follows
	count  counter
	cancel context.CancelCauseFunc // of the build; nil before it has begun
}

// A part is something that a vertex reports the progress of.
type part struct {
	vertex uint32
	id     string
}

// A partState is what was last reported of a part, and when something was last recorded of it.
type partState struct {
	head    head
	status  solver.Status
	written time.Time
	dirty   bool // status is not recorded
}

func newRecorder(s *Store, log *journal) *recorder {
	return &recorder{store: s, log: log, numbers: map[solver.Key]uint32{}, parts: map[part]*partState{}}
}

// A keyEvent is what Started and Cached say.
type keyEvent struct {
	Key string         `json:",omitempty"`
	Hit solver.HitKind `json:",omitempty"`
}

// event records ev.
func (r *recorder) event(ev *solver.Event) {
	h := head{time: ev.Time}
	if h.time.IsZero() {
		h.time = time.Now()
	}
	if ev.Vertex != nil {
		h.vertex = r.number(ev.Vertex, h.time)
	}
	var doc any
	switch ev.Kind {
	case solver.Declared:
		return // number has said it
	case solver.Logged:
		h.kind, h.stream = kindLogged, uint8(ev.Stream)
		r.add(h, ev.Data)
		return
	case solver.Progress:
		h.kind = kindProgress
		r.progress(h, &ev.Status)
		return
	case solver.Started:
		h.kind, doc = kindStarted, keyEvent{Key: keyText(ev.Key)}
	case solver.Cached:
		h.kind, doc = kindCached, keyEvent{keyText(ev.Key), ev.Hit}
	case solver.Done:
		h.kind = kindDone
	case solver.Failed, solver.Canceled:
		h.kind = kindFailed
		if ev.Kind == solver.Canceled {
			h.kind = kindCanceled
		}
		if ev.Err != nil {
			doc = r.store.remember(ev.Err)
		}
	case solver.Warned:
		h.kind, doc = kindWarned, &ev.Warning
	default:
		return
	}
	if h.kind != kindStarted && h.kind != kindWarned {
		r.settle(h.vertex)
	}
	r.document(h, doc)
}

func keyText(k solver.Key) string {
	if k == (solver.Key{}) {
		return ""
	}
	return k.String()
}

// document records an entry whose body is doc, if it is not nil.
func (r *recorder) document(h head, doc any) {
	var body []byte
	if doc != nil {
		var err error
		if body, err = json.Marshal(doc); err != nil {
			panic(err) // plain data only
		}
	}
	r.add(h, body)
}

func (r *recorder) add(h head, body []byte) {
	r.mu.Lock()
	r.count.entry(h)
	r.mu.Unlock()
	r.log.add(h, body)
}

// number returns the number of v, which it declares if that was not done.
func (r *recorder) number(v *solver.Vertex, at time.Time) uint32 {
	key := v.Recipe()
	if n, ok := r.numbers[key]; ok {
		return n
	}
	n := uint32(len(r.numbers) + 1)
	r.numbers[key] = n
	d := r.store.declaration(v)
	for _, in := range v.Inputs() {
		di := declaredInput{Vertex: r.numbers[in.Vertex.Recipe()], Output: in.Output}
		if di.Vertex == 0 {
			di.Key = in.Vertex.Recipe().String()
		}
		d.Inputs = append(d.Inputs, di)
	}
	r.document(head{kind: kindDeclared, vertex: n, time: at}, &d)
	return n
}

// progress records how far something is, unless that was done a moment ago; settle records the rest.
func (r *recorder) progress(h head, st *solver.Status) {
	key := part{h.vertex, st.ID}
	p := r.parts[key]
	if p == nil {
		p = &partState{}
		r.parts[key] = p
	}
	if p.status.Action != st.Action && p.dirty {
		r.record(p)
	}
	p.head, p.status, p.dirty = h, *st, true
	if !st.Ended.IsZero() || h.time.Sub(p.written) >= progressEvery {
		r.record(p)
	}
}

func (r *recorder) record(p *partState) {
	p.written, p.dirty = p.head.time, false
	r.document(p.head, &p.status)
}

// settle records what progress has left out of a vertex that has come to an end; of all for 0.
func (r *recorder) settle(vertex uint32) {
	for key, p := range r.parts {
		if vertex != 0 && key.vertex != vertex {
			continue
		}
		if p.dirty {
			r.record(p)
		}
		delete(r.parts, key)
	}
}

// steps returns the counts so far.
func (r *recorder) steps() Steps {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count.steps
}

// stop sets what cancels the build.
func (r *recorder) stop(cancel context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel = cancel
}
