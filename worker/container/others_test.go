package container

import (
	"context"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// A container whose namespaces others join is meant by its ID, whatever the user called it: it may be renamed, and another get its
// name, and they join it still, after a restart of the daemon, too. So do those that were stored by name.
func TestJoinedByID(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	base := request("sleep")
	base.Name, base.HostConfig.IpcMode = "base", container.IPCModeShareable
	id := f.run(base)
	side := request("sleep")
	side.HostConfig.NetworkMode, side.HostConfig.PidMode, side.HostConfig.IpcMode = "container:base", "container:base", "container:base"
	side.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"container:base": {}}}
	f.net.check = func(r *worker.NetworkRequest) error { // as the real one does
		if r.HostConfig.NetworkMode.IsContainer() && r.Endpoints[string(r.HostConfig.NetworkMode)] == nil {
			return worker.Invalidf("cannot be connected to any other network")
		}
		return nil
	}
	joins := f.run(side)
	f.net.check = nil
	check := func(when string) {
		t.Helper()
		in, err := f.Inspect(ctx, joins, false)
		f.must(err)
		h := in.HostConfig
		want := "container:" + id
		if string(h.NetworkMode) != want || string(h.PidMode) != want || string(h.IpcMode) != want {
			t.Errorf("%s: it joins %s, %s and %s, want %s", when, h.NetworkMode, h.PidMode, h.IpcMode, want)
		}
		c, err := f.find(joins)
		f.must(err)
		if r, err := f.networkRequest(c.get()); err != nil || r.Joined != id {
			t.Errorf("%s: the network is asked for that of %+v, %v", when, r, err)
		}
	}
	check("made")
	f.must(f.Rename(ctx, "base", "other"))
	taker := request("sleep")
	taker.Name = "base"
	f.run(taker)
	check("renamed")
	f.must(f.Stop(ctx, joins, worker.StopOptions{}))
	f.must(f.Start(ctx, joins))

	c, err := f.find(joins)
	f.must(err)
	f.must(c.save(func(rec *record) { // as it was stored before
		h := *rec.HostConfig
		h.NetworkMode, h.PidMode, h.IpcMode = "container:other", "container:other", "container:other"
		rec.HostConfig = &h
	}))
	f.restart()
	check("stored by name")
	f.must(f.Rename(ctx, "other", "third"))
	f.restart()
	check("renamed after that")
}

// A link leads to the container that it was made to, which may be renamed, and is shown in docker's form with the names of now. It
// ends with that container.
func TestLinksByID(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	run := func(name string, mode container.NetworkMode, links ...string) string {
		req := request("sleep")
		req.Name, req.HostConfig.NetworkMode, req.HostConfig.Links = name, mode, links
		return f.run(req)
	}
	first := run("first", "bridge")
	run("within", "container:first")
	web := run("web", "bridge", "first:al", "/within", "/first:/old/x")
	check := func(want, wantShown []string) {
		t.Helper()
		c, err := f.find(web)
		f.must(err)
		r, err := f.networkRequest(c.get())
		f.must(err)
		if !slices.Equal(r.HostConfig.Links, want) {
			t.Errorf("the network is asked for the links %q, want %q", r.HostConfig.Links, want)
		}
		in, err := f.Inspect(ctx, web, false)
		f.must(err)
		if !slices.Equal(in.HostConfig.Links, wantShown) {
			t.Errorf("links are shown as %q, want %q", in.HostConfig.Links, wantShown)
		}
	}
	byID := []string{first + ":al", first + ":within", first + ":x"}
	check(byID, []string{"/first:/web/al", "/first:/web/within", "/first:/web/x"})
	f.must(f.Rename(ctx, "first", "db"))
	f.must(f.Rename(ctx, "web", "site"))
	run("first", "bridge")
	renamed := []string{"/db:/site/al", "/db:/site/within", "/db:/site/x"}
	check(byID, renamed)

	c, err := f.find(web)
	f.must(err)
	f.must(c.save(func(rec *record) { // as it was stored before
		h := *rec.HostConfig
		h.Links = []string{"db:al", "db:within", "/db:x"}
		rec.HostConfig = &h
	}))
	f.restart()
	check(byID, renamed)
	f.must(f.Rename(ctx, "db", "moved"))
	check(byID, []string{"/moved:/site/al", "/moved:/site/within", "/moved:/site/x"})
	f.must(f.Remove(ctx, "moved", worker.RemoveContainerOptions{Force: true}))
	check(nil, nil)
	f.must(f.Stop(ctx, web, worker.StopOptions{}))
	f.must(f.Start(context.Background(), web))

	named := request("sleep") // on networks that users make they are names, which the endpoint has
	named.HostConfig.NetworkMode, named.HostConfig.Links = "mine", []string{"first:n"}
	in, err := f.Inspect(ctx, f.create(named), false)
	f.must(err)
	if len(in.HostConfig.Links) != 0 {
		t.Errorf("links are shown: %q", in.HostConfig.Links)
	}
}
