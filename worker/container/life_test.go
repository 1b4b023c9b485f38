package container

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// A container is made, runs, says something, ends, and is removed with all that it had; docker's events tell of it.
func TestLife(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	id := f.create(request("say", "hello"))
	if got := f.state(id); got != "created 0" {
		t.Errorf("state is %s", got)
	}
	ended, err := f.Wait(ctx, id, container.WaitConditionNextExit)
	f.must(err)
	removed, err := f.Wait(ctx, id, container.WaitConditionRemoved)
	f.must(err)
	f.must(f.Start(ctx, id))
	if r := <-ended; r.StatusCode != 0 {
		t.Errorf("wait: %+v", r)
	}
	f.inPhase(id, Exited)
	if got := f.logs(id); got != "hello\n" {
		t.Errorf("the log is %q", got)
	}
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{}))
	<-removed
	if got := f.state(id); got != "No such container: "+id {
		t.Errorf("after the removal: %s", got)
	}
	if got, want := f.seen.of(id, "exitCode"), "create start die=0 destroy"; got != want {
		t.Errorf("events are %q, want %q", got, want)
	}
	f.empty()
}

// empty checks that nothing of any container is left.
func (f *fixture) empty() {
	f.Helper()
	if n := f.net.has(); n != 0 {
		f.Errorf("%d networks are left", n)
	}
	entries, err := os.ReadDir(f.deps.Dir)
	if f.must(err); len(entries) != 0 {
		f.Errorf("%d directories are left", len(entries))
	}
	f.restart()
	if n := len(f.all()); n != 0 {
		f.Errorf("%d records are left", n)
	}
	left, err := os.ReadDir(f.snaps.Dir())
	f.must(err)
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "keep-") {
			f.Errorf("%s is left", e.Name())
		}
	}
}

// One that runs is killed by a forced removal, and the events say so, as dockerd's; one that does not run is not.
func TestForcedRemovalEvents(t *testing.T) {
	f := newFixture(t)
	for id, want := range map[string]string{
		f.run(request("sleep")):    "create start kill=9 die=137 destroy",
		f.create(request("sleep")): "create destroy",
	} {
		f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
		if got := f.seen.of(id, "exitCode", "signal"); got != want {
			t.Errorf("events are %q, want %q", got, want)
		}
	}
	f.empty()
}

// One that is to remove itself does, and who waits for that learns the exit code.
func TestAutoRemove(t *testing.T) {
	f := newFixture(t)
	req := request("exit", "3")
	req.HostConfig.AutoRemove = true
	id := f.create(req)
	removed, err := f.Wait(t.Context(), id, container.WaitConditionRemoved)
	f.must(err)
	f.must(f.Start(t.Context(), id))
	if r := <-removed; r.StatusCode != 3 {
		t.Errorf("wait: %+v", r)
	}
	if got, want := f.seen.of(id, "exitCode"), "create start die=3 destroy"; got != want {
		t.Errorf("events are %q, want %q", got, want)
	}
	f.empty()
}

// Whoever finds a container that is being made, and waits for it, learns that there is none if it cannot be made, when nothing
// is left of it.
func TestCreateFails(t *testing.T) {
	f := newFixture(t)
	found := make(chan Phase)
	f.net.check = func(r *worker.NetworkRequest) error {
		c, err := f.find(r.Name)
		f.must(err)
		go func() {
			defer close(found)
			if c.lock(t.Context()) == nil {
				defer c.unlock()
				_, err := f.find(r.Name)
				f.want(err, "No such container")
				found <- c.status().Phase
			}
		}()
		return worker.Invalidf("no")
	}
	_, err := f.Create(t.Context(), request("sleep"))
	f.want(err, "no")
	if got := <-found; got != Gone {
		t.Errorf("it is %q, want %q", got, Gone)
	}
	<-found
	f.empty()
}

// A container that goes when it ends stays while anybody restarts it.
func TestRestartTogether(t *testing.T) {
	f := newFixture(t)
	req := request("sleep")
	req.HostConfig.AutoRemove = true
	id := f.run(req)
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for range 3 {
				if err := f.Restart(t.Context(), id, worker.StopOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if got := f.state(id); got != "running 0" {
		t.Errorf("it is %s", got)
	}
	f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
}
