package progress

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
)

type step string

func (s step) WriteKey(h *solver.Hasher) { h.Str("step", string(s)) }
func (s step) String() string            { return string(s) }

func vertex(name string, in ...*solver.Vertex) *solver.Vertex {
	var inputs []solver.Input
	for _, v := range in {
		inputs = append(inputs, solver.Input{Vertex: v})
	}
	return solver.NewVertex(step(name), inputs, solver.Meta{Name: name, Group: map[bool]string{true: "g"}[name == "b"]})
}

// tell returns a line for each thing that is told of events, a second apart.
func tell(t *Teller, events ...solver.Event) []string {
	var out []string
	at := time.Unix(1000, 0)
	for _, ev := range events {
		at = at.Add(time.Second)
		ev.Time = at
		m := &controlapi.StatusResponse{}
		t.Tell(m, &ev)
		out = append(out, lines(m)...)
	}
	return append(out, lines(t.Rest(at.Add(time.Second)))...)
}

func lines(m *controlapi.StatusResponse) []string {
	var out []string
	for _, v := range m.GetVertexes() {
		out = append(out, fmt.Sprintf("%s in=%d started=%v completed=%v cached=%v error=%q group=%s",
			v.GetName(), len(v.GetInputs()), v.Started != nil, v.Completed != nil, v.GetCached(), v.GetError(), v.GetProgressGroup().GetId()))
	}
	for _, l := range m.GetLogs() {
		out = append(out, fmt.Sprintf("log %d %s", l.GetStream(), l.GetMsg()))
	}
	for _, s := range m.GetStatuses() {
		out = append(out, fmt.Sprintf("status %s %s %d/%d started=%v completed=%v", s.GetID(), s.GetName(), s.GetCurrent(), s.GetTotal(), s.Started != nil, s.Completed != nil))
	}
	for _, w := range m.GetWarnings() {
		out = append(out, fmt.Sprintf("warning %s %s %d %s %v", w.GetShort(), w.GetInfo().GetFilename(), len(w.GetInfo().GetData()), w.GetUrl(), w.GetRanges()))
	}
	return out
}

// TestTell checks what clients are told of each kind of event.
func TestTell(t *testing.T) {
	a := vertex("a")
	b := vertex("b", a)
	for name, c := range map[string]struct {
		events []solver.Event
		want   []string
	}{
		"ran": {
			[]solver.Event{{Kind: solver.Declared, Vertex: a}, {Kind: solver.Started, Vertex: a}, {Kind: solver.Done, Vertex: a}},
			[]string{
				`a in=0 started=false completed=false cached=false error="" group=`,
				`a in=0 started=true completed=false cached=false error="" group=`,
				`a in=0 started=true completed=true cached=false error="" group=`,
			},
		},
		"cached, with an input that was declared": {
			[]solver.Event{{Kind: solver.Declared, Vertex: a}, {Kind: solver.Declared, Vertex: b}, {Kind: solver.Cached, Vertex: b}},
			[]string{
				`a in=0 started=false completed=false cached=false error="" group=`,
				`b in=1 started=false completed=false cached=false error="" group=g`,
				`b in=1 started=true completed=true cached=true error="" group=g`,
			},
		},
		"an input that is not shown": {
			[]solver.Event{{Kind: solver.Declared, Vertex: b}},
			[]string{`b in=0 started=false completed=false cached=false error="" group=g`},
		},
		"failed": {
			[]solver.Event{{Kind: solver.Started, Vertex: a}, {Kind: solver.Failed, Vertex: a, Err: errors.New("no")}},
			[]string{
				`a in=0 started=true completed=false cached=false error="" group=`,
				`a in=0 started=true completed=true cached=false error="no" group=`,
			},
		},
		"cancelled": {
			[]solver.Event{{Kind: solver.Started, Vertex: a}, {Kind: solver.Canceled, Vertex: a}},
			[]string{
				`a in=0 started=true completed=false cached=false error="" group=`,
				`a in=0 started=true completed=true cached=false error="context canceled" group=`,
			},
		},
		"cancelled before it began": {
			[]solver.Event{{Kind: solver.Declared, Vertex: a}, {Kind: solver.Canceled, Vertex: a}},
			[]string{`a in=0 started=false completed=false cached=false error="" group=`},
		},
		"never ended": {
			[]solver.Event{{Kind: solver.Started, Vertex: a}},
			[]string{
				`a in=0 started=true completed=false cached=false error="" group=`,
				`a in=0 started=true completed=true cached=false error="context canceled" group=`,
			},
		},
		"never ended, nor its parts": {
			[]solver.Event{
				{Kind: solver.Started, Vertex: a},
				{Kind: solver.Progress, Vertex: a, Status: solver.Status{ID: "y", Current: 1, Total: 2}},
				{Kind: solver.Progress, Vertex: a, Status: solver.Status{ID: "x", Ended: time.Unix(5, 0)}},
			},
			[]string{
				`a in=0 started=true completed=false cached=false error="" group=`,
				"status y  1/2 started=true completed=false", "status x  0/0 started=true completed=true",
				`a in=0 started=true completed=true cached=false error="context canceled" group=`,
				"status y  1/2 started=true completed=true",
			},
		},
		"parts of one that was not declared": {
			[]solver.Event{
				{Kind: solver.Logged, Vertex: a, Stream: solver.Stderr, Data: []byte("x")},
				{Kind: solver.Progress, Vertex: a, Status: solver.Status{ID: "id", Action: "pulling", Current: 1, Total: 2, Ended: time.Unix(5, 0)}},
				{Kind: solver.Warned, Vertex: a, Warning: solver.Warning{
					Short: "s", File: "f", Text: []byte("text"), URL: "u", Source: []solver.Range{{Start: 1, End: 2}},
				}},
				{Kind: solver.Warned, Vertex: a, Warning: solver.Warning{Short: "t"}},
			},
			[]string{
				`a in=0 started=false completed=false cached=false error="" group=`,
				"log 2 x", "status pulling id pulling 1/2 started=true completed=true",
				"warning s f 4 u [start:{line:1} end:{line:2}]", "warning t  0  []",
			},
		},
		"parts that go from one action to the next": {
			[]solver.Event{
				{Kind: solver.Progress, Vertex: a, Status: solver.Status{ID: "l", Action: "downloading", Current: 1, Total: 2}},
				{Kind: solver.Progress, Vertex: a, Status: solver.Status{ID: "l", Action: "extracting", Ended: time.Unix(5, 0)}},
				{Kind: solver.Progress, Vertex: a, Status: solver.Status{ID: "transferring context:", Current: 3}},
			},
			[]string{
				`a in=0 started=false completed=false cached=false error="" group=`,
				"status l  1/2 started=true completed=false",
				"status l  2/2 started=true completed=true", "status extracting l extracting 0/0 started=true completed=true",
				"status transferring context: transferring 3/0 started=true completed=false",
			},
		},
		"nothing": {[]solver.Event{{Kind: solver.Done}}, nil},
	} {
		got := tell(New(), c.events...)
		for i := range got {
			got[i] = squeeze(got[i])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n%q\nwant\n%q", name, got, c.want)
		}
	}
}

// squeeze undoes what protobuf's text form does at random, which is to put in two spaces for one.
func squeeze(s string) string {
	for i := 0; i+1 < len(s); i++ {
		if s[i] == ' ' && s[i+1] == ' ' && s[:min(9, len(s))] == "warning s" {
			s = s[:i] + s[i+1:]
		}
	}
	return s
}

// TestCopies checks that a message does not change with what is told later, and that output is copied.
func TestCopies(t *testing.T) {
	tl := New()
	v := vertex("v")
	data := []byte("one")
	m := &controlapi.StatusResponse{}
	tl.Tell(m, &solver.Event{Kind: solver.Started, Vertex: v, Time: time.Unix(1, 0)})
	tl.Tell(m, &solver.Event{Kind: solver.Logged, Vertex: v, Data: data})
	was := proto.CloneOf(m)
	copy(data, "two")
	tl.Tell(&controlapi.StatusResponse{}, &solver.Event{Kind: solver.Done, Vertex: v, Time: time.Unix(2, 0)})
	if !proto.Equal(m, was) {
		t.Errorf("got %v, was %v", m, was)
	}
}

// TestDigest checks that equal vertices have one digest, also those that are only told of again.
func TestDigest(t *testing.T) {
	a, again := vertex("a"), vertex("a")
	if Digest(a) != Digest(again) || Digest(a) == Digest(vertex("b")) || Digest(a).Validate() != nil {
		t.Errorf("got %s, %s and %s", Digest(a), Digest(again), Digest(vertex("b")))
	}
	if told := solver.Recall(a.Recipe(), step("told"), nil, solver.Meta{}); Digest(told) != Digest(a) {
		t.Errorf("got %s, want %s", Digest(told), Digest(a))
	}
}
