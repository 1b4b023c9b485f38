package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// containers are those that tests know, running or not.
type containers struct {
	turn sync.Mutex                        // held while one is started, ended or changed
	all  map[string]*worker.NetworkRequest // by name
}

func (c *containers) EditEndpoint(
	_ context.Context, ref, name string, f func(*worker.NetworkRequest) (*EndpointSettings, error),
) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	r := c.all[ref]
	if r == nil {
		return worker.NotFoundf("No such container: %s", ref)
	}
	e, err := f(r)
	if err != nil {
		return err
	}
	if r.Endpoints == nil {
		r.Endpoints = make(map[string]*EndpointSettings)
	}
	if r.Endpoints[name] = e; e == nil {
		delete(r.Endpoints, name)
	}
	return nil
}

// sink remembers events.
type sink struct {
	worker.Events
	mu   sync.Mutex
	list []string
}

func (s *sink) Publish(m events.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, string(m.Action)+" "+m.Actor.Attributes["name"])
}

func (s *sink) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.list
	s.list = nil
	return out
}

// Networks that users ask for are what they ask for, or are refused in docker's words.
func TestCreate(t *testing.T) {
	w := newWorld(t)
	pool := func(subnet, ipRange, gateway string) *network.IPAM {
		c := network.IPAMConfig{Subnet: netip.MustParsePrefix(subnet)}
		if ipRange != "" {
			c.IPRange = netip.MustParsePrefix(ipRange)
		}
		if gateway != "" {
			c.Gateway = netip.MustParseAddr(gateway)
		}
		return &network.IPAM{Config: []network.IPAMConfig{c}}
	}
	for _, c := range []struct {
		req   network.CreateRequest
		class func(error) bool
		want  string
	}{
		{network.CreateRequest{Name: "own", IPAM: pool("10.77.0.0/24", "10.77.0.128/25", "10.77.0.254")}, nil, ""},
		{network.CreateRequest{Name: "own"}, errdefs.IsConflict, "network with name own already exists"},
		{network.CreateRequest{Name: "overlap", IPAM: pool("10.77.0.0/16", "", "")}, errdefs.IsPermissionDenied, "invalid pool request: Pool overlaps with other one on this address space"},
		{network.CreateRequest{Name: "bridge"}, errdefs.IsPermissionDenied, "operation is not permitted on predefined bridge network"},
		{network.CreateRequest{Name: "h", Driver: "host"}, errdefs.IsPermissionDenied, `only one instance of "host" network is allowed`},
		{network.CreateRequest{Name: "o", Driver: "overlay"}, errdefs.IsNotFound, "plugin not found"},
		{network.CreateRequest{Name: ""}, errdefs.IsInvalidArgument, "invalid network name: name is empty"},
		{network.CreateRequest{Name: "host bits", IPAM: pool("10.78.0.1/24", "", "")}, errdefs.IsInvalidArgument, "it should be 10.78.0.0/24"},
		{network.CreateRequest{Name: "outside", IPAM: pool("10.78.0.0/24", "", "10.79.0.1")}, errdefs.IsInvalidArgument, "invalid gateway 10.79.0.1"},
		{network.CreateRequest{Name: "range", IPAM: pool("10.78.0.0/24", "10.0.0.0/8", "")}, errdefs.IsInvalidArgument, "invalid ip-range"},
		{network.CreateRequest{Name: "tiny", IPAM: pool("10.78.0.0/31", "", "")}, errdefs.IsInvalidArgument, "no room"},
		{network.CreateRequest{Name: "mtu", Options: map[string]string{optMTU: "1"}}, errdefs.IsInvalidArgument, "invalid MTU"},
		{network.CreateRequest{Name: "dev", Options: map[string]string{optName: "../../etc"}}, errdefs.IsInvalidArgument, "invalid bridge name"},
		{network.CreateRequest{Name: "every", Options: map[string]string{optName: "all"}}, errdefs.IsInvalidArgument, "invalid bridge name"},
	} {
		_, err := w.Create(context.Background(), &c.req)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.req.Name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !c.class(err) {
			t.Errorf("%q: got %v, want …%s", c.req.Name, err, c.want)
		}
	}
	r := request("c", on("own"))
	w.up(r)
	if e := w.Settings(r.ID).Networks["own"]; e.IPAddress.String() != "10.77.0.128" || e.Gateway.String() != "10.77.0.254" {
		t.Errorf("settings are %+v", e)
	}
	fixed := func(addr string) func(r *worker.NetworkRequest) {
		return func(r *worker.NetworkRequest) {
			r.Endpoints["own"].IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(addr)}
			r.Endpoints["own"].MacAddress = network.HardwareAddr{2, 1, 2, 3, 4, 5}
		}
	}
	f := request("fixed", on("own"), fixed("10.77.0.9"))
	w.up(f)
	if e := w.Settings(f.ID).Networks["own"]; e.IPAddress.String() != "10.77.0.9" || e.MacAddress.String() != "02:01:02:03:04:05" {
		t.Errorf("settings are %+v", e)
	}
	if _, err := w.Setup(context.Background(), request("twice", on("own"), fixed("10.77.0.9"))); err == nil || !strings.HasSuffix(err.Error(), "Address already in use") {
		t.Errorf("got %v", err)
	}
}

// A network is found by name, ID and the beginning of the ID, is listed as the filters say, lasts across restarts, and is
// removed once nobody is on it. The three that are always there stay.
func TestNetworks(t *testing.T) {
	ev := new(sink)
	w := newWorld(t, func(o *Options) { o.Events = ev })
	ctx := context.Background()
	id := w.create(&network.CreateRequest{Name: "app", Labels: map[string]string{"team": "x"}})
	w.create(&network.CreateRequest{Name: "zoo"})
	for _, ref := range []string{"app", id, id[:10]} {
		if n, err := w.Inspect(ctx, ref); err != nil || n.ID != id || n.Driver != "bridge" || n.Scope != "local" {
			t.Errorf("%s: got %+v, %v", ref, n, err)
		}
	}
	if _, err := w.Inspect(ctx, "nope"); !errdefs.IsNotFound(err) || err.Error() != "network nope not found" {
		t.Errorf("got %v", err)
	}
	names := func(f worker.Filters) (out []string) {
		list, err := w.List(ctx, f)
		if err != nil {
			t.Error(err)
		}
		for _, n := range list {
			out = append(out, n.Name)
		}
		return out
	}
	r := request("c", on("app"))
	w.up(r)
	for _, c := range []struct {
		f    worker.Filters
		want string
	}{
		{nil, "app bridge host none zoo"},
		{worker.Filters{"type": {"builtin"}}, "bridge host none"},
		{worker.Filters{"driver": {"host", "null"}}, "host none"},
		{worker.Filters{"label": {"team=x"}}, "app"},
		{worker.Filters{"name": {"o"}}, "host none zoo"},
		{worker.Filters{"id": {id[:8]}}, "app"},
		{worker.Filters{"dangling": {"true"}}, "zoo"},
	} {
		if got := strings.Join(names(c.f), " "); got != c.want {
			t.Errorf("%v: got %s, want %s", c.f, got, c.want)
		}
	}
	if _, err := w.List(ctx, worker.Filters{"color": {"red"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	if err := w.Remove(ctx, "app"); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "has active endpoints (name:\"c\"") {
		t.Errorf("got %v", err)
	}
	if err := w.Remove(ctx, "bridge"); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "is a pre-defined network and cannot be removed") {
		t.Errorf("got %v", err)
	}
	before, _ := w.Inspect(ctx, "app")
	w.down(r)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	w.start()
	after, err := w.Inspect(ctx, "app")
	if before.Containers, before.Status, after.Status = after.Containers, nil, nil; err != nil || !sameJSON(before, after) {
		t.Errorf("before a restart %+v, after it %+v, %v", before, after, err)
	}
	w.up(r)
	report, err := w.Prune(ctx, worker.Filters{"until": {"0s"}})
	if err != nil || !slices.Equal(report.NetworksDeleted, []string{"zoo"}) {
		t.Errorf("got %+v, %v", report, err)
	}
	w.down(r)
	if err := w.Remove(ctx, id[:12]); err != nil {
		t.Error(err)
	}
	if got := strings.Join(names(nil), " "); got != "bridge host none" {
		t.Errorf("got %s", got)
	}
	want := []string{
		"create app", "create zoo", "connect app", "disconnect app", "connect app", "destroy zoo", "prune ", "disconnect app", "destroy app",
	}
	if got := ev.take(); !slices.Equal(got, want) {
		t.Errorf("events are %q, want %q", got, want)
	}
}

// A network stays what it was when whoever wanted to remove it has given up: it can be used, and removed.
func TestRemoveGivenUp(t *testing.T) {
	w := newWorld(t)
	id := w.create(&network.CreateRequest{Name: "app"})
	leave, err := w.turns.take(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Remove(ctx, "app"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	leave()
	r := request("web", on("app"))
	w.up(r)
	w.down(r)
	if err := w.Remove(context.Background(), "app"); err != nil {
		t.Error(err)
	}
}

// A container that runs is connected to one more network, in which it is found, and disconnected again; what it publishes
// is led by the network that is left. One that does not run is connected when it does.
func TestConnect(t *testing.T) {
	joined := 0
	w := newWorld(t, func(o *Options) { o.Connected = func(time.Duration) { joined++ } })
	ctx := context.Background()
	r, idle, host := request("web", publish("18150:80")), request("idle"), request("host", mode("host"))
	all := &containers{all: map[string]*worker.NetworkRequest{"web": r, "idle": idle, "host": host}}
	w.SetContainers(all)
	for _, name := range []string{"app", "more"} {
		w.create(&network.CreateRequest{Name: name})
	}
	other := request("other", on("app"))
	otherPath := w.up(other)
	r.Dir = t.TempDir()
	setup, err := w.Setup(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	path := setup.Network.Path
	writeTest(t, r.Dir+"/hosts", string(setup.Hosts))
	writeTest(t, r.Dir+"/resolv.conf", string(setup.ResolvConf))
	serve(t, path, "0.0.0.0:80", "")
	connect := func(net, who string) error {
		return w.Connect(ctx, net, &network.ConnectRequest{Container: who, EndpointConfig: &EndpointSettings{Aliases: []string{"alias"}}})
	}
	for _, who := range []string{"web", "idle"} {
		if err := connect("app", who); err != nil {
			t.Fatal(err)
		}
	}
	if joined != 3 {
		t.Errorf("%d were counted: those of other and web, which run, are 3", joined)
	}
	if err := connect("app", "web"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("connecting twice: %v", err)
	}
	if err := connect("app", "host"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("connecting what has the host's network: %v", err)
	}
	if err := connect("bridge", "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("connecting nobody: %v", err)
	}
	if got, _ := lookup(t, otherPath, "udp", "alias", 1); len(got) != 1 || got[0] != w.addr(r, "app").String() {
		t.Errorf("alias is %v", got)
	}
	for file, want := range map[string]string{"hosts": w.addr(r, "app").String() + "\t", "resolv.conf": "nameserver 127.0.0.11\n"} {
		if data, err := os.ReadFile(r.Dir + "/" + file); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s is %q, %v: %q is missing", file, data, err, want)
		}
	}
	if got, _ := lookup(t, path, "udp", "other", 1); len(got) != 1 || got[0] != w.addr(other, "app").String() {
		t.Errorf("other is %v", got)
	}
	within(t, otherPath, func() { expect(t, "tcp", w.addr(r, "app").String()+":80", w.addr(other, "app").String()) })
	if _, ok := idle.Endpoints["app"]; !ok || r.Endpoints["app"] == nil {
		t.Error("what was connected is not stored")
	}
	if err := w.Disconnect(ctx, "bridge", &network.DisconnectRequest{Container: "web"}); err != nil {
		t.Fatal(err)
	}
	expect(t, "tcp", "127.0.0.1:18150", w.Settings(r.ID).Networks["app"].Gateway.String())
	expect(t, "tcp", "[::1]:18150", w.Settings(r.ID).Networks["app"].Gateway.String())
	if err := w.Disconnect(ctx, "app", &network.DisconnectRequest{Container: "web"}); err != nil {
		t.Fatal(err)
	}
	expect(t, "tcp", "127.0.0.1:18150", "")
	if err := w.Disconnect(ctx, "app", &network.DisconnectRequest{Container: "web"}); err == nil || !strings.Contains(err.Error(), "is not connected to network app") {
		t.Errorf("got %v", err)
	}
	if got := w.Settings(r.ID).Networks; len(got) > 0 {
		t.Errorf("it is on %v", got)
	}
}

// A container is connected and disconnected while it is started and ended, by who has a lock of their own: nobody waits for
// the other for ever.
func TestConnectMeanwhile(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	all := &containers{all: map[string]*worker.NetworkRequest{"web": request("web")}}
	w.SetContainers(all)
	w.create(&network.CreateRequest{Name: "app"})
	var work sync.WaitGroup
	work.Go(func() {
		for range 10 {
			all.turn.Lock()
			if _, err := w.Setup(ctx, all.all["web"]); err != nil {
				t.Error(err)
			}
			all.turn.Unlock()
			all.turn.Lock()
			if err := w.Teardown(ctx, all.all["web"].ID); err != nil {
				t.Error(err)
			}
			all.turn.Unlock()
		}
	})
	work.Go(func() {
		for range 10 {
			if err := w.Connect(ctx, "app", &network.ConnectRequest{Container: "web"}); err != nil {
				t.Error(err)
			}
			if err := w.Disconnect(ctx, "app", &network.DisconnectRequest{Container: "web"}); err != nil {
				t.Error(err)
			}
		}
	})
	work.Wait()
}

// The counters of a container's interfaces are those that the container sees: what it receives is received.
func TestStats(t *testing.T) {
	w := newWorld(t)
	r := request("a")
	path := w.up(r)
	serve(t, path, "0.0.0.0:80", "")
	before, err := w.Stats(context.Background(), r.ID)
	if err != nil || len(before) != 1 {
		t.Fatalf("got %+v, %v", before, err)
	}
	expect(t, "tcp", w.addr(r, nameBridge).String()+":80", w.Settings(r.ID).Networks[nameBridge].Gateway.String())
	after, err := w.Stats(context.Background(), r.ID)
	if err != nil || after["eth0"].RxPackets <= before["eth0"].RxPackets || after["eth0"].TxBytes <= before["eth0"].TxBytes {
		t.Errorf("got %+v, then %+v, %v", before, after, err)
	}
	if got, err := w.Stats(context.Background(), "nobody"); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}
