package container

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/worker"
)

// names lists containers with filters, by name.
func (f *fixture) names(opt worker.ListContainersOptions) string {
	f.Helper()
	list, err := f.List(f.Context(), opt)
	f.must(err)
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.Names[0][1:]
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

// Every filter of docker ps finds what it should, and nothing else.
func TestListFilters(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.addImage("other:1", &frontend.ImageConfig{}, nil)
	mk := func(name string, edit func(r *worker.ContainerCreate), cmd ...string) string {
		req := request(cmd...)
		req.Name = name
		if edit != nil {
			edit(req)
		}
		return f.create(req)
	}
	one := mk("one", func(r *worker.ContainerCreate) {
		r.Labels = map[string]string{"a": "1", "b": "2"}
		r.HostConfig.PortBindings = network.PortMap{network.MustParsePort("80/tcp"): {{HostIP: netip.MustParseAddr("0.0.0.0"), HostPort: "8080"}}}
		r.ExposedPorts = network.PortSet{network.MustParsePort("80/tcp"): {}, network.MustParsePort("90/udp"): {}}
	}, "sleep")
	two := mk("two", func(r *worker.ContainerCreate) {
		r.Labels = map[string]string{"a": "2"}
		r.HostConfig.Binds = []string{"/tmp:/there"}
	}, "exit", "3")
	mk("three", func(r *worker.ContainerCreate) { r.Image = "other:1" }, "sleep")
	f.must(f.Start(ctx, one))
	f.must(f.Start(ctx, two))
	f.inPhase(two, Exited)
	for _, tt := range []struct{ filter, want string }{
		{"", "one"},
		{"status=running", "one"},
		{"status=created", "three"},
		{"status=exited status=created", "three two"},
		{"status=paused", ""},
		{"exited=3", "two"},
		{"exited=0", ""},
		{"all name=o", "one two"},
		{"all name=^/one$", "one"},
		{"all name=^t", "three two"},
		{"all id=" + one[:6], "one"},
		{"all id=zz", ""},
		{"all label=a", "one two"},
		{"all label=a=2", "two"},
		{"all label=a label=b", "one"},
		{"before=two", "one"},
		{"since=one", "three two"},
		{"since=one before=three", "two"},
		{"all ancestor=busybox", "one two"},
		{"all ancestor=other:1", "three"},
		{"all ancestor=none", ""},
		{"all volume=/there", "two"},
		{"all volume=/tmp", "two"},
		{"all volume=x", ""},
		{"all network=bridge", "one three two"},
		{"all network=x", ""},
		{"all publish=8080", "one"},
		{"all publish=8000-9000/tcp", "one"},
		{"all publish=80", ""},
		{"all publish=8080/udp", ""},
		{"all expose=80", "one"},
		{"all expose=90/udp", "one"},
		{"all expose=91", ""},
		{"all health=none", "one three two"},
		{"all health=healthy", ""},
		{"all is-task=true", ""},
		{"all is-task=false", "one three two"},
	} {
		opt := worker.ListContainersOptions{Filters: worker.Filters{}}
		for word := range strings.FieldsSeq(tt.filter) {
			key, value, ok := strings.Cut(word, "=")
			if !ok {
				opt.All = true
				continue
			}
			opt.Filters[key] = append(opt.Filters[key], value)
		}
		if got := f.names(opt); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.filter, got, tt.want)
		}
	}
	if got := f.names(worker.ListContainersOptions{Limit: 2}); got != "three two" {
		t.Errorf("the last two are %s", got)
	}
	for filter, text := range map[string]string{
		"x=y": "invalid filter 'x'", "status=x": "invalid value for state (x)", "exited=x": "invalid filter 'exited=x'",
		"before=none": "No such container: none", "health=x": "invalid value for health (x)",
	} {
		key, value, _ := strings.Cut(filter, "=")
		_, err := f.List(ctx, worker.ListContainersOptions{Filters: worker.Filters{key: {value}}})
		f.want(err, text)
	}
	list, err := f.List(ctx, worker.ListContainersOptions{})
	f.must(err)
	if got := fmt.Sprint(list[0].Ports); got != "[{0.0.0.0 80 8080 tcp} {invalid IP 90 0 udp}]" {
		t.Errorf("ports are %s", got)
	}
	if s := list[0]; s.Image != "busybox" || s.Command != "sleep" || s.HostConfig.NetworkMode != "bridge" || s.NetworkSettings.Networks["bridge"] == nil {
		t.Errorf("the line is %+v", s)
	}
	f.must(f.Remove(ctx, one, worker.RemoveContainerOptions{Force: true}))
}

// What docker ps says of a status.
func TestDescribe(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m := &Manager{now: func() time.Time { return now }}
	ago := now.Add(-2 * time.Hour)
	for want, s := range map[string]Status{
		"Created":                           {Phase: Created},
		"Up 2 hours":                        {Phase: Running, StartedAt: ago},
		"Up 2 hours (healthy)":              {Phase: Running, StartedAt: ago, Health: &container.Health{Status: "healthy"}},
		"Up 2 hours (health: starting)":     {Phase: Running, StartedAt: ago, Health: &container.Health{Status: "starting"}},
		"Up 2 hours (unhealthy)":            {Phase: Running, StartedAt: ago, Health: &container.Health{Status: "unhealthy"}},
		"Up 2 hours (Paused)":               {Phase: Paused, StartedAt: ago},
		"Restarting (1) 2 hours ago":        {Phase: Restarting, ExitCode: 1, FinishedAt: ago},
		"Exited (137) 2 hours ago":          {Phase: Exited, ExitCode: 137, FinishedAt: ago},
		"Exited (0) Less than a second ago": {Phase: Exited, FinishedAt: now},
		"Removal In Progress":               {Phase: Removing},
		"Dead":                              {Phase: Dead},
	} {
		if got := m.describe(s); got != want {
			t.Errorf("%+v: got %q, want %q", s, got, want)
		}
	}
}

// Names can be changed, and are found with them; ambiguous beginnings are refused.
func TestNames(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	a, b := f.create(request("sleep")), f.create(request("sleep"))
	in, err := f.Inspect(ctx, a[:10], false)
	f.must(err)
	made := in.Name[1:]
	if !nameRule.MatchString(made) || !strings.Contains(made, "_") {
		t.Errorf("the name is %s", made)
	}
	f.must(f.Rename(ctx, made, "/new"))
	f.want(f.Rename(ctx, b, "new"), `Conflict. The container name "/new" is already in use by container "`+a)
	f.want(f.Rename(ctx, "new", "new"), "same name as its current name")
	f.want(f.Rename(ctx, "nosuch", "x y"), "No such container: nosuch")
	f.want(f.Rename(ctx, "new", "x y"), "Invalid container name (x y)")
	f.restart()
	if in, err := f.Inspect(ctx, "new", false); err != nil || in.ID != a {
		t.Errorf("got %v", err)
	}
	_, err = f.Inspect(ctx, made, false)
	f.want(err, "No such container: "+made)
	_, err = f.find("")
	f.want(err, "No container name or ID supplied")
	if got, want := f.seen.of(a, "oldName"), "create rename=/"+made; got != want {
		t.Errorf("events are %q, want %q", got, want)
	}
	c := newCtr(f.Manager, &record{ID: a[:63] + "x", Name: "z"})
	f.byID[c.id] = c
	_, err = f.Inspect(ctx, a[:40], false)
	f.want(err, "multiple IDs found with provided prefix: "+a[:40])
	delete(f.byID, c.id)
}

// Health: the first result after an interval; failures of the start period do not count; so many in a row make it
// unhealthy; a hung check is killed; events tell of changes; the last five results are kept.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		req := request("sleep")
		req.Healthcheck = &container.HealthConfig{
			Test: []string{"CMD", "have", "/ready"}, Interval: 10 * time.Second, Retries: 2,
			StartPeriod: 30 * time.Second, StartInterval: 2 * time.Second,
		}
		id := f.run(req)
		health := func() *container.Health {
			in, err := f.Inspect(t.Context(), id, false)
			f.must(err)
			return in.State.Health
		}
		if h := health(); h.Status != "starting" || len(h.Log) != 0 {
			t.Errorf("health is %+v", h)
		}
		time.Sleep(29 * time.Second)
		if h := health(); h.Status != "starting" || h.FailingStreak != 0 || len(h.Log) != 5 || h.Log[4].ExitCode != 1 || h.Log[4].Output != "no /ready\n" {
			t.Errorf("in the start period health is %+v", h)
		}
		time.Sleep(time.Minute)
		if h := health(); h.Status != "unhealthy" || h.FailingStreak < 2 {
			t.Errorf("after it health is %+v", h)
		}
		if _, err := f.ExecCreate(t.Context(), id, &container.ExecCreateRequest{Cmd: []string{"x"}}); err != nil {
			t.Error(err)
		}
		w, err := f.ExecCreate(t.Context(), id, &container.ExecCreateRequest{Cmd: []string{"write", "/ready", ""}})
		f.must(err)
		_, err = f.ExecStart(t.Context(), w, &container.ExecStartRequest{Detach: true}, all)
		f.must(err)
		time.Sleep(15 * time.Second)
		if h := health(); h.Status != "healthy" || h.FailingStreak != 0 {
			t.Errorf("in the end health is %+v", h)
		}
		var changes []string
		for action := range strings.FieldsSeq(strings.ReplaceAll(f.seen.of(id), ": ", ":")) {
			if s, ok := strings.CutPrefix(action, "health_status:"); ok {
				changes = append(changes, s)
			}
		}
		if got := strings.Join(changes, " "); got != "unhealthy healthy" {
			t.Errorf("changes are %s", got)
		}
		f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
	})
}

// A check that hangs is killed after its timeout, and counts as a failure.
func TestHealthTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		req := request("sleep")
		req.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "stubborn"}, Interval: time.Second, Timeout: 3 * time.Second, Retries: 1}
		id := f.run(req)
		time.Sleep(4500 * time.Millisecond)
		in, err := f.Inspect(t.Context(), id, false)
		f.must(err)
		h := in.State.Health
		if h.Status != "unhealthy" || len(h.Log) != 1 || h.Log[0].ExitCode != -1 || !strings.HasPrefix(h.Log[0].Output, "Health check exceeded timeout (3s): ready") {
			t.Errorf("health is %+v", h)
		}
		f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
	})
}

// Update changes limits of what runs, and the policy; what cannot be is refused.
func TestUpdate(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	id := f.run(request("sleep"))
	u := &container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}
	u.Memory, u.MemorySwap, u.CPUShares = 64<<20, 128<<20, 512
	if _, err := f.Update(ctx, id, u); err != nil {
		t.Fatal(err)
	}
	if l := f.host.Limits(f.Manager.dir(id)); l.Memory != 64<<20 || l.CPUShares != 512 {
		t.Errorf("limits are %+v", l)
	}
	f.restart()
	in, err := f.Inspect(ctx, id, false)
	f.must(err)
	if in.HostConfig.RestartPolicy.Name != "always" || in.HostConfig.Memory != 64<<20 {
		t.Errorf("the request is %+v", in.HostConfig)
	}
	for set, want := range map[int64]int64{10: 10, 0: 0, -1: 0} {
		u = &container.UpdateConfig{}
		u.PidsLimit = &set
		f.must(second(f.Update(ctx, id, u)))
		if in, err = f.Inspect(ctx, id, false); err != nil || in.HostConfig.PidsLimit == nil || *in.HostConfig.PidsLimit != want {
			t.Errorf("after an update to %d processes: %v, %v, want %d", set, in.HostConfig.PidsLimit, err, want)
		}
		if l := f.host.Limits(f.Manager.dir(id)); l.Pids != want {
			t.Errorf("after an update to %d processes the limit is %d, want %d", set, l.Pids, want)
		}
	}
	bad := &container.UpdateConfig{}
	bad.Memory = 256 << 20
	_, err = f.Update(ctx, id, bad)
	f.want(err, "Memory limit should be smaller than already set memoryswap limit")
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{Force: true}))
}

// A memory limit alone is taken up to that of memory and swap together, which the container has to have by then.
func TestUpdateMemory(t *testing.T) {
	const (
		conflict = "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
		least    = "Minimum memory limit allowed is 6MB"
		m        = 1 << 20
	)
	for _, tt := range []struct {
		has, swap, to, toSwap int64
		want                  string
	}{
		{0, 0, 50 * m, 0, conflict},
		{0, 0, 50 * m, 50 * m, ""},
		{0, 0, 50 * m, -1, ""},
		{40 * m, 80 * m, 80 * m, 0, ""},
		{40 * m, 80 * m, 81 * m, 0, conflict},
		{40 * m, -1, 30 * m, 0, conflict},
		{0, 0, m, 0, least},
	} {
		err := updateResources(&container.Resources{Memory: tt.has, MemorySwap: tt.swap}, &container.Resources{Memory: tt.to, MemorySwap: tt.toSwap})
		if got := fmt.Sprint(err); tt.want == "" && err != nil || !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// Prune removes what does not run, and of that what the filters say.
func TestPrune(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	runs := f.run(request("sleep"))
	labelled := request("sleep")
	labelled.Labels = map[string]string{"keep": ""}
	kept, idle := f.create(labelled), f.create(request("sleep"))
	r, err := f.Prune(ctx, worker.Filters{"until": {"1h"}})
	f.must(err)
	if len(r.ContainersDeleted) != 0 {
		t.Errorf("removed %v", r.ContainersDeleted)
	}
	r, err = f.Prune(ctx, worker.Filters{"label!": {"keep"}})
	f.must(err)
	if len(r.ContainersDeleted) != 1 || r.ContainersDeleted[0] != idle {
		t.Errorf("removed %v, want %s", r.ContainersDeleted, idle)
	}
	r, err = f.Prune(ctx, nil)
	f.must(err)
	if len(r.ContainersDeleted) != 1 || r.ContainersDeleted[0] != kept {
		t.Errorf("removed %v, want %s", r.ContainersDeleted, kept)
	}
	_, err = f.Prune(ctx, worker.Filters{"name": {"x"}})
	f.want(err, "invalid filter 'name'")
	f.must(f.Remove(ctx, runs, worker.RemoveContainerOptions{Force: true}))
	f.empty()
}

// Stopping: by the container's own signal, after its time by SIGKILL, never with a negative one; not twice.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ctx := t.Context()
		req := request("sleep")
		req.StopSignal = "SIGINT"
		id := f.run(req)
		f.must(f.Stop(ctx, id, worker.StopOptions{}))
		if got := f.state(id); got != "exited 130" {
			t.Errorf("state is %s", got)
		}
		f.want(f.Stop(ctx, id, worker.StopOptions{}), "is not running")
		f.want(f.Kill(ctx, id, ""), "cannot kill container: "+id+": container "+id+" is not running")

		id = f.run(request("stubborn"))
		start := time.Now()
		f.must(f.Stop(ctx, id, worker.StopOptions{}))
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("it took %v", got)
		}
		if got := f.state(id); got != "exited 137" {
			t.Errorf("state is %s", got)
		}
		if got, want := f.seen.of(id, "signal", "exitCode"), "create start kill=15 kill=9 die=137 stop"; got != want {
			t.Errorf("events are %q, want %q", got, want)
		}

		id = f.run(request("stubborn"))
		f.must(f.Pause(ctx, id))
		never := -1
		stopped := make(chan error, 1)
		go func() { stopped <- f.Stop(ctx, id, worker.StopOptions{Timeout: &never}) }()
		time.Sleep(time.Hour)
		f.must(f.Kill(ctx, id, "KILL")) // it can be killed while somebody waits
		f.must(<-stopped)
		f.want(f.Kill(ctx, id, "NOSIG"), "invalid signal: NOSIG")

		req = request("sleep")
		req.HostConfig.AutoRemove = true
		id = f.run(req)
		f.must(f.Restart(ctx, id, worker.StopOptions{}))
		if got := f.state(id); got != "running 0" {
			t.Errorf("after a restart: %s", got)
		}
		f.must(f.Stop(ctx, id, worker.StopOptions{}))
		if got := f.state(id); got != "No such container: "+id {
			t.Errorf("after the stop: %s", got)
		}
	})
}

// A check whose time is over before its command is known to run is ended like any other.
func TestHealthSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.slow = true
		f.restart()
		req := request("sleep")
		req.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "stubborn"}, Interval: time.Second, Timeout: time.Second, Retries: 1}
		id := f.run(req)
		f.until(id, func(rec *record) bool { return rec.Status.Health.Status == container.Unhealthy })
		c, err := f.find(id)
		f.must(err)
		pids, err := c.box.Pids(t.Context())
		if f.must(err); len(pids) != 1 {
			t.Errorf("%d processes run, want the first alone", len(pids))
		}
		f.must(f.Kill(t.Context(), id, ""))
	})
}

// Whoever hears of what has become of a container finds it so.
func TestEventsAfter(t *testing.T) {
	f := newFixture(t)
	id := f.create(request("sleep"))
	c, err := f.find(id)
	f.must(err)
	var got []string
	f.seen.tell = func(m events.Message) { got = append(got, string(m.Action)+" "+string(c.status().Phase)) }
	f.must(f.Start(t.Context(), id))
	f.must(f.Pause(t.Context(), id))
	f.must(f.Unpause(t.Context(), id))
	f.must(f.Kill(t.Context(), id, ""))
	if got, want := strings.Join(got, ", "), "start running, pause paused, unpause running, kill running, die exited"; got != want {
		t.Errorf("events are %q, want %q", got, want)
	}
}

// Who gives a container more time than there are numbers for gives it all.
func TestStopTimeout(t *testing.T) {
	f := newFixture(t)
	c, err := f.find(f.create(request("sleep")))
	f.must(err)
	for seconds, want := range map[int]time.Duration{
		0: 0, 3: 3 * time.Second, -1: -time.Second, 9223372036: 9223372036 * time.Second, 9223372037: -1, 18446744074: -1,
	} {
		if got := c.stopTimeout(&seconds); got != want {
			t.Errorf("%d seconds are %v, want %v", seconds, got, want)
		}
	}
}
