package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
)

// A controller writes down what it is asked for, and does it, unless it is to fail.
type controller struct {
	did  []string
	fail map[string]error
}

func (c *controller) do(what string, now Status, to Phase) (Status, error) {
	c.did = append(c.did, what)
	if err := c.fail[what]; err != nil {
		if what == "delete" {
			now.Phase = Dead
		}
		return now, err
	}
	now.Phase = to
	return now, nil
}

func (c *controller) Start(_ context.Context, now Status) (Status, error) {
	return c.do("start", now, Running)
}

func (c *controller) Pause(_ context.Context, now Status) (Status, error) {
	return c.do("pause", now, Paused)
}

func (c *controller) Resume(_ context.Context, now Status) (Status, error) {
	return c.do("resume", now, Running)
}

func (c *controller) Kill(_ context.Context, now Status) (Status, error) {
	return c.do("kill", now, Exited)
}

func (c *controller) Delete(_ context.Context, now Status) (Status, error) {
	return c.do("delete", now, Gone)
}

// From every status to every want: what is done, and where that ends.
func TestReach(t *testing.T) {
	for _, tt := range []struct {
		from Phase
		to   map[Want]string // what is done, and the last phase
	}{
		{Created, map[Want]string{
			WantAny: "created", WantRun: "start running", WantPause: "start pause paused", WantStop: "created", WantRemove: "delete gone",
		}},
		{Running, map[Want]string{
			WantAny: "running", WantRun: "running", WantPause: "pause paused", WantStop: "kill exited", WantRemove: "kill delete gone",
		}},
		{Paused, map[Want]string{
			WantAny: "paused", WantRun: "resume running", WantPause: "paused", WantStop: "kill exited", WantRemove: "kill delete gone",
		}},
		{Restarting, map[Want]string{
			WantAny: "restarting", WantRun: "start running", WantPause: "start pause paused", WantStop: "exited", WantRemove: "delete gone",
		}},
		{Exited, map[Want]string{
			WantAny: "exited", WantRun: "start running", WantPause: "start pause paused", WantStop: "exited", WantRemove: "delete gone",
		}},
		{Removing, map[Want]string{
			WantAny: "removing", WantRun: "removing", WantPause: "removing", WantStop: "removing", WantRemove: "delete gone",
		}},
		{Dead, map[Want]string{
			WantAny: "dead", WantRun: "dead", WantPause: "dead", WantStop: "dead", WantRemove: "delete gone",
		}},
		{Gone, map[Want]string{
			WantAny: "gone", WantRun: "gone", WantPause: "gone", WantStop: "gone", WantRemove: "gone",
		}},
	} {
		for _, want := range []Want{WantAny, WantRun, WantPause, WantStop, WantRemove} {
			c, last := new(controller), tt.from
			err := Reach(t.Context(), c, Status{Phase: tt.from}, want, func(s Status) { last = s.Phase })
			if got := strings.Join(append(c.did, string(last)), " "); err != nil || got != tt.to[want] {
				t.Errorf("%s to %q: got %q, %v, want %q", tt.from, want, got, err, tt.to[want])
			}
		}
	}
}

// A transition makes one step, an error ends the way, and what it has led to is recorded.
func TestReachFails(t *testing.T) {
	cause := errors.New("the cause")
	for _, tt := range []struct {
		from  Phase
		want  Want
		fails string
		last  Phase
		did   []string
	}{
		{Created, WantRun, "start", Created, []string{"start"}},
		{Created, WantPause, "pause", Running, []string{"start", "pause"}},
		{Running, WantRemove, "kill", Running, []string{"kill"}},
		{Running, WantRemove, "delete", Dead, []string{"kill", "delete"}},
		{Dead, WantRemove, "delete", Dead, []string{"delete"}},
	} {
		c := &controller{fail: map[string]error{tt.fails: cause}}
		var last Phase
		err := Reach(t.Context(), c, Status{Phase: tt.from}, tt.want, func(s Status) { last = s.Phase })
		if !errors.Is(err, cause) || last != tt.last || !slices.Equal(c.did, tt.did) {
			t.Errorf("%s to %s: %v, %s after %v; want %s after %v", tt.from, tt.want, err, last, c.did, tt.last, tt.did)
		}
	}
}

// What the end of a process leads to, by policy, code, and how often it has been restarted.
func TestEnded(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	policy := func(name container.RestartPolicyMode, n int) container.RestartPolicy {
		return container.RestartPolicy{Name: name, MaximumRetryCount: n}
	}
	for _, tt := range []struct {
		policy  container.RestartPolicy
		code    int
		stopped bool
		now     Status
		lasted  time.Duration
		want    string // phase, restarts, back-off
	}{
		{policy("", 0), 1, false, Status{}, time.Second, "exited 0 0s"},
		{policy("no", 0), 1, false, Status{}, time.Second, "exited 0 0s"},
		{policy("always", 0), 0, false, Status{}, time.Second, "restarting 1 100ms"},
		{policy("always", 0), 0, true, Status{}, time.Second, "exited 0 0s"},
		{policy("unless-stopped", 0), 0, false, Status{Restarts: 4, Backoff: 800 * time.Millisecond}, time.Second, "restarting 5 1.6s"},
		{policy("unless-stopped", 0), 0, true, Status{}, time.Second, "exited 0 0s"},
		{policy("always", 0), 0, false, Status{Restarts: 9, Backoff: 40 * time.Second}, 9 * time.Second, "restarting 10 1m0s"},
		{policy("always", 0), 0, false, Status{Restarts: 9, Backoff: time.Minute}, 10 * time.Second, "restarting 10 100ms"},
		{policy("on-failure", 0), 0, false, Status{}, time.Second, "exited 0 0s"},
		{policy("on-failure", 0), 7, false, Status{Restarts: 100}, time.Second, "restarting 101 100ms"},
		{policy("on-failure", 3), 7, false, Status{Restarts: 2, Backoff: 200 * time.Millisecond}, time.Second, "restarting 3 400ms"},
		{policy("on-failure", 3), 7, false, Status{Restarts: 3, Backoff: 400 * time.Millisecond}, time.Minute, "exited 3 0s"},
		{policy("on-failure", 3), 7, true, Status{}, time.Second, "exited 0 0s"},
	} {
		tt.now.Phase, tt.now.Pid, tt.now.StartedAt = Running, 9, start
		at := start.Add(tt.lasted)
		got := Ended(tt.now, Ending{Exit: executor.Exit{Code: tt.code, At: at, OOMKilled: true}, Policy: tt.policy, Stopped: tt.stopped})
		if s := fmt.Sprintf("%s %d %s", got.Phase, got.Restarts, got.Backoff); s != tt.want {
			t.Errorf("%v, code %d, stopped %v, before %+v: got %s, want %s", tt.policy, tt.code, tt.stopped, tt.now, s, tt.want)
		}
		if got.Pid != 0 || got.ExitCode != tt.code || !got.FinishedAt.Equal(at) || !got.OOMKilled {
			t.Errorf("the end is %+v", got)
		}
		if next := at.Add(got.Backoff); got.Phase == Restarting && !got.Next.Equal(next) {
			t.Errorf("it runs again at %v, want %v", got.Next, next)
		}
	}
}
