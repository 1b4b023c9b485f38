package engine

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/solver"
)

// A progress is an answer that is a stream of messages, as docker's command line draws them. The first message begins the
// answer: an error before that is an answer of its own. It is safe for concurrent use.
type progress struct {
	w *answer

	mu   sync.Mutex      // guards w and all below
	seen map[string]bool // parts whose beginning has been reported
	last map[string]time.Time
	err  error // of the client's connection
}

func newProgress(c *call) *progress {
	c.w.Header().Set("Content-Type", "application/json")
	return &progress{w: c.w, seen: map[string]bool{}, last: map[string]time.Time{}}
}

// A note is a message of the stream. It has the text of an error twice: libraries look for it in either place.
type note struct {
	jsonstream.Message
	ErrorText string `json:"error,omitempty"`
}

func (p *progress) send(m jsonstream.Message) { p.write(&note{Message: m}) }

func (p *progress) write(n *note) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writeLocked(n)
}

func (p *progress) writeLocked(n *note) {
	if p.err != nil {
		return
	}
	b, err := json.Marshal(n)
	if err == nil {
		_, err = p.w.Write(append(b, '\r', '\n'))
	}
	if p.err = err; err == nil {
		p.w.Flush()
	}
}

// status says something that is about all.
func (p *progress) status(text string) { p.send(jsonstream.Message{Status: text}) }

// aux says something that programs read.
func (p *progress) aux(id string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return // it is made of texts and numbers
	}
	raw := json.RawMessage(b)
	p.send(jsonstream.Message{ID: id, Aux: &raw})
}

// end finishes the answer with an error, if there is one: in the stream if that has begun.
func (p *progress) end(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil || !p.w.begun {
		return err
	}
	e := &jsonstream.Error{Message: err.Error()}
	if exit := (*executor.ExitError)(nil); errors.As(err, &exit) {
		e.Code = int(exit.Exit.Code) // with which docker build ends
	}
	p.writeLocked(&note{Message: jsonstream.Message{Error: e}, ErrorText: e.Message})
	return nil
}

// every is how often a part is reported at most: a client draws a few times a second.
const every = 100 * time.Millisecond

// A phase is how docker calls what is done with a part: while it is done, and when it is.
type phase struct{ during, after string }

var phases = map[string]phase{
	"downloading": {"Downloading", "Download complete"},
	"extracting":  {"Extracting", "Pull complete"},
	"pushing":     {"Pushing", "Pushed"},
	"pushed":      {"Pushing", "Pushed"},
}

// part reports how far a part of a transfer is. first is what is said when it is met.
func (p *progress) part(st solver.Status, first string) {
	what, id, ok := strings.Cut(st.ID, " ")
	if !ok {
		id = st.ID
	} else if what != "layer" {
		return // docker shows layers only
	}
	id = shortID(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.seen[id] {
		p.seen[id] = true
		p.writeLocked(&note{Message: jsonstream.Message{ID: id, Status: first, Progress: &jsonstream.Progress{}}})
	}
	done := !st.Ended.IsZero()
	ph, ok := phases[st.Action]
	from, mounted := strings.CutPrefix(st.Action, "mounted from ")
	switch {
	case mounted:
		ph = phase{"Pushing", "Mounted from " + from}
	case st.Action == "exists" && first == pushFirst:
		ph = phase{"Layer already exists", "Layer already exists"}
	case st.Action == "exists":
		ph = phase{"Already exists", "Already exists"}
	case !ok:
		ph = phase{st.Action, st.Action}
	}
	m := jsonstream.Message{ID: id, Status: ph.during, Progress: &jsonstream.Progress{Current: st.Current, Total: st.Total}}
	if done {
		m.Status, m.Progress = ph.after, &jsonstream.Progress{}
	} else if now := time.Now(); now.Sub(p.last[id]) < every {
		return
	} else {
		p.last[id] = now
	}
	p.writeLocked(&note{Message: m})
}

// What is said of a part when it is met.
const (
	pullFirst = "Pulling fs layer"
	pushFirst = "Preparing"
)

// shortID is what of a digest is shown.
func shortID(id string) string {
	if d, err := digest.Parse(id); err == nil {
		return d.Encoded()[:12]
	}
	return id
}
