// Package progress shows the events of a build: on a terminal, as plain text, as JSON for programs, or not at all. It
// turns our events into the status messages of BuildKit and leaves the display to BuildKit's own, so that what a user
// sees, and what programs read, looks as they know it.
//
// Life cycle: New, Event for each event in order, Close once. A Display is not safe for concurrent use.
package progress

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// Modes are what New knows, for help texts.
const Modes = `"auto", "none", "plain", "quiet", "rawjson", "tty"`

// A Display shows one build.
type Display struct {
	conv    converter
	updates chan *client.SolveStatus
	ended   chan error
}

// New returns a Display that writes to w and says desc once it begins. Unknown modes are an error, and so is "tty"
// where w is no terminal.
func New(w io.Writer, mode, desc string) (*Display, error) {
	if mode == "none" {
		mode = string(progressui.QuietMode)
	}
	ui, err := progressui.NewDisplay(w, progressui.DisplayMode(mode),
		progressui.WithDesc("building with "+desc, desc))
	if err != nil {
		return nil, fmt.Errorf("showing progress: %w", err)
	}
	d := &Display{
		conv:    converter{vertices: map[uint32]*client.Vertex{}, actions: map[statusKey]*client.VertexStatus{}},
		updates: make(chan *client.SolveStatus, 256),
		ended:   make(chan error, 1),
	}
	go func() {
		_, err := ui.UpdateFrom(context.Background(), d.updates)
		d.ended <- err
	}()
	return d, nil
}

// Event shows ev.
func (d *Display) Event(ev *boxbuildv1.Event) {
	if st := d.conv.status(ev); st != nil {
		d.updates <- st
	}
}

// Close shows what is left, with the log of what failed.
func (d *Display) Close() error {
	close(d.updates)
	return <-d.ended
}

// A converter remembers what BuildKit's messages repeat each time.
type converter struct {
	vertices map[uint32]*client.Vertex
	actions  map[statusKey]*client.VertexStatus // the last status of each part
}

type statusKey struct {
	vertex uint32
	id     string
}

// status returns the message for ev, or nil if there is nothing to show.
func (c *converter) status(ev *boxbuildv1.Event) *client.SolveStatus {
	at := ev.GetTime().AsTime()
	if d := ev.GetDeclared(); d != nil {
		return &client.SolveStatus{Vertexes: []*client.Vertex{c.declare(ev.GetVertex(), d)}}
	}
	v := c.vertices[ev.GetVertex()]
	if w := ev.GetWarning(); w != nil {
		return &client.SolveStatus{Warnings: []*client.VertexWarning{warning(v, w)}}
	}
	if v == nil {
		return nil
	}
	switch e := ev.GetEvent().(type) {
	case *boxbuildv1.Event_Log:
		return &client.SolveStatus{Logs: []*client.VertexLog{{
			Vertex: v.Digest, Stream: int(e.Log.GetStream()), Data: e.Log.GetData(), Timestamp: at,
		}}}
	case *boxbuildv1.Event_Status:
		return &client.SolveStatus{Statuses: c.part(ev.GetVertex(), v.Digest, e.Status, at)}
	}
	next := *v
	if !transition(&next, ev, at) {
		return nil
	}
	c.vertices[ev.GetVertex()] = &next
	return &client.SolveStatus{Vertexes: []*client.Vertex{&next}}
}

func (c *converter) declare(number uint32, d *boxbuildv1.Declared) *client.Vertex {
	v := &client.Vertex{Digest: keyDigest(d.GetKey()), Name: d.GetName()}
	for _, in := range d.GetInputKeys() {
		v.Inputs = append(v.Inputs, keyDigest(in))
	}
	if d.GetGroup() != "" {
		v.ProgressGroup = &pb.ProgressGroup{Id: d.GetGroup(), Name: d.GetGroup()}
	}
	c.vertices[number] = v
	return v
}

func keyDigest(key string) digest.Digest { return digest.NewDigestFromEncoded(digest.SHA256, key) }

// transition applies what happened to v; false if it is nothing to show.
func transition(v *client.Vertex, ev *boxbuildv1.Event, at time.Time) bool {
	switch e := ev.GetEvent().(type) {
	case *boxbuildv1.Event_Started:
		v.Started, v.Completed = &at, nil
		return true
	case *boxbuildv1.Event_Cached:
		v.Cached = true
	case *boxbuildv1.Event_Done:
	case *boxbuildv1.Event_Failed:
		v.Error = e.Failed.GetError().GetMessage()
		if e.Failed.GetError().GetKind() == boxbuildv1.ErrorKind_ERROR_KIND_CANCELED {
			v.Error = context.Canceled.Error() // what the display knows a cancelled step by
		}
	case *boxbuildv1.Event_Canceled:
		if v.Started == nil {
			return false // it never began: no news
		}
		v.Error = context.Canceled.Error()
	default:
		return false
	}
	v.Completed = &at
	if v.Started == nil {
		v.Started = &at
	}
	return true
}

// part returns the message for a status. BuildKit has a name for each part and action; a part that goes from one action
// to the next has ended the first.
func (c *converter) part(number uint32, vertex digest.Digest, s *boxbuildv1.Status, at time.Time) []*client.VertexStatus {
	id := s.GetId()
	if a := s.GetAction(); a != "" && a != "downloading" {
		id = a + " " + id
	}
	st := &client.VertexStatus{
		ID: id, Vertex: vertex, Name: s.GetId(), Total: s.GetTotal(), Current: s.GetCurrent(), Timestamp: at,
		Started: moment(s.GetStarted()), Completed: moment(s.GetEnded()),
	}
	if st.Started == nil {
		st.Started = &at
	}
	key := statusKey{number, s.GetId()}
	last := c.actions[key]
	c.actions[key] = st
	switch {
	case last == nil:
	case last.ID == id && s.GetStarted() == nil:
		st.Started = last.Started
	case last.ID != id && last.Completed == nil:
		done := *last
		done.Completed, done.Timestamp, done.Current = &at, at, max(last.Current, last.Total)
		return []*client.VertexStatus{&done, st}
	}
	return []*client.VertexStatus{st}
}

func warning(v *client.Vertex, w *boxbuildv1.Warning) *client.VertexWarning {
	out := &client.VertexWarning{Level: 1, Short: []byte(w.GetShort()), URL: w.GetUrl()}
	if v != nil {
		out.Vertex = v.Digest
	}
	for _, d := range w.GetDetail() {
		out.Detail = append(out.Detail, []byte(d))
	}
	if w.GetFile() != "" {
		out.SourceInfo = &pb.SourceInfo{Filename: w.GetFile()}
	}
	for _, r := range w.GetRanges() {
		out.Range = append(out.Range, &pb.Range{
			Start: &pb.Position{Line: r.GetStart()}, End: &pb.Position{Line: r.GetEnd()},
		})
	}
	return out
}

// moment returns nil for no time.
func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}
