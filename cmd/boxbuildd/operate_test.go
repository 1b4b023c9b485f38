package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// The rules of the configuration are in bytes of the disk, and clients are told the same.
func TestGCRules(t *testing.T) {
	w := &wiring{cfg: &config.Daemon{Root: t.TempDir()}}
	w.cfg.Worker.OCI.MaxUsedSpace = config.Space{Percent: 50}
	w.cfg.Worker.OCI.ReservedSpace = config.Space{Bytes: 7}
	rules, err := w.gcRules()
	if err != nil || len(rules) != 4 || rules[3].MaxUsed < 1<<20 || rules[3].Reserved != 7 || !rules[3].All {
		t.Errorf("got %+v, %v", rules, err)
	}
	told, err := w.workerGC()
	if err != nil || len(told) != 4 || told[3].MaxUsedSpace != rules[3].MaxUsed || told[0].Filter[0] != rules[0].Filters[0] {
		t.Errorf("clients are told %+v, %v", told, err)
	}
}

// Resolvers are the configuration's where it names some, and else the host's.
func TestResolvConf(t *testing.T) {
	w := &wiring{cfg: &config.Daemon{Root: t.TempDir()}}
	if path, err := w.resolvConf(); path != "" || err != nil {
		t.Errorf("without a configuration: %q, %v", path, err)
	}
	w.cfg.DNS = config.DNS{Nameservers: []string{"192.0.2.1", "192.0.2.2"}, Options: []string{"ndots:2"}, Search: []string{"a.test", "b.test"}}
	path, err := w.resolvConf()
	if err != nil || path != filepath.Join(w.cfg.Root, "resolv.conf") {
		t.Fatal(path, err)
	}
	got, err := os.ReadFile(path)
	if want := "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.test b.test\noptions ndots:2\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	w.cfg.DNS = config.DNS{Search: []string{"a.test"}}
	if _, err := w.resolvConf(); err != nil {
		t.Fatal(err)
	}
	host, err := hostResolvConf()
	if err != nil {
		t.Fatal(err)
	}
	got, err = os.ReadFile(path)
	if err != nil || strings.Contains(string(host), "nameserver") != strings.Contains(string(got), "nameserver") {
		t.Errorf("got %q of %q, %v", got, host, err)
	}
}

// Platforms that the configuration names go before what is found; one that is none is an error.
func TestPlatforms(t *testing.T) {
	w := &wiring{cfg: &config.Daemon{}}
	found := func(context.Context) []op.Platform { return []op.Platform{{OS: "linux", Architecture: "amd64"}} }
	for _, c := range []struct {
		configured []string
		want       string
	}{{nil, "amd64"}, {[]string{"linux/arm64"}, "arm64"}, {[]string{"linux/x86_64"}, "amd64"}} {
		w.cfg.Worker.OCI.Platforms = c.configured
		f, err := w.platforms(found)
		if err != nil || f(t.Context())[0].Architecture != c.want {
			t.Errorf("%v: %v", c.configured, err)
		}
	}
	w.cfg.Worker.OCI.Platforms = []string{"a/b/c/d"}
	if _, err := w.platforms(found); err == nil || !strings.Contains(err.Error(), "worker.oci.platforms") {
		t.Errorf("got %v", err)
	}
}

// other is any other frontend.
type other struct{ frontend.Frontend }

// A daemon whose own frontend is disabled refuses it, and no other one.
func TestNoDockerfiles(t *testing.T) {
	built := 0
	b := &noDockerfiles{builderFunc(func() { built++ })}
	for _, c := range []struct {
		req  worker.BuildRequest
		want bool
	}{
		{worker.BuildRequest{}, false},
		{worker.BuildRequest{Use: other{}, Origin: worker.Origin{Frontend: "dockerfile.v0"}}, false},
		{worker.BuildRequest{Use: other{}}, true},
	} {
		built = 0
		_, err := b.Build(t.Context(), &c.req, nil)
		var use *frontend.UsageError
		if (built == 1) != c.want || (err == nil) != c.want || err != nil && !errors.As(err, &use) {
			t.Errorf("%+v: built %d, %v", c.req.Origin, built, err)
		}
	}
}

// What stands for the host's address in the hosts of a build is that address, for the builder only; where there is none it is
// an error of the user's.
func TestHostGateway(t *testing.T) {
	var got []op.HostIP
	seen := buildFunc(func(req *worker.BuildRequest) { got = req.Frontend.ExtraHosts })
	req := &worker.BuildRequest{}
	req.Frontend.ExtraHosts = []op.HostIP{{Host: "a", IP: "1.2.3.4"}, {Host: "b", IP: "host-gateway"}}
	b := &gateways{seen, func() netip.Addr { return netip.MustParseAddr("172.30.0.1") }}
	if _, err := b.Build(t.Context(), req, nil); err != nil || len(got) != 2 || got[0].IP != "1.2.3.4" || got[1].IP != "172.30.0.1" {
		t.Errorf("got %v, %v", got, err)
	}
	if req.Frontend.ExtraHosts[1].IP != "host-gateway" {
		t.Error("the request has changed")
	}
	b.addr = func() netip.Addr { return netip.Addr{} }
	if _, err := b.Build(t.Context(), req, nil); err == nil || err.Error() != "unable to derive the IP value for host-gateway" {
		t.Errorf("got %v", err)
	}
	w := &wiring{cfg: &config.Daemon{}}
	if a := w.hostGateway(); a.IsValid() {
		t.Errorf("without a network it is %v", a)
	}
	w.cfg.Bridge.HostGateway = []string{"192.0.2.9"}
	if a := w.hostGateway(); a.String() != "192.0.2.9" {
		t.Errorf("configured, it is %v", a)
	}
}

type buildFunc func(*worker.BuildRequest)

func (f buildFunc) Build(_ context.Context, req *worker.BuildRequest, _ func(solver.Event)) (*worker.BuildResult, error) {
	f(req)
	return nil, nil
}

type builderFunc func()

func (f builderFunc) Build(context.Context, *worker.BuildRequest, func(solver.Event)) (*worker.BuildResult, error) {
	f()
	return nil, nil
}
