package network

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// Parameters of a container's interface are set on the network that they were asked for with, when it starts and when it is
// connected later; what is no such parameter is refused when it is asked for.
func TestEndpointSysctls(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	asked := func(text string) *EndpointSettings {
		return &EndpointSettings{DriverOpts: map[string]string{optSysctls: text}}
	}
	r := request("web", func(r *worker.NetworkRequest) {
		r.Endpoints = map[string]*EndpointSettings{"bridge": asked("net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.ifname.forwarding=0")}
	})
	w.SetContainers(&containers{all: map[string]*worker.NetworkRequest{"web": r}})
	w.create(&network.CreateRequest{Name: "app"})
	path := w.up(r)
	if err := w.Connect(ctx, "app", &network.ConnectRequest{Container: "web", EndpointConfig: asked("net.ipv4.conf.IFNAME.rp_filter=2")}); err != nil {
		t.Fatal(err)
	}
	within(t, path, func() {
		for file, want := range map[string]string{"eth0/log_martians": "1", "eth0/forwarding": "0", "eth1/log_martians": "0", "eth1/rp_filter": "2"} {
			got, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + file)
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %q, %v; want %s", file, got, err, want)
			}
		}
	})
	bad := request("bad", func(r *worker.NetworkRequest) {
		r.Endpoints = map[string]*EndpointSettings{"bridge": asked("net.ipv4.conf.eth0.log_martians=1")}
	})
	const want = "unrecognised network interface sysctl 'net.ipv4.conf.eth0.log_martians=1'"
	if err := w.Check(ctx, bad); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}
