package native

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func logOutput(vertex uint32, data string) *boxbuildv1.BuildOutput {
	return output(&boxbuildv1.Event{Vertex: vertex, Event: &boxbuildv1.Event_Log{
		Log: &boxbuildv1.Log{Stream: 1, Data: []byte(data)},
	}})
}

func statusOutput(vertex uint32, id string, current int64) *boxbuildv1.BuildOutput {
	return output(&boxbuildv1.Event{Vertex: vertex, Event: &boxbuildv1.Event_Status{
		Status: &boxbuildv1.Status{Id: id, Current: current},
	}})
}

// Whatever is merged on the way, each vertex's log arrives whole and in order, and numbers rise by one.
func TestOutboxKeepsLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		got := map[uint32]*bytes.Buffer{1: {}, 2: {}}
		var want [3]bytes.Buffer
		var last uint64
		done := make(chan error, 1)
		go func() {
			done <- o.pump(func(out *boxbuildv1.BuildOutput) error {
				if out.GetSequence() != last+1 {
					t.Errorf("sequence %d after %d", out.GetSequence(), last)
				}
				last = out.GetSequence()
				got[out.GetEvent().GetVertex()].Write(out.GetEvent().GetLog().GetData())
				time.Sleep(time.Millisecond) // a client that is slower than the build
				return nil
			})
		}()
		for i := range 2000 {
			vertex := uint32(1 + i/3%2)
			line := fmt.Sprintf("%d: line %d\n", vertex, i)
			want[vertex].WriteString(line)
			if err := o.put(logOutput(vertex, line)); err != nil {
				t.Fatal(err)
			}
		}
		o.close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for vertex := range got {
			if got[vertex].String() != want[vertex].String() {
				t.Errorf("the log of vertex %d is not what was put", vertex)
			}
		}
	})
}

// A status that nobody has taken yet gives way to a newer one of the same part, and to no other.
func TestOutboxMergesStatuses(t *testing.T) {
	o := newOutbox()
	for i := range int64(100) {
		for _, id := range []string{"a", "b"} {
			if err := o.put(statusOutput(1, id, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := o.put(statusOutput(2, "a", 7)); err != nil {
		t.Fatal(err)
	}
	o.close()
	var got []string
	if err := o.pump(func(out *boxbuildv1.BuildOutput) error {
		st := out.GetEvent().GetStatus()
		got = append(got, fmt.Sprintf("%d/%s=%d", out.GetEvent().GetVertex(), st.GetId(), st.GetCurrent()))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := "[1/a=99 1/b=99 2/a=7]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A full outbox waits for a client that takes something, however little, and gives up one that takes nothing.
func TestOutboxStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fill := func(o *outbox) error {
			for i := range 10 {
				if err := o.put(logOutput(uint32(i), "some line of a log\n")); err != nil {
					return err
				}
			}
			return nil
		}
		o := newOutbox()
		o.limit = 100
		pumped := make(chan error, 1)
		go func() {
			pumped <- o.pump(func(*boxbuildv1.BuildOutput) error { time.Sleep(o.stall / 2); return nil })
		}()
		if err := errors.Join(fill(o), fill(o)); err != nil {
			t.Errorf("with a slow client: %v", err)
		}
		o.close()
		if err := <-pumped; err != nil {
			t.Errorf("with a slow client: %v", err)
		}
		o = newOutbox()
		o.limit = 100
		begin := time.Now()
		if err := fill(o); !errors.Is(err, errStalled) {
			t.Errorf("with a client that takes nothing: got %v, want %v", err, errStalled)
		}
		if waited := time.Since(begin); waited != o.stall {
			t.Errorf("waited %v, want %v", waited, o.stall)
		}
		if err := o.put(logOutput(1, "x")); !errors.Is(err, errStalled) {
			t.Errorf("a failed outbox takes more: %v", err)
		}
	})
}

// An error of sending ends the pump and every put.
func TestOutboxSendFails(t *testing.T) {
	o := newOutbox()
	gone := errors.New("gone")
	if err := o.put(logOutput(1, "x")); err != nil {
		t.Fatal(err)
	}
	if err := o.pump(func(*boxbuildv1.BuildOutput) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("pump: got %v, want %v", err, gone)
	}
	if err := o.put(logOutput(1, "x")); !errors.Is(err, gone) {
		t.Errorf("put: got %v, want %v", err, gone)
	}
}
