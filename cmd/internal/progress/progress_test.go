package progress

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at makes an event of a vertex, so many seconds after the epoch.
func at(seconds int, vertex uint32, ev *boxbuildv1.Event) *boxbuildv1.Event {
	ev.Time = timestamppb.New(epoch.Add(time.Duration(seconds) * time.Second))
	ev.Vertex = vertex
	return ev
}

func declared(name, key string) *boxbuildv1.Event {
	return &boxbuildv1.Event{Event: &boxbuildv1.Event_Declared{
		Declared: &boxbuildv1.Declared{Name: name, Key: strings.Repeat(key, 64)},
	}}
}

func started() *boxbuildv1.Event {
	return &boxbuildv1.Event{Event: &boxbuildv1.Event_Started{Started: &boxbuildv1.Started{}}}
}

func status(id, action string, current int64) *boxbuildv1.Event {
	return &boxbuildv1.Event{Event: &boxbuildv1.Event_Status{
		Status: &boxbuildv1.Status{Id: id, Action: action, Current: current, Total: 10},
	}}
}

// show returns what a build of these events looks like.
func show(t *testing.T, mode string, events ...*boxbuildv1.Event) string {
	t.Helper()
	var out bytes.Buffer
	d, err := New(&out, mode, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range events {
		d.Event(ev)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Each way in which a step can end looks as it does in BuildKit, and one that never began is not shown.
func TestEnds(t *testing.T) {
	text := show(t, "plain",
		at(0, 1, declared("one", "1")), at(0, 2, declared("two", "2")), at(0, 3, declared("three", "3")),
		at(0, 4, declared("four", "4")), at(0, 5, declared("five", "5")),
		at(1, 1, started()),
		at(3, 1, &boxbuildv1.Event{Event: &boxbuildv1.Event_Done{}}),
		at(3, 2, &boxbuildv1.Event{Event: &boxbuildv1.Event_Cached{Cached: &boxbuildv1.Cached{}}}),
		at(3, 3, started()), at(3, 4, started()),
		at(4, 3, &boxbuildv1.Event{Event: &boxbuildv1.Event_Failed{Failed: &boxbuildv1.Failed{
			Error: &boxbuildv1.Error{Message: "exit code: 7"},
		}}}),
		at(4, 4, &boxbuildv1.Event{Event: &boxbuildv1.Event_Canceled{}}),
		at(4, 5, &boxbuildv1.Event{Event: &boxbuildv1.Event_Canceled{}}),
	)
	for _, want := range []string{"one\n", "DONE 2.0s", "two\n", "CACHED", "three\n", "ERROR: exit code: 7", "four\n", "CANCELED"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "five") {
		t.Errorf("a step that never began is shown:\n%s", text)
	}
}

// A part that goes from one action to the next has ended the first, whether or not that was said.
func TestActions(t *testing.T) {
	text := show(t, "rawjson",
		at(0, 1, declared("pull", "1")), at(0, 1, started()),
		at(1, 1, status("layer", "downloading", 4)), at(2, 1, status("layer", "extracting", 0)),
	)
	var last client.SolveStatus
	for dec := json.NewDecoder(strings.NewReader(text)); dec.More(); {
		last = client.SolveStatus{}
		if err := dec.Decode(&last); err != nil {
			t.Fatal(err)
		}
	}
	if len(last.Statuses) != 2 {
		t.Fatalf("the last message is %+v", last)
	}
	if first := last.Statuses[0]; first.ID != "layer" || first.Completed == nil || first.Current != 10 {
		t.Errorf("the download is %+v", first)
	}
	if second := last.Statuses[1]; second.ID != "extracting layer" || second.Completed != nil || second.Started == nil {
		t.Errorf("the extraction is %+v", second)
	}
}

// What is said of no vertex, or of one that was never declared, breaks nothing.
func TestUnknownVertex(t *testing.T) {
	text := show(t, "plain", at(0, 0, &boxbuildv1.Event{Event: &boxbuildv1.Event_Warning{
		Warning: &boxbuildv1.Warning{Short: "w"},
	}}), at(0, 9, started()), at(0, 9, status("x", "", 1)))
	if strings.Contains(text, "#1") {
		t.Errorf("got\n%s", text)
	}
}

// Modes that there are not, and a terminal that there is not, are errors.
func TestModes(t *testing.T) {
	for _, mode := range []string{"fancy", "tty"} {
		if _, err := New(&bytes.Buffer{}, mode, ""); err == nil {
			t.Errorf("mode %q is taken", mode)
		}
	}
	for _, mode := range []string{"none", "quiet"} {
		if got := show(t, mode, at(0, 1, declared("one", "1")), at(0, 1, started())); got != "" {
			t.Errorf("mode %q shows %q", mode, got)
		}
	}
}
