package container

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// A daemon that is killed in any state, and the next one: containers run on, states are right, exit codes are known.
func TestKilled(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(f *fixture, id string) // from created on
		then func(f *fixture, id string) // while there is no daemon
		want string
	}{
		{"created", nil, nil, "created 0"},
		{"running", func(f *fixture, id string) { f.must(f.Start(f.Context(), id)) }, nil, "running 0"},
		{"paused", func(f *fixture, id string) {
			f.must(f.Start(f.Context(), id))
			f.must(f.Pause(f.Context(), id))
		}, nil, "paused 0"},
		{"unpaused", func(f *fixture, id string) {
			f.must(f.Start(f.Context(), id))
			f.must(f.Pause(f.Context(), id))
			f.must(f.Unpause(f.Context(), id))
		}, nil, "running 0"},
		{"stopped", func(f *fixture, id string) {
			f.must(f.Start(f.Context(), id))
			f.must(f.Stop(f.Context(), id, worker.StopOptions{}))
		}, nil, "exited 143"},
		{"run again", func(f *fixture, id string) {
			f.must(f.Start(f.Context(), id))
			f.must(f.Stop(f.Context(), id, worker.StopOptions{}))
			f.must(f.Start(f.Context(), id))
		}, nil, "running 0"},
		{"broken", func(f *fixture, id string) {
			f.must(f.Start(f.Context(), id))
			f.written(id)
		}, func(f *fixture, id string) {
			f.host.Break(f.Manager.dir(id))
		}, "exited 255"},
		{"removed", func(f *fixture, id string) {
			f.must(f.Remove(f.Context(), id, worker.RemoveContainerOptions{}))
		}, nil, "No such container"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			id := f.create(request("sleep"))
			if tt.do != nil {
				tt.do(f, id)
			}
			if tt.then != nil {
				f.Manager.end(errClosing) // nobody looks on any more
				tt.then(f, id)
			}
			f.kill()
			if got := f.state(id); !strings.HasPrefix(got, tt.want) {
				t.Fatalf("state is %s, want %s", got, tt.want)
			}
			if strings.HasPrefix(tt.want, "No such") {
				f.empty()
				return
			}
			// It obeys, and can be removed.
			if strings.HasPrefix(tt.want, "exited") || strings.HasPrefix(tt.want, "created") {
				f.must(f.Start(t.Context(), id))
			}
			f.must(f.Stop(t.Context(), id, worker.StopOptions{}))
			f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{}))
			f.empty()
		})
	}
}

// written waits until what has become of a container is on the disk.
func (f *fixture) written(id string) {
	f.Helper()
	c, err := f.find(id)
	f.must(err)
	f.must(c.save(func(*record) {}))
}

// What ends while there is no daemon is known to the next one, and goes if it is to remove itself.
func TestEndedMeanwhile(t *testing.T) {
	for _, auto := range []bool{false, true} {
		f := newFixture(t)
		req := request("cat")
		req.OpenStdin, req.StdinOnce, req.HostConfig.AutoRemove = true, true, auto
		id := f.run(req)
		conn, err := f.Attach(t.Context(), id, worker.AttachOptions{Stream: true, Streams: all})
		f.must(err)
		f.Manager.end(errClosing)
		f.must(conn.CloseWrite()) // it ends
		buf := make([]byte, 1)
		if _, err := conn.Read(buf); err == nil {
			t.Error("it has said something")
		}
		c, err := f.find(id)
		f.must(err)
		if _, err := c.box.Wait(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		f.kill()
		want := "exited 0"
		if auto {
			want = "No such container: " + id
		}
		if got := f.state(id); got != want {
			t.Errorf("auto-remove %v: state is %s, want %s", auto, got, want)
		}
		if !auto {
			f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{}))
		}
		f.empty()
	}
}

// One that is to remove itself and does not run when the daemon starts goes, with its volumes, though it never ran; one that
// runs stays.
func TestNeverStarted(t *testing.T) {
	for name, again := range map[string]func(*fixture){"killed": (*fixture).kill, "restarted": (*fixture).restart} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			auto := func() *worker.ContainerCreate {
				req := request("sleep")
				req.HostConfig.AutoRemove, req.Config.Volumes = true, map[string]struct{}{"/data": {}}
				return req
			}
			created, running, kept := f.create(auto()), f.run(auto()), f.create(request("sleep"))
			again(f)
			if got, want := f.state(created), "No such container: "+created; got != want {
				t.Errorf("one that was created: state is %s, want %s", got, want)
			}
			if got, want := f.state(running), "running 0"; got != want {
				t.Errorf("one that runs: state is %s, want %s", got, want)
			}
			if got, want := f.state(kept), "created 0"; got != want {
				t.Errorf("one that stays: state is %s, want %s", got, want)
			}
			for _, id := range []string{running, kept} {
				f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true, Volumes: true}))
			}
			f.empty()
		})
	}
}

// Random requests with kills between: what a user was told stays true, and in the end nothing is left.
func TestRandomKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	f := newFixture(t)
	ctx := t.Context()
	states := make(map[string]string) // what is known of each container
	n := 0
	for range 150 {
		names := make([]string, 0, len(states))
		for name := range states {
			names = append(names, name)
		}
		if len(names) == 0 || rnd.IntN(6) == 0 {
			n++
			req := request("sleep")
			req.Name = fmt.Sprintf("c%d", n)
			if rnd.IntN(3) == 0 {
				req.HostConfig.RestartPolicy.Name = container.RestartPolicyUnlessStopped
			}
			f.create(req)
			states[req.Name] = "created"
			continue
		}
		name := names[rnd.IntN(len(names))]
		switch rnd.IntN(7) {
		case 0, 1:
			if err := f.Start(ctx, name); err == nil {
				states[name] = "running"
			}
		case 2:
			if err := f.Stop(ctx, name, worker.StopOptions{}); err == nil {
				states[name] = "exited"
			}
		case 3:
			if err := f.Pause(ctx, name); err == nil {
				states[name] = "paused"
			}
		case 4:
			if err := f.Unpause(ctx, name); err == nil {
				states[name] = "running"
			}
		case 5:
			f.must(f.Remove(ctx, name, worker.RemoveContainerOptions{Force: true}))
			delete(states, name)
		case 6:
			f.kill()
		}
		list, err := f.List(ctx, worker.ListContainersOptions{All: true})
		f.must(err)
		if len(list) != len(states) {
			t.Fatalf("%d containers, want %d", len(list), len(states))
		}
		for _, s := range list {
			if want := states[s.Names[0][1:]]; string(s.State) != want {
				t.Fatalf("%s is %s, want %s", s.Names[0], s.State, want)
			}
		}
	}
	for name := range states {
		f.must(f.Remove(ctx, name, worker.RemoveContainerOptions{Force: true}))
	}
	f.empty()
}

// A directory without a container is swept, and a container whose directory is lost gets another.
func TestSweep(t *testing.T) {
	f := newFixture(t)
	id := f.create(request("sleep"))
	f.must(os.RemoveAll(f.Manager.dir(id)))
	f.must(os.MkdirAll(f.deps.Dir+"/nobody/x", 0o755))
	f.kill()
	if _, err := os.Stat(f.deps.Dir + "/nobody"); err == nil {
		t.Error("a directory of nobody's is left")
	}
	f.must(f.Start(t.Context(), id))
	f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
	f.empty()
}

// Of a container that was being made, or removed with its volumes, when the daemon was killed, no anonymous volume stays;
// those of one that was removed without them do.
func TestKilledVolumes(t *testing.T) {
	f := newFixture(t)
	made := func() (*ctr, string) {
		t.Helper()
		req := request("sleep")
		req.Config.Volumes = map[string]struct{}{"/data": {}}
		c, err := f.find(f.create(req))
		f.must(err)
		return c, c.get().Mounts[0].Name
	}
	half, gone := made()
	f.must(f.records.remove(half.id))
	kept, stays := made()
	kept.disown(kept.get())
	f.must(f.records.remove(kept.id))
	whole, held := made()
	f.kill()
	for name, want := range map[string]bool{gone: false, stays: true, held: true} {
		if _, err := f.vols.Inspect(t.Context(), name); (err == nil) != want {
			t.Errorf("after the daemon was killed: %v, want it there: %v", err, want)
		}
	}
	f.must(f.Remove(t.Context(), whole.id, worker.RemoveContainerOptions{}))
	other, removed := made()
	f.must(f.Remove(t.Context(), other.id, worker.RemoveContainerOptions{Volumes: true}))
	f.kill()
	for name, want := range map[string]bool{held: true, removed: false} {
		if _, err := f.vols.Inspect(t.Context(), name); (err == nil) != want {
			t.Errorf("after the removal: %v, want it there: %v", err, want)
		}
	}
}

// A check that was running when the daemon was killed is ended by the next one, whose own checks go on; what a user has
// executed stays.
func TestKilledCheck(t *testing.T) {
	f := newFixture(t)
	req := request("sleep")
	req.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "have", "/ready"}, Interval: time.Hour}
	id := f.run(req)
	ctx := t.Context()
	// As a daemon does, which has ended before it could kill it.
	for _, name := range []string{probePrefix + "left", "other"} {
		box := f.byID[id].box
		f.must(box.Add(ctx, name, &executor.Process{Args: []string{"stubborn"}}, false))
		f.must(box.Run(ctx, name))
	}
	f.kill()
	box := f.byID[id].box
	if _, err := box.Wait(ctx, probePrefix+"left"); err != nil {
		t.Error(err)
	}
	if err := box.Signal(ctx, "other", 0); err != nil {
		t.Errorf("what a user has executed: %v", err)
	}
	if in, err := f.Inspect(ctx, id, false); err != nil || in.State.Health == nil || in.State.Health.Status != "starting" {
		t.Errorf("its health is %+v, %v", in.State.Health, err)
	}
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{Force: true}))
}

// A container whose keeper cannot be reached when the daemon starts may run: it is not ended, does not go, and is not run a
// second time, whatever its policy.
func TestUnreachable(t *testing.T) {
	f := newFixture(t)
	own := request("sleep")
	own.HostConfig.AutoRemove = true
	ids := []string{f.run(withPolicy("always", 0, "sleep")), f.run(own)}
	f.written(ids[1])
	f.deaf = true
	f.kill()
	f.deaf = false
	for _, id := range ids {
		if got := f.state(id); got != "exited 255" {
			t.Errorf("it is %s", got)
		}
		box, err := f.host.Open(t.Context(), filepath.Join(f.dir, "containers", id))
		f.must(err)
		if err := box.Signal(t.Context(), "", 0); err != nil {
			t.Errorf("its process: %v", err)
		}
		f.must(box.Delete(t.Context()))
	}
}

// A commit that the daemon's end broke off leaves no container frozen that is said to run.
func TestKilledCommit(t *testing.T) {
	f := newFixture(t)
	id := f.run(request("sleep"))
	f.written(id)
	c, err := f.find(id)
	f.must(err)
	f.must(c.box.Pause(t.Context()))
	f.kill()
	if got := f.state(id); got != "running 0" || f.host.Paused(filepath.Join(f.dir, "containers", id)) {
		t.Errorf("it is %s, and frozen: %v", got, f.host.Paused(filepath.Join(f.dir, "containers", id)))
	}
	f.must(f.Kill(t.Context(), id, ""))
}

// A container whose removal had begun when the daemon was killed, and that ran still, is ended and goes.
func TestKilledForcedRemoval(t *testing.T) {
	f := newFixture(t)
	id := f.run(request("sleep"))
	c, err := f.find(id)
	f.must(err)
	f.must(c.save(func(rec *record) { rec.Want = WantRemove }))
	f.kill()
	f.want(second(f.Inspect(t.Context(), id, false)), "No such container")
	if _, err := f.host.Open(t.Context(), filepath.Join(f.dir, "containers", id)); err == nil {
		t.Error("its processes are there still")
	}
}
