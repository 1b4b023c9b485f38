package native

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver"
)

// A numbering gives the vertices of one build their numbers, in the order in which they are declared. Vertices with
// one recipe key are one vertex to the client. It is not safe for concurrent use.
type numbering map[solver.Key]uint32

// outputs turns an event into messages: the event, and before it the declaration of a vertex that was not declared.
func (n numbering) outputs(ev *solver.Event) []*boxbuildv1.BuildOutput {
	var out []*boxbuildv1.BuildOutput
	var number uint32
	if ev.Vertex != nil {
		var known bool
		if number, known = n[ev.Vertex.Recipe()]; !known {
			number = uint32(len(n) + 1)
			n[ev.Vertex.Recipe()] = number
			out = append(out, output(&boxbuildv1.Event{
				Time: timestamp(ev.Time), Vertex: number,
				Event: &boxbuildv1.Event_Declared{Declared: n.declared(ev.Vertex)},
			}))
		}
	}
	msg := &boxbuildv1.Event{Time: timestamp(ev.Time), Vertex: number}
	if !setEvent(msg, ev) {
		return out
	}
	if f := msg.GetFailed(); f != nil && f.GetError().GetStep() != nil {
		f.Error.Step.Vertex = number
	}
	return append(out, output(msg))
}

// setEvent sets what happened; false if the declaration says it all.
func setEvent(msg *boxbuildv1.Event, ev *solver.Event) bool {
	switch ev.Kind {
	case solver.Declared:
		return false
	case solver.Started:
		msg.Event = &boxbuildv1.Event_Started{Started: &boxbuildv1.Started{Key: ev.Key.String()}}
	case solver.Cached:
		msg.Event = &boxbuildv1.Event_Cached{Cached: &boxbuildv1.Cached{
			Key: ev.Key.String(), Recipe: ev.Hit == solver.RecipeHit,
		}}
	case solver.Done:
		msg.Event = &boxbuildv1.Event_Done{Done: &boxbuildv1.Done{}}
	case solver.Failed:
		msg.Event = &boxbuildv1.Event_Failed{Failed: &boxbuildv1.Failed{Error: wireError(ev.Err)}}
	case solver.Canceled:
		msg.Event = &boxbuildv1.Event_Canceled{Canceled: &boxbuildv1.Canceled{}}
	case solver.Logged:
		// The solver may use its buffer again as soon as the call returns.
		data := append([]byte(nil), ev.Data...)
		msg.Event = &boxbuildv1.Event_Log{Log: &boxbuildv1.Log{Stream: int32(ev.Stream), Data: data}}
	case solver.Progress:
		msg.Event = &boxbuildv1.Event_Status{Status: wireStatus(&ev.Status)}
	case solver.Warned:
		msg.Event = &boxbuildv1.Event_Warning{Warning: &boxbuildv1.Warning{
			Short: ev.Warning.Short, Detail: ev.Warning.Detail, Url: ev.Warning.URL,
			File: ev.Warning.File, Ranges: ranges(ev.Warning.Source), Quote: ev.Warning.Quote,
		}}
	default:
		return false
	}
	return true
}

func (n numbering) declared(v *solver.Vertex) *boxbuildv1.Declared {
	meta := v.Meta()
	d := &boxbuildv1.Declared{
		Key: v.Recipe().String(), Name: v.Name(), Group: meta.Group, File: meta.File,
		Ranges: ranges(meta.Source), Platform: meta.Platform, Internal: meta.Internal,
	}
	for _, in := range v.Inputs() {
		key := in.Vertex.Recipe()
		d.InputKeys = append(d.InputKeys, key.String())
		if number, ok := n[key]; ok {
			d.Inputs = append(d.Inputs, number)
		}
	}
	return d
}

func output(ev *boxbuildv1.Event) *boxbuildv1.BuildOutput {
	return &boxbuildv1.BuildOutput{Output: &boxbuildv1.BuildOutput_Event{Event: ev}}
}

func wireStatus(st *solver.Status) *boxbuildv1.Status {
	return &boxbuildv1.Status{
		Id: st.ID, Action: st.Action, Current: st.Current, Total: st.Total,
		Started: timestamp(st.Started), Ended: timestamp(st.Ended),
	}
}

// timestamp returns nil for the zero time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
