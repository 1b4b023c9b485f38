package buildkit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"

	"github.com/boxbuild/boxbuild/solver"
)

type step string

func (s step) WriteKey(h *solver.Hasher) { h.Str("step", string(s)) }
func (s step) String() string            { return string(s) }

func logged(v *solver.Vertex, text string) solver.Event {
	return solver.Event{Kind: solver.Logged, Vertex: v, Data: []byte(text), Time: time.Now()}
}

// TestBundle checks that events which come at one time share a message, that all come in order, and that the end is told at
// once.
func TestBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		b := newBundler(func(m *controlapi.StatusResponse) error {
			text := ""
			for _, l := range m.GetLogs() {
				text += string(l.GetMsg())
			}
			got = append(got, fmt.Sprintf("%d:%s", len(m.GetVertexes()), text))
			return nil
		})
		v := solver.NewVertex(step("v"), nil, solver.Meta{})
		say := func(ev solver.Event) {
			if err := b.event(ev); err != nil {
				t.Error(err)
			}
		}
		say(solver.Event{Kind: solver.Started, Vertex: v, Time: time.Now()})
		synctest.Wait() // sent by itself: nobody knows of more
		for _, text := range []string{"a", "b", "c"} {
			say(logged(v, text))
		}
		synctest.Wait()
		time.Sleep(2 * bundleTime)
		say(logged(v, "d"))
		synctest.Wait()
		say(logged(v, "e"))
		begin := time.Now()
		if err := b.close(true); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("the end took %s", took)
		}
		if want := []string{"1:", "0:abc", "0:d", "1:e"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestBundleSlow checks that a client which takes nothing makes who reports wait, with a bound on what is kept, and that
// one which is gone ends that.
func TestBundleSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("gone")
		leave := make(chan struct{})
		b := newBundler(func(*controlapi.StatusResponse) error {
			<-leave
			return gone
		})
		v := solver.NewVertex(step("v"), nil, solver.Meta{})
		taken := 0
		done := make(chan error, 1)
		go func() {
			for {
				if err := b.event(logged(v, strings.Repeat("x", 1<<18))); err != nil {
					done <- err
					return
				}
				taken++
			}
		}()
		synctest.Wait()
		if taken < 4 || taken > 10 {
			t.Errorf("%d events of 256 KiB were taken", taken)
		}
		close(leave)
		if err := <-done; !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
		if err := b.close(false); !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
	})
}
