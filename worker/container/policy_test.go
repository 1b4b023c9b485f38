package container

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

func withPolicy(name container.RestartPolicyMode, n int, cmd ...string) *worker.ContainerCreate {
	req := request(cmd...)
	req.HostConfig.RestartPolicy = container.RestartPolicy{Name: name, MaximumRetryCount: n}
	return req
}

// on-failure:2 runs it three times, with 100 and 200 ms between, and then leaves it.
func TestOnFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		start := time.Now()
		id := f.run(withPolicy("on-failure", 2, "exit", "5"))
		f.inPhase(id, Exited)
		if got := time.Since(start); got != 300*time.Millisecond {
			t.Errorf("it took %v, want 300ms", got)
		}
		in, err := f.Inspect(t.Context(), id, false)
		f.must(err)
		if in.RestartCount != 2 || in.State.ExitCode != 5 {
			t.Errorf("restarts %d, code %d", in.RestartCount, in.State.ExitCode)
		}
		synctest.Wait()
		if got, want := f.seen.of(id, "exitCode"), "create start die=5 start die=5 start die=5"; got != want {
			t.Errorf("events are %q, want %q", got, want)
		}
		// Started again by a user it has as many tries as before.
		f.must(f.Start(t.Context(), id))
		f.inPhase(id, Exited)
		synctest.Wait()
		if n := strings.Count(f.seen.of(id), "start"); n != 6 {
			t.Errorf("%d starts, want 6", n)
		}
	})
}

// Who waits for the end of a container that is about to be restarted hears of it if that fails.
func TestWaitRestarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		id := f.run(withPolicy("on-failure", 1, "exit", "5"))
		f.inPhase(id, Restarting)
		ended, err := f.Wait(t.Context(), id, container.WaitConditionNotRunning)
		f.must(err)
		f.net.mu.Lock()
		f.net.fail = errors.New("no network")
		f.net.mu.Unlock()
		if got := (<-ended).StatusCode; got != 128 {
			t.Errorf("the code is %d, want 128", got)
		}
		if got := f.state(id); got != "exited 128" {
			t.Errorf("it is %s", got)
		}
	})
}

// The back-off doubles while runs are short, and begins anew after one of ten seconds.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		id := f.run(withPolicy("always", 0, "run", "1s", "0"))
		waits := func() (got []time.Duration) {
			for range 3 {
				f.inPhase(id, Restarting)
				c, _ := f.find(id)
				got = append(got, c.status().Backoff)
				f.inPhase(id, Running)
			}
			return got
		}
		if got, want := fmt.Sprint(waits()), "[100ms 200ms 400ms]"; got != want {
			t.Errorf("waits are %s, want %s", got, want)
		}
		f.must(f.Stop(t.Context(), id, worker.StopOptions{}))

		id = f.run(withPolicy("always", 0, "run", "10s", "0"))
		if got, want := fmt.Sprint(waits()), "[100ms 100ms 100ms]"; got != want {
			t.Errorf("waits after long runs are %s, want %s", got, want)
		}
		f.must(f.Stop(t.Context(), id, worker.StopOptions{}))
		f.inPhase(id, Exited)
	})
}

// Who stops, kills or removes a container that waits to be restarted ends the wait.
func TestStopRestarting(t *testing.T) {
	for name, end := range map[string]func(f *fixture, id string) error{
		"stop": func(f *fixture, id string) error { return f.Stop(f.Context(), id, worker.StopOptions{}) },
		"kill": func(f *fixture, id string) error { return f.Kill(f.Context(), id, "") },
		"remove": func(f *fixture, id string) error {
			return f.Remove(f.Context(), id, worker.RemoveContainerOptions{Force: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				id := f.run(withPolicy("always", 0, "exit", "1"))
				for range 6 { // until the wait is long
					f.inPhase(id, Running)
					f.inPhase(id, Restarting)
				}
				if err := f.Pause(t.Context(), id); err == nil {
					t.Error("paused what waits")
				}
				if _, err := f.ExecCreate(t.Context(), id, &container.ExecCreateRequest{Cmd: []string{"x"}}); err == nil {
					t.Error("executed in what waits")
				}
				f.want(f.Remove(t.Context(), id, worker.RemoveContainerOptions{}), "container is restarting: stop the container")
				synctest.Wait()
				before := strings.Count(f.seen.of(id), "start")
				f.must(end(f, id))
				time.Sleep(time.Hour)
				if n := strings.Count(f.seen.of(id), "start"); n != before {
					t.Errorf("it was started %d times more", n-before)
				}
				if s := f.state(id); name != "remove" && s != "exited 1" {
					t.Errorf("state is %s", s)
				}
			})
		})
	}
}

// A start that fails on the way of a policy is tried again like a run that failed.
func TestRestartFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		id := f.run(withPolicy("always", 0, "run", "1s", "0"))
		f.net.mu.Lock()
		f.net.fail = errors.New("no network")
		f.net.mu.Unlock()
		f.until(id, func(rec *record) bool { return rec.Status.Restarts == 4 })
		in, err := f.Inspect(t.Context(), id, false)
		f.must(err)
		if !in.State.Restarting || !strings.Contains(in.State.Error, "no network") {
			t.Errorf("state is %+v", in.State)
		}
		f.net.mu.Lock()
		f.net.fail = nil
		f.net.mu.Unlock()
		f.inPhase(id, Running)
		if s := f.state(id); s != "running 0" {
			t.Errorf("state is %s", s)
		}
		f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
	})
}

// What runs when the daemon starts: by policy, and by whether a user had stopped it.
func TestPolicyAtStart(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	ids := make(map[string]string)
	for _, p := range []container.RestartPolicyMode{"no", "always", "unless-stopped", "on-failure"} {
		for _, how := range []string{"runs", "stopped", "ended", "created"} {
			cmd := []string{"sleep"}
			if how == "ended" {
				cmd = []string{"run", "1ns", "9"}
			}
			req := withPolicy(p, 0, cmd...)
			req.Name = string(p) + "." + how
			id := f.create(req)
			ids[req.Name] = id
			switch how {
			case "stopped":
				f.must(f.Start(ctx, id))
				f.must(f.Stop(ctx, id, worker.StopOptions{}))
			case "runs":
				f.must(f.Start(ctx, id))
				f.host.Break(f.Manager.dir(id)) // as when the machine goes down
			case "ended":
				f.must(f.Start(ctx, id))
				f.until(id, func(rec *record) bool { return rec.Status.ExitCode == 9 })
			}
		}
	}
	f.restart()
	want := map[string]bool{
		"always.runs": true, "always.stopped": true, "always.ended": true, "unless-stopped.runs": true, "unless-stopped.ended": true,
		"on-failure.runs": true, "on-failure.ended": true,
	}
	for name, id := range ids {
		if want[name] {
			f.until(id, func(rec *record) bool { return rec.Status.Up() })
		}
	}
	for name, id := range ids {
		c, err := f.find(id)
		f.must(err)
		if got := c.status().Up(); got != want[name] {
			t.Errorf("%s: runs %v, want %v", name, got, want[name])
		}
	}
	for _, id := range ids {
		f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{Force: true}))
	}
}
