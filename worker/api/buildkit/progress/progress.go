// Package progress tells the events of a build in BuildKit's words: vertices, statuses, logs and warnings, as the Status call
// of its API sends them.
//
// A Teller is made for one listener and fed every event of one build, in order, from the first: it remembers what each
// vertex has been told to be, since a message describes the whole of a vertex and not what has changed.
package progress

import (
	"cmp"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
)

// Digest is what clients know v by: a name that is the same in all messages about it, and in errors. What a client has defined
// has the digest that it is known by there. For what is no operation of a graph, and for what has been read back from a disk,
// it is what that says it is.
func Digest(v *solver.Vertex) digest.Digest {
	if d, ok := v.Op().(interface{ VertexDigest() digest.Digest }); ok {
		return d.VertexDigest()
	}
	if d, ok := llb.Decoded(v); ok {
		return d
	}
	return digest.NewDigestFromEncoded(digest.SHA256, v.Recipe().String())
}

// Ranges are ranges of lines as BuildKit's message.
func Ranges(in []solver.Range) []*pb.Range {
	out := make([]*pb.Range, 0, len(in))
	for _, r := range in {
		out = append(out, &pb.Range{Start: &pb.Position{Line: int32(r.Start)}, End: &pb.Position{Line: int32(r.End)}})
	}
	return out
}

// A Teller turns the events of one build into messages. It is not safe for concurrent use.
type Teller struct {
	vertices map[digest.Digest]*controlapi.Vertex
	order    []digest.Digest
	parts    map[partKey]*controlapi.VertexStatus
}

// New returns a Teller that has heard nothing yet.
func New() *Teller {
	return &Teller{vertices: map[digest.Digest]*controlapi.Vertex{}, parts: map[partKey]*controlapi.VertexStatus{}}
}

// Tell adds what ev says to m.
func (t *Teller) Tell(m *controlapi.StatusResponse, ev *solver.Event) {
	if ev.Vertex == nil {
		return
	}
	if ev.Kind == solver.Warned && ev.Warning.Vertex != "" {
		// The client says whose it is, which may be a vertex that nobody is told of.
		m.Warnings = append(m.Warnings, t.warning(ev.Warning.Vertex, &ev.Warning))
		return
	}
	v, fresh := t.vertex(ev.Vertex)
	at := timestamppb.New(ev.Time)
	switch ev.Kind {
	case solver.Declared:
	case solver.Started:
		v.Started = at
	case solver.Cached:
		v.Cached = true
		if v.Started == nil {
			v.Started = at
		}
		v.Completed = at
	case solver.Done:
		t.ended(v, at)
	case solver.Failed, solver.Canceled:
		if ev.Kind == solver.Canceled && v.Started == nil {
			if fresh {
				break
			}
			return // clients know it, and that it never began
		}
		t.ended(v, at)
		v.Error = text(ev)
	case solver.Logged, solver.Progress, solver.Warned:
		if fresh {
			m.Vertexes = append(m.Vertexes, v.CloneVT())
		}
		t.tellPart(m, v, ev)
		return
	}
	m.Vertexes = append(m.Vertexes, v.CloneVT())
}

// ended notes the end of v, which has had a beginning: a vertex that never started shows no times with BuildKit's
// clients.
func (t *Teller) ended(v *controlapi.Vertex, at *timestamppb.Timestamp) {
	if v.Started == nil {
		v.Started = at
	}
	v.Completed = at
}

// text is what a vertex failed with. BuildKit's clients know a cancelled one by that text.
func text(ev *solver.Event) string {
	if ev.Kind == solver.Canceled {
		return "context canceled"
	}
	if ev.Err == nil {
		return "failed"
	}
	return ev.Err.Error()
}

// vertex returns what v is known as, and whether it was not known before.
func (t *Teller) vertex(v *solver.Vertex) (*controlapi.Vertex, bool) {
	d := Digest(v)
	if have, ok := t.vertices[d]; ok {
		return have, false
	}
	out := &controlapi.Vertex{Digest: d.String(), Name: v.Name()}
	for _, in := range v.Inputs() {
		// What is not shown has no name that a client could look up.
		if id := Digest(in.Vertex); t.vertices[id] != nil {
			out.Inputs = append(out.Inputs, id.String())
		}
	}
	if g := v.Meta().Group; g != "" {
		out.ProgressGroup = llb.Metadata(v).GetProgressGroup()
	}
	t.vertices[d] = out
	t.order = append(t.order, d)
	return out, true
}

// tellPart adds what happened to a part of v.
func (t *Teller) tellPart(m *controlapi.StatusResponse, v *controlapi.Vertex, ev *solver.Event) {
	at := timestamppb.New(ev.Time)
	switch ev.Kind {
	case solver.Logged:
		// The event's buffer may be used again as soon as the call returns.
		data := append([]byte(nil), ev.Data...)
		m.Logs = append(m.Logs, &controlapi.VertexLog{Vertex: v.Digest, Stream: int64(ev.Stream), Msg: data, Timestamp: at})
	case solver.Progress:
		m.Statuses = append(m.Statuses, t.part(v.Digest, &ev.Status, at)...)
	case solver.Warned:
		m.Warnings = append(m.Warnings, t.warning(v.Digest, &ev.Warning))
	case solver.Declared, solver.Started, solver.Cached, solver.Done, solver.Failed, solver.Canceled:
	}
}

// warning returns a warning with the lines of the file that it is about.
func (t *Teller) warning(vertex string, w *solver.Warning) *controlapi.VertexWarning {
	out := &controlapi.VertexWarning{Vertex: vertex, Level: int64(cmp.Or(w.Level, 1)), Short: []byte(w.Short), Url: w.URL}
	for _, d := range w.Detail {
		out.Detail = append(out.Detail, []byte(d))
	}
	own := w.Vertex != "" // of the client's: what it did not say is not added
	if w.File == "" && !own {
		return out
	}
	out.Ranges = Ranges(w.Source)
	for i, c := range w.Columns {
		if i < len(out.Ranges) {
			out.Ranges[i].Start.Character, out.Ranges[i].End.Character = int32(c.Start), int32(c.End)
		}
	}
	out.Info = &pb.SourceInfo{Filename: w.File, Data: w.Text, Language: w.Language}
	if w.Language == "" && !own {
		out.Info.Language = "Dockerfile"
	}
	if len(w.Definition) > 0 {
		def := &pb.Definition{}
		if err := def.UnmarshalVT(w.Definition); err == nil { // it was one when it was sent
			out.Info.Definition = def
		}
	}
	if own && w.File == "" && len(w.Text) == 0 && w.Language == "" && out.Info.GetDefinition() == nil {
		out.Info = nil
	}
	return out
}

// Rest returns what the end of the build means for vertices that have had none: they were given up, with their parts.
func (t *Teller) Rest(at time.Time) *controlapi.StatusResponse {
	m := &controlapi.StatusResponse{}
	for _, d := range t.order {
		v := t.vertices[d]
		if v.Started == nil || v.Completed != nil {
			continue
		}
		v.Completed, v.Error = timestamppb.New(at), "context canceled"
		m.Statuses = append(m.Statuses, t.openParts(v.Digest, v.Completed)...)
		m.Vertexes = append(m.Vertexes, v.CloneVT())
	}
	return m
}

// timestamp returns nil for the zero time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
