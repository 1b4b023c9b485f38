package progress

import (
	"cmp"
	"slices"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/solver"
)

// A partKey names a part of a vertex, whatever is being done with it.
type partKey struct{ vertex, id string }

// part returns what is told of a part. BuildKit has a name for each part and action: "sha256:…" is downloaded, and then there
// is "extracting sha256:…". So a part that goes from one action to the next has ended the first.
func (t *Teller) part(vertex string, s *solver.Status, at *timestamppb.Timestamp) []*controlapi.VertexStatus {
	out := &controlapi.VertexStatus{
		Vertex: vertex, ID: s.ID, Name: s.Action, Current: s.Current, Total: s.Total,
		Timestamp: at, Started: timestamp(s.Started), Completed: timestamp(s.Ended),
	}
	switch {
	case s.Action == "downloading":
		out.Name = ""
	case s.Action != "":
		out.ID = s.Action + " " + s.ID
	case strings.HasPrefix(s.ID, "transferring ") || s.ID == "copying files":
		out.Name = "transferring"
	}
	if out.Started == nil {
		out.Started = at
	}
	key := partKey{vertex, s.ID}
	last := t.parts[key]
	t.parts[key] = out
	if last == nil || last.ID == out.ID || last.Completed != nil {
		return []*controlapi.VertexStatus{out}
	}
	done := last.CloneVT()
	done.Completed, done.Timestamp, done.Current = at, at, max(last.Current, last.Total)
	return []*controlapi.VertexStatus{done, out}
}

// openParts ends the parts of a vertex that have not.
func (t *Teller) openParts(vertex string, at *timestamppb.Timestamp) []*controlapi.VertexStatus {
	var out []*controlapi.VertexStatus
	for key, last := range t.parts {
		if key.vertex == vertex && last.Completed == nil {
			done := last.CloneVT()
			done.Completed, done.Timestamp = at, at
			t.parts[key] = done
			out = append(out, done)
		}
	}
	slices.SortFunc(out, func(a, b *controlapi.VertexStatus) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
