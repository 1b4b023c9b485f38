package container

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// A container that is paused is not checked: a check would hang, and count as a failure. Afterwards checks go on.
func TestHealthPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		req := request("sleep")
		req.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "exit", "0"}, Interval: 2 * time.Second, Timeout: time.Second, Retries: 1}
		id := f.run(req)
		checks := func() int { return strings.Count(f.seen.of(id), "exec_die") }
		time.Sleep(5 * time.Second)
		f.must(f.Pause(t.Context(), id))
		before := checks()
		time.Sleep(time.Minute)
		if n := checks(); before == 0 || n != before {
			t.Errorf("%d checks before the pause, %d at its end", before, n)
		}
		in, err := f.Inspect(t.Context(), id, false)
		f.must(err)
		if h := in.State.Health; h == nil || h.Status != container.Healthy || len(h.Log) != before {
			t.Errorf("paused, its health is %+v", h)
		}
		f.must(f.Unpause(t.Context(), id))
		time.Sleep(5 * time.Second)
		if n := checks(); n <= before {
			t.Errorf("%d checks after the pause", n-before)
		}
		f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
	})
}

// The terminal that an exec knows of is its own, not the container's.
func TestExecTerm(t *testing.T) {
	rec := &record{Config: &container.Config{Tty: true}, HostConfig: &container.HostConfig{}}
	for _, tty := range []bool{false, true} {
		env := execProcess(rec, &container.ExecCreateRequest{Cmd: []string{"env"}, Tty: tty}).Env
		if has := slices.Contains(env, "TERM=xterm"); has != tty {
			t.Errorf("with a terminal %t the environment is %v", tty, env)
		}
	}
}

// Arguments with spaces are quoted, as docker does.
func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		words []string
		want  string
	}{
		{[]string{"true"}, "true"},
		{[]string{"sh", "-c", "sleep 100"}, "sh -c 'sleep 100'"},
		{[]string{"echo", "", "a"}, "echo  a"},
	} {
		if got := commandLine(tt.words[0], tt.words[1:]); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.words, got, tt.want)
		}
	}
}

// Events name an image as docker does.
func TestFamiliar(t *testing.T) {
	for name, want := range map[string]string{
		"": "", "docker.io/library/evimg:latest": "evimg:latest", "docker.io/a/b:1": "a/b:1", "example.org/x:1": "example.org/x:1",
	} {
		if got := familiar(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

// A limit that this process may not raise is lowered with a warning, and one that it has is not spoken of.
func TestUlimits(t *testing.T) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	most, ok := mostFiles()
	if !ok {
		t.Skip("the kernel does not say how many files there may be")
	}
	for _, tt := range []struct {
		hard uint64
		warn bool
	}{{min(own.Max, most), false}, {most, most > own.Max && !mayRaise()}} {
		got, err := checkUlimits([]*container.Ulimit{{Name: "nofile", Soft: 1, Hard: int64(tt.hard)}})
		if err != nil || (len(got) == 1) != tt.warn {
			t.Errorf("%d: %q, %v", tt.hard, got, err)
		}
	}
	if _, err := checkUlimits([]*container.Ulimit{{Name: "core", Soft: -1, Hard: -1}}); err != nil {
		t.Errorf("no limit: %v", err)
	}
}

// What --security-opt and --ipc say reaches the sandbox.
func TestSecureOptions(t *testing.T) {
	for opt, want := range map[string]bool{"writable-cgroups": true, "writable-cgroups=true": true, "writable-cgroups=false": false} {
		s := new(executor.Spec)
		if err := secure(s, []string{opt}); err != nil || s.WritableCgroups != want {
			t.Errorf("%s: %t, %v", opt, s.WritableCgroups, err)
		}
	}
	f := newFixture(t)
	s, err := f.spec(&record{Config: &container.Config{Cmd: []string{"x"}}, HostConfig: &container.HostConfig{IpcMode: "none"}}, new(worker.NetworkSetup))
	f.must(err)
	if !s.NoShm {
		t.Error("--ipc none has shared memory")
	}
}

// ps is asked about the container's processes, whatever their terminal; and the events of an exec without arguments read as
// docker's.
func TestOnlyPids(t *testing.T) {
	if got := onlyPids([]int{7, 12}); got != "-q7,12" {
		t.Errorf("got %s", got)
	}
	f := newFixture(t)
	id := f.run(request("sleep"))
	_, err := f.ExecCreate(t.Context(), id, &container.ExecCreateRequest{Cmd: []string{"true"}})
	f.must(err)
	if got := f.seen.of(id); !strings.Contains(got, "exec_create: true ") {
		t.Errorf("events are %q", got)
	}
	f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
}

// The events of a check read as those of an exec do, also without arguments.
func TestHealthEvents(t *testing.T) {
	for want, cmd := range map[string][]string{"both ": {"CMD", "both"}, "have /x": {"CMD", "have", "/x"}} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			req := request("sleep")
			req.Healthcheck = &container.HealthConfig{Test: cmd, Interval: 10 * time.Second}
			id := f.run(req)
			time.Sleep(15 * time.Second)
			if got := f.seen.of(id); !strings.Contains(got, "exec_create: "+want+" exec_start: "+want+" exec_die") {
				t.Errorf("events are %q", got)
			}
			f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
		})
	}
}

// Ports that are exposed are shown of a container that is in a network of containers, and runs.
func TestHasPorts(t *testing.T) {
	for mode, want := range map[container.NetworkMode]bool{"bridge": true, "mine": true, "none": false, "host": false, "container:x": false} {
		rec := &record{Config: new(container.Config), HostConfig: &container.HostConfig{NetworkMode: mode}, Status: Status{Phase: Running}}
		if got := rec.hasPorts(); got != want {
			t.Errorf("%s: %t", mode, got)
		}
		rec.Status.Phase = Exited
		if rec.hasPorts() {
			t.Errorf("%s: of one that does not run", mode)
		}
	}
}
