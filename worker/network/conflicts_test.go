package network

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/nettest"
)

// A port is had once: by a container, whatever the address is, or by another program. The errors are docker's, and nothing
// is left of what could not be set up.
func TestPortConflicts(t *testing.T) {
	w := newWorld(t)
	first := request("first", publish("18090:80", "127.0.0.1:18091:81"))
	w.up(first)
	taken := nettest.ServeTCP(t, "0.0.0.0:0")
	for _, c := range []struct{ spec, want string }{
		{"18090:80", "Bind for 0.0.0.0:18090 failed: port is already allocated"},
		{"127.0.0.1:18090:80", "Bind for 127.0.0.1:18090 failed: port is already allocated"},
		{"18091:80", "Bind for 0.0.0.0:18091 failed: port is already allocated"},
		{fmt.Sprintf("%d:80", taken.Port()), fmt.Sprintf("failed to bind host port 0.0.0.0:%d/tcp: address already in use", taken.Port())},
		{"203.0.113.77:80:80", "failed to bind host port 203.0.113.77:80/tcp: cannot assign requested address"},
		{"18090-18091:80", "Bind for 0.0.0.0:18090-18091 failed: all ports are allocated"},
		{"18090:80/udp", ""},
		{"18090-18092:80", ""},
	} {
		r := request("second", publish("0:7777", c.spec))
		_, err := w.Setup(context.Background(), r)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.spec, err)
			}
			w.down(r)
			continue
		}
		prefix := "failed to set up container networking: driver failed programming external connectivity on endpoint second ("
		if err == nil || !strings.HasSuffix(err.Error(), "): "+c.want) || !strings.HasPrefix(err.Error(), prefix) {
			t.Errorf("%s: got %v, want …%s", c.spec, err, c.want)
		}
		if w.Settings(r.ID) != nil {
			t.Errorf("%s: something is left", c.spec)
		}
	}
	w.down(first)
	w.up(request("third", publish("18090:80", "18091:81")))
}

// -P publishes what is exposed, each on another free port; what is exposed only is shown without one.
func TestPublishAll(t *testing.T) {
	w := newWorld(t)
	exposed := network.PortSet{network.MustParsePort("80"): {}, network.MustParsePort("53/udp"): {}}
	r := request("all", func(r *worker.NetworkRequest) {
		r.Config.ExposedPorts, r.HostConfig.PublishAllPorts = exposed, true
	})
	path := w.up(r)
	serve(t, path, "0.0.0.0:80", "0.0.0.0:53")
	gw := w.Settings(r.ID).Networks[nameBridge].Gateway.String()
	for p, b := range w.Settings(r.ID).Ports {
		if len(b) != 2 || b[0].HostPort != b[1].HostPort {
			t.Errorf("%s is published as %v", p, b)
			continue
		}
		expect(t, string(p.Proto()), "127.0.0.1:"+b[0].HostPort, gw)
	}
	only := request("exposed", func(r *worker.NetworkRequest) { r.Config.ExposedPorts = exposed })
	w.up(only)
	if got := w.Settings(only.ID).Ports; len(got) != 2 || got[network.MustParsePort("80")] != nil {
		t.Errorf("got %v", got)
	}
}

// The network of the host is the host's; none is a namespace with lo; and that of another container is that one's, as long
// as it runs.
func TestModes(t *testing.T) {
	w := newWorld(t)
	host := request("host", mode("host"), func(r *worker.NetworkRequest) { r.HostConfig.ExtraHosts = []string{"x:1.2.3.4"} })
	got, err := w.Setup(context.Background(), host)
	if err != nil || got.Network.Mode != executor.NetworkHost || !strings.HasSuffix(string(got.Hosts), "\n1.2.3.4\tx\n") {
		t.Errorf("got %+v, %v", got, err)
	}
	if s := w.Settings(host.ID); s.Networks["host"] == nil || len(s.Ports) > 0 {
		t.Errorf("settings are %+v", s)
	}
	none := request("none", mode("none"))
	path := w.up(none)
	within(t, path, func() {
		links, err := os.ReadDir("/proc/sys/net/ipv4/conf")
		var devices []string
		for _, l := range links {
			devices = append(devices, l.Name())
		}
		if !slices.Equal(devices, []string{"all", "default", "lo"}) {
			t.Errorf("none has %v, %v", devices, err)
		}
		nettest.ServeTCP(t, "127.0.0.1:80")
		expect(t, "tcp", "127.0.0.1:80", "127.0.0.1")
	})
	first := request("first")
	path = w.up(first)
	joined := request("joined", mode("container:first"), func(r *worker.NetworkRequest) { r.Joined = first.ID })
	if got := w.up(joined); got != path {
		t.Errorf("got %s, want %s", got, path)
	}
	chained := request("chained", mode("container:joined"), func(r *worker.NetworkRequest) { r.Joined = joined.ID })
	if got := w.up(chained); got != path {
		t.Errorf("got %s, want %s", got, path)
	}
	w.down(first)
	late := request("late", mode("container:first"), func(r *worker.NetworkRequest) { r.Joined = first.ID })
	if _, err := w.Setup(context.Background(), late); err == nil || !strings.Contains(err.Error(), "cannot join network namespace of a non running container") {
		t.Errorf("got %v", err)
	}
}

func mode(m container.NetworkMode) func(*worker.NetworkRequest) {
	return func(r *worker.NetworkRequest) { r.HostConfig.NetworkMode = m }
}
