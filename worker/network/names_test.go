package network

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/nettest"
)

// lookup asks the embedded server of a container.
func lookup(t testing.TB, path, proto, name string, kind uint16) (answers []string, code int) {
	t.Helper()
	within(t, path, func() {
		q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
		conn, err := dns.DialTimeout(proto, "127.0.0.11:53", time.Minute)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if err := conn.WriteMsg(q); err != nil {
			t.Error(err)
			return
		}
		a, err := conn.ReadMsg()
		if err != nil {
			t.Errorf("%s %s: %v", proto, name, err)
			return
		}
		code = a.Rcode
		for _, rr := range a.Answer {
			fields := strings.Split(rr.String(), "\t")
			answers = append(answers, fields[len(fields)-1])
		}
	})
	slices.Sort(answers)
	return answers, code
}

// on has a container on a network, with aliases.
func on(name string, aliases ...string) func(*worker.NetworkRequest) {
	return func(r *worker.NetworkRequest) {
		if r.HostConfig.NetworkMode == "default" {
			r.HostConfig.NetworkMode = container.NetworkMode(name)
		}
		if r.Endpoints == nil {
			r.Endpoints = make(map[string]*EndpointSettings)
		}
		r.Endpoints[name] = &EndpointSettings{Aliases: aliases}
	}
}

func (w *world) create(req *network.CreateRequest) string {
	w.t.Helper()
	got, err := w.Create(context.Background(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return got.ID
}

// Containers on a network that a user has made find each other by name, alias, short ID and hostname, and by address, those
// of a name all; what is no container's is asked for outside.
func TestNames(t *testing.T) {
	asked := make(chan string, 10)
	up := &dns.Server{Addr: "127.0.0.77:53", Net: "udp", Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		asked <- q.Question[0].Name
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: []byte{203, 0, 113, 9}}}
		_ = rw.WriteMsg(a)
	})}
	w := newWorld(t, func(o *Options) {
		writeTest(t, o.ResolvConf, "nameserver 127.0.0.77\nsearch example.test\noptions timeout:1\n")
	})
	started := make(chan struct{})
	up.NotifyStartedFunc = func() { close(started) }
	go func() { _ = up.ListenAndServe() }()
	<-started
	defer func() { _ = up.Shutdown() }()

	w.create(&network.CreateRequest{Name: "app"})
	w.create(&network.CreateRequest{Name: "secret", Internal: true})
	web, db, db2 := request("web", on("app", "front")), request("db1", on("app", "db")), request("db2", on("app", "db"))
	hidden := request("hidden", on("secret"))
	w.up(db)
	w.up(db2)
	if err := w.Check(context.Background(), web); err != nil {
		t.Fatal(err)
	}
	setup, err := w.Setup(context.Background(), web)
	if err != nil {
		t.Fatal(err)
	}
	path := setup.Network.Path
	if got, want := string(setup.ResolvConf), "nameserver 127.0.0.11\nsearch example.test\noptions timeout:1 ndots:0\n"; got != want {
		t.Errorf("resolv.conf is %q, want %q", got, want)
	}
	a1, a2 := w.addr(db, "app").String(), w.addr(db2, "app").String()
	both := []string{a1, a2}
	slices.Sort(both)
	for _, c := range []struct {
		name string
		kind uint16
		want []string
	}{
		{"db1", dns.TypeA, []string{a1}},
		{"DB1", dns.TypeA, []string{a1}},
		{"db1.app", dns.TypeA, []string{a1}},
		{"db", dns.TypeA, both},
		{db.ID[:12], dns.TypeA, []string{a1}},
		{"web", dns.TypeA, []string{w.addr(web, "app").String()}},
		{"db1", dns.TypeAAAA, nil},
		{"hidden.example", dns.TypeA, []string{"203.0.113.9"}},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			if proto == "tcp" && c.name == "hidden.example" {
				continue // the server outside has no TCP
			}
			if got, code := lookup(t, path, proto, c.name, c.kind); !slices.Equal(got, c.want) || code != dns.RcodeSuccess {
				t.Errorf("%s %s: got %v, code %d, want %v", proto, c.name, got, code, c.want)
			}
		}
	}
	if name := <-asked; name != "hidden.example." || len(asked) > 0 {
		t.Errorf("outside was asked for %s and %d more", name, len(asked))
	}
	reverse, err := dns.ReverseAddr(a1)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := lookup(t, path, "udp", reverse, dns.TypePTR); !slices.Equal(got, []string{"db1.app."}) {
		t.Errorf("%s is %v", a1, got)
	}
	// Who is on an internal network only asks nobody outside (CVE-2024-29018), and does not know other networks' names.
	hiddenPath := w.up(hidden)
	for _, name := range []string{"outside.example", "db1"} {
		if got, code := lookup(t, hiddenPath, "udp", name, dns.TypeA); len(got) > 0 || code != dns.RcodeServerFailure || len(asked) > 0 {
			t.Errorf("%s: got %v, code %d; outside was asked %d times", name, got, code, len(asked))
		}
	}
	// After a restart of the daemon, there are names again.
	w.crash()
	w.start()
	for _, r := range []*worker.NetworkRequest{web, db, db2, hidden} {
		if _, err := w.Restore(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, _ := lookup(t, path, "udp", "db1", dns.TypeA); !slices.Equal(got, []string{a1}) {
		t.Errorf("after a restart: got %v", got)
	}
}

// Containers of different networks do not reach each other, but by published ports; nobody on an internal one reaches
// outside.
func TestIsolation(t *testing.T) {
	w := newWorld(t)
	peer := nettest.NewPeer(t, "peer-iso", netip.MustParsePrefix("198.51.100.24/30"))
	w.create(&network.CreateRequest{Name: "one"})
	w.create(&network.CreateRequest{Name: "two"})
	w.create(&network.CreateRequest{Name: "inner", Internal: true})
	w.create(&network.CreateRequest{Name: "quiet", Options: map[string]string{optICC: "false"}})
	if err := peer.Do(func() error { nettest.ServeTCP(t, "0.0.0.0:80"); return nil }); err != nil {
		t.Fatal(err)
	}
	one, two := request("one", on("one")), request("two", on("two"), publish("18130:80"))
	onePath, twoPath := w.up(one), w.up(two)
	inner, inner2 := request("inner", on("inner")), request("inner2", on("inner"))
	innerPath, inner2Path := w.up(inner), w.up(inner2)
	quiet, quiet2 := request("quiet", on("quiet")), request("quiet2", on("quiet"))
	quietPath, quiet2Path := w.up(quiet), w.up(quiet2)
	serve(t, twoPath, "0.0.0.0:80", "")
	serve(t, inner2Path, "0.0.0.0:80", "")
	serve(t, quiet2Path, "0.0.0.0:80", "")
	outside := peer.Addr.String() + ":80"
	within(t, onePath, func() {
		expect(t, "tcp", w.addr(two, "two").String()+":80", "")
		expect(t, "tcp", peer.Host.String()+":18130", w.Settings(two.ID).Networks["two"].Gateway.String())
		expect(t, "tcp", outside, peer.Host.String())
	})
	within(t, innerPath, func() {
		expect(t, "tcp", outside, "")
		expect(t, "tcp", w.addr(two, "two").String()+":80", "")
		expect(t, "tcp", w.addr(inner2, "inner").String()+":80", w.addr(inner, "inner").String())
	})
	within(t, quietPath, func() {
		expect(t, "tcp", w.addr(quiet2, "quiet").String()+":80", "")
		expect(t, "tcp", outside, peer.Host.String())
	})
}

// A network with IPv6 gives addresses of both families, and published ports lead to the one of the packet's.
func TestIPv6(t *testing.T) {
	w := newWorld(t)
	peer := nettest.NewPeer(t, "peer-six", netip.MustParsePrefix("2001:db8:7::/64"))
	if err := peer.Do(func() error { nettest.ServeTCP(t, "[::]:80"); return nil }); err != nil {
		t.Fatal(err)
	}
	yes := true
	w.create(&network.CreateRequest{Name: "dual", EnableIPv6: &yes})
	r, o := request("web", on("dual"), publish("18140:80")), request("other", on("dual"))
	path, otherPath := w.up(r), w.up(o)
	serve(t, path, "[::]:80", "")
	e := w.Settings(r.ID).Networks["dual"]
	if !e.GlobalIPv6Address.Is6() || !e.IPAddress.Is4() || !e.IPv6Gateway.Is6() {
		t.Fatalf("settings are %+v", e)
	}
	six := w.Settings(o.ID).Networks["dual"].GlobalIPv6Address.String()
	within(t, otherPath, func() {
		expect(t, "tcp", "["+peer.Addr.String()+"]:80", peer.Host.String())
		expect(t, "tcp", "["+e.GlobalIPv6Address.String()+"]:80", six)
		expect(t, "tcp", "["+e.IPv6Gateway.String()+"]:18140", e.IPv6Gateway.String())
	})
	expect(t, "tcp", "["+e.IPv6Gateway.String()+"]:18140", e.IPv6Gateway.String())
	if err := peer.Do(func() error {
		expect(t, "tcp", "["+peer.Host.String()+"]:18140", peer.Addr.String())
		expect(t, "tcp", "["+e.GlobalIPv6Address.String()+"]:80", "")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "tcp", "[::1]:18140", e.Gateway.String())
	expect(t, "tcp", "127.0.0.1:18140", e.Gateway.String())
	if got, _ := lookup(t, otherPath, "udp", "web", dns.TypeAAAA); !slices.Equal(got, []string{e.GlobalIPv6Address.String()}) {
		t.Errorf("got %v", got)
	}
}

// /etc/hosts has the container's own line, hosts that the user adds, and links, which have variables too.
func TestHostsAndLinks(t *testing.T) {
	w := newWorld(t)
	db := request("db", func(r *worker.NetworkRequest) {
		r.Config.Env = []string{"PATH=/bin", "PASS=x"}
		r.Config.ExposedPorts = network.PortSet{network.MustParsePort("5432"): {}}
	})
	web := request("web", func(r *worker.NetworkRequest) {
		r.Config.Hostname, r.Config.Domainname = "www", "example.org"
		r.HostConfig.Links = []string{"db:store"}
		r.HostConfig.ExtraHosts = []string{"fixed:192.0.2.7", "six:2001:db8::1", "host.docker.internal:host-gateway"}
		r.HostConfig.DNS = []netip.Addr{netip.MustParseAddr("192.0.2.99")}
		r.HostConfig.DNSSearch, r.HostConfig.DNSOptions = []string{"."}, []string{"ndots:3"}
	})
	if _, err := w.Setup(context.Background(), web); err == nil || !strings.HasSuffix(err.Error(), "Cannot link to a non running container: /db AS /web/store") {
		t.Errorf("got %v", err)
	}
	if w.Settings(web.ID) != nil {
		t.Error("something is left")
	}
	web.HostConfig.Links, web.LinkNames = []string{db.ID + ":store"}, map[string]string{db.ID: "renamed"}
	if _, err := w.Setup(context.Background(), web); err == nil || !strings.HasSuffix(err.Error(), "Cannot link to a non running container: /renamed AS /web/store") {
		t.Errorf("got %v", err)
	}
	w.up(db)
	got, err := w.Setup(context.Background(), web)
	if err != nil {
		t.Fatal(err)
	}
	a, gw := w.addr(db, nameBridge).String(), w.Settings(web.ID).Networks[nameBridge].Gateway.String()
	for _, want := range []string{
		"127.0.0.1\tlocalhost\n", "\n192.0.2.7\tfixed\n", "\n2001:db8::1\tsix\n", "\n" + gw + "\thost.docker.internal\n",
		"\n" + a + "\tstore " + db.ID[:12] + " db\n", "\n" + w.addr(web, nameBridge).String() + "\twww.example.org www\n",
	} {
		if !strings.Contains(string(got.Hosts), want) {
			t.Errorf("%q is missing in %q", want, got.Hosts)
		}
	}
	if want := "nameserver 192.0.2.99\noptions ndots:3\n"; string(got.ResolvConf) != want {
		t.Errorf("resolv.conf is %q, want %q", got.ResolvConf, want)
	}
	want := []string{
		"STORE_NAME=/web/store", "STORE_PORT=tcp://" + a + ":5432", "STORE_PORT_5432_TCP=tcp://" + a + ":5432", "STORE_PORT_5432_TCP_ADDR=" + a,
		"STORE_PORT_5432_TCP_PORT=5432", "STORE_PORT_5432_TCP_PROTO=tcp", "STORE_ENV_PASS=x",
	}
	if !slices.Equal(got.Env, want) {
		t.Errorf("got %q, want %q", got.Env, want)
	}
}

// What can never be set up is refused when a container is made, in docker's words.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	ip := func(r *worker.NetworkRequest) {
		r.Endpoints = map[string]*EndpointSettings{"bridge": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("172.17.0.9")}}}
	}
	alias := func(r *worker.NetworkRequest) {
		r.Endpoints = map[string]*EndpointSettings{"bridge": {Aliases: []string{"x"}}}
	}
	besides := func(name string) func(*worker.NetworkRequest) {
		return func(r *worker.NetworkRequest) { r.Endpoints = map[string]*EndpointSettings{name: {}} }
	}
	exposed := func(r *worker.NetworkRequest) {
		r.Config.ExposedPorts, r.Config.Hostname = network.PortSet{network.MustParsePort("80/tcp"): {}}, "of-the-other"
	}
	hosts := func(h ...string) func(*worker.NetworkRequest) {
		return func(r *worker.NetworkRequest) { r.HostConfig.ExtraHosts = h }
	}
	for _, c := range []struct {
		name   string
		change []func(*worker.NetworkRequest)
		want   string
	}{
		{"plain", nil, ""},
		{"ip", []func(*worker.NetworkRequest){ip}, "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only"},
		{"alias", []func(*worker.NetworkRequest){alias}, "network-scoped aliases are only supported for user-defined networks"},
		{"ports and container", []func(*worker.NetworkRequest){mode("container:x"), publish("80:80")}, "conflicting options: port publishing and the container type network mode"},
		{"image's ports and container", []func(*worker.NetworkRequest){mode("container:x"), exposed}, ""},
		{"none besides", []func(*worker.NetworkRequest){mode("bridge"), besides("none")}, "container cannot be connected to multiple networks with one of the networks in private (none) mode"},
		{"besides none", []func(*worker.NetworkRequest){mode("none"), besides("bridge")}, "container cannot be connected to multiple networks with one of the networks in private (none) mode"},
		{"host besides", []func(*worker.NetworkRequest){mode("bridge"), besides("host")}, "container sharing network namespace with another container or host cannot be connected to any other network"},
		{"no container", []func(*worker.NetworkRequest){mode("container:")}, "invalid network mode: invalid container format container:<name|id>"},
		{"protocol", []func(*worker.NetworkRequest){publish("80:80/icmp")}, "invalid proto: icmp"},
		{"port", []func(*worker.NetworkRequest){publish("x:80")}, `invalid port specification: "x"`},
		{"port beyond", []func(*worker.NetworkRequest){publish("70000:80")}, `invalid port specification: "70000"`},
		{"range", []func(*worker.NetworkRequest){publish("90-80:80")}, `invalid port specification: "90-80"`},
		{"extra", []func(*worker.NetworkRequest){hosts("name")}, `bad format for add-host: "name"`},
		{"lines", []func(*worker.NetworkRequest){hosts("a:1.2.3.4\n6.6.6.6 evil")}, "it is not one line"},
		{"gateway", []func(*worker.NetworkRequest){hosts("h=host-gateway", "six=[::1]")}, ""},
	} {
		err := w.Check(context.Background(), request(c.name, c.change...))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	r := request("complete")
	if err := w.Check(context.Background(), r); err != nil || r.Endpoints["bridge"] == nil || r.Endpoints["bridge"].NetworkID != w.byName(nameBridge).ID {
		t.Errorf("endpoints are %v, %v", r.Endpoints, err)
	}
}
