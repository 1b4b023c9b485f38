package network

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/firewall"
	"github.com/boxbuild/boxbuild/worker/network/link"
	"github.com/boxbuild/boxbuild/worker/network/nettest"
	"github.com/boxbuild/boxbuild/worker/network/portmap/carry"
)

func TestMain(m *testing.M) {
	if os.Getenv(portsHelper) != "" {
		if err := carry.Serve(os.NewFile(3, "listener")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(nettest.Main(m))
}

// portsHelper has the program be the process that carries connections to published ports.
const portsHelper = "BOXBUILD_NETWORK_PORTS"

func portsCommand() *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), portsHelper+"=1")
	cmd.Stderr = os.Stderr
	return cmd
}

var number atomic.Int64

// A world is a root whose daemon is started, killed and started again.
type world struct {
	t    testing.TB
	opts Options
	*Service
}

// newWorld returns a world of which nothing may be left on the host when the test ends and its containers have.
func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	w := &world{t: t, opts: Options{
		ID: fmt.Sprintf("%08x", number.Add(1)), Dir: filepath.Join(dir, "netns"), Warm: 2,
		ResolvConf: filepath.Join(dir, "resolv.conf"), PortsCommand: portsCommand,
	}}
	writeTest(t, w.opts.ResolvConf, "nameserver 192.0.2.53\nsearch example.test\n")
	for _, c := range change {
		c(&w.opts)
	}
	if w.opts.Bridge == "" {
		w.opts.Bridge = "bx0-" + w.opts.ID
	}
	w.opts.DB = openDB(t, dir)
	w.start()
	t.Cleanup(func() {
		s := w.Service
		s.mu.Lock()
		var ids []string
		for id := range s.sandboxes {
			ids = append(ids, id)
		}
		s.mu.Unlock()
		for _, id := range ids {
			if err := s.Teardown(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.Prune(context.Background(), nil); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		w.opts.DB.Close()
		w.checkNothingLeft()
	})
	return w
}

func openDB(t testing.TB, dir string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// awaitLine reads until there is a line of that text.
func awaitLine(t testing.TB, r io.Reader, want string) {
	t.Helper()
	in := bufio.NewScanner(r)
	for in.Scan() {
		if in.Text() == want {
			return
		}
		t.Log(in.Text())
	}
	t.Fatalf("there is no line %q", want)
}

func writeTest(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts the daemon, with no container that runs.
func (w *world) start() {
	w.t.Helper()
	s, err := Open(w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Service = s
}

// crash ends the daemon as a kill does: everything stays as it is. The goroutines end, which does not change the host.
func (w *world) crash() {
	w.t.Helper()
	s := w.Service
	s.mu.Lock()
	s.closed = true
	boxes := make([]*sandbox, 0, len(s.sandboxes))
	for _, sb := range s.sandboxes {
		boxes = append(boxes, sb)
	}
	s.mu.Unlock()
	s.end()
	for _, sb := range boxes {
		if sb.lease != nil {
			sb.lease.Leave()
		}
		if sb.dns != nil {
			sb.dns.Close()
		}
	}
	s.carrier.Close()
	s.work.Wait()
	s.stock.Close((*link.Namespace).Close)
	s.table.Close()
	s.host.Close()
}

func (w *world) checkNothingLeft() {
	w.t.Helper()
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		w.t.Error(err)
	}
	for _, l := range links {
		if strings.Contains(l.Name(), w.opts.ID) {
			w.t.Errorf("interface %s is left", l.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Error(err)
	}
	if strings.Contains(string(mounts), w.opts.Dir) {
		w.t.Error("namespaces are left")
	}
	files, err := os.ReadDir(w.opts.Dir)
	if err != nil || len(files) > 0 {
		w.t.Errorf("files are left: %v, %v", files, err)
	}
	if there, err := w.tableThere(); err != nil || there {
		w.t.Errorf("the table is left: %v, %v", there, err)
	}
}

func (w *world) tableThere() (bool, error) {
	table, err := firewall.Open(w.opts.ID)
	if err != nil {
		return false, err
	}
	defer table.Close()
	return table.There()
}

// request is for a container on the default network, changed by change.
func request(name string, change ...func(*worker.NetworkRequest)) *worker.NetworkRequest {
	id := newID()
	r := &worker.NetworkRequest{
		ID: id, Name: name, Config: &container.Config{Hostname: id[:12]}, HostConfig: &container.HostConfig{NetworkMode: "default"},
	}
	for _, c := range change {
		c(r)
	}
	return r
}

// publish adds -p, as "127.0.0.1:8080:80/tcp" or "80".
func publish(specs ...string) func(*worker.NetworkRequest) {
	return func(r *worker.NetworkRequest) {
		if r.HostConfig.PortBindings == nil {
			r.HostConfig.PortBindings = network.PortMap{}
		}
		for _, spec := range specs {
			i := strings.LastIndexByte(spec, ':')
			p := network.MustParsePort(spec[i+1:])
			var b network.PortBinding
			if i >= 0 {
				host := spec[:i]
				if j := strings.LastIndexByte(host, ':'); j >= 0 {
					b.HostIP, host = netip.MustParseAddr(strings.Trim(host[:j], "[]")), host[j+1:]
				}
				b.HostPort = host
			}
			r.HostConfig.PortBindings[p] = append(r.HostConfig.PortBindings[p], b)
		}
	}
}

// up sets a container up, and returns the path of its namespace.
func (w *world) up(r *worker.NetworkRequest) string {
	w.t.Helper()
	if err := w.Check(context.Background(), r); err != nil {
		w.t.Fatal(err)
	}
	got, err := w.Setup(context.Background(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return got.Network.Path
}

func (w *world) down(r *worker.NetworkRequest) {
	w.t.Helper()
	if err := w.Teardown(context.Background(), r.ID); err != nil {
		w.t.Fatal(err)
	}
}

// addr is the container's IPv4 address on a network.
func (w *world) addr(r *worker.NetworkRequest, name string) netip.Addr {
	w.t.Helper()
	if e := w.Settings(r.ID).Networks[name]; e != nil {
		return e.IPAddress
	}
	w.t.Fatalf("%s is not on network %s", r.Name, name)
	return netip.Addr{}
}

// serve has servers in a container.
func serve(t testing.TB, path string, tcp, udp string) {
	t.Helper()
	if err := nettest.DoAt(path, func() error {
		if tcp != "" {
			nettest.ServeTCP(t, tcp)
		}
		if udp != "" {
			nettest.ServeUDP(t, udp)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// expect asks a server and compares what it says of the client's address; "" if it is not to be reached.
func expect(t testing.TB, proto string, to string, want string) {
	t.Helper()
	patience := time.Minute
	if want == "" {
		patience = 300 * time.Millisecond
	}
	got, err := nettest.Ask(proto, netip.MustParseAddrPort(to), patience)
	if got != want || (err == nil) != (want != "") {
		t.Errorf("%s %s says %q, %v: want %q", proto, to, got, err, want)
	}
}

func within(t testing.TB, path string, f func()) {
	t.Helper()
	if err := nettest.DoAt(path, func() error { f(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// Containers on the default network have addresses in the order in which they are started, the lowest free one first; and
// inspect shows them, as the network's does.
func TestAddressesInOrder(t *testing.T) {
	w := newWorld(t)
	gateway := w.byName(nameBridge).gateways[0]
	var boxes []*worker.NetworkRequest
	want := gateway
	for i := range 3 {
		r := request(fmt.Sprintf("c%d", i))
		path := w.up(r)
		boxes = append(boxes, r)
		want = want.Next()
		got := w.Settings(r.ID)
		e := got.Networks[nameBridge]
		if e.IPAddress != want || e.Gateway != w.byName(nameBridge).gateways[0] || e.MacAddress.String()[:5] != "02:42" || got.SandboxKey != path {
			t.Errorf("container %d has %+v in %s, want address %s", i, e, got.SandboxKey, want)
		}
	}
	second := w.addr(boxes[1], nameBridge)
	w.down(boxes[1])
	if w.Settings(boxes[1].ID) != nil {
		t.Error("a container that has ended has settings")
	}
	r := request("again")
	w.up(r)
	if got := w.addr(r, nameBridge); got != second {
		t.Errorf("got %s, want %s, which is free again", got, second)
	}
	in, err := w.Inspect(context.Background(), nameBridge)
	if err != nil || len(in.Containers) != 3 || in.Containers[r.ID].Name != "again" || in.Containers[r.ID].IPv4Address.Addr() != second {
		t.Errorf("inspect shows %+v, %v", in.Containers, err)
	}
}

// Containers reach each other and the host, and the host reaches them.
func TestReach(t *testing.T) {
	w := newWorld(t)
	a, b := request("a"), request("b")
	pathA, pathB := w.up(a), w.up(b)
	addrA, addrB := w.addr(a, nameBridge), w.addr(b, nameBridge)
	serve(t, pathB, "0.0.0.0:80", "0.0.0.0:81")
	gw := w.Settings(a.ID).Networks[nameBridge].Gateway
	server := nettest.ServeTCP(t, netip.AddrPortFrom(gw, 0).String())
	within(t, pathA, func() {
		expect(t, "tcp", addrB.String()+":80", addrA.String())
		expect(t, "udp", addrB.String()+":81", addrA.String())
		expect(t, "tcp", server.String(), addrA.String())
	})
	expect(t, "tcp", addrB.String()+":80", gw.String())
}

// A published port leads to the container from another machine, with the client's address, and from the host itself, also
// at 127.0.0.1, and from other containers and itself, and by IPv6. None of these is at a loopback address for the
// container (CVE-2021-20199).
func TestPublish(t *testing.T) {
	w := newWorld(t)
	peer := nettest.NewPeer(t, "peer-pub", netip.MustParsePrefix("198.51.100.0/30"))
	r := request("web", publish("18080:80", "18081:81/udp"))
	path := w.up(r)
	serve(t, path, "0.0.0.0:80", "0.0.0.0:81")
	other := request("other")
	otherPath := w.up(other)
	addr, gw := w.addr(r, nameBridge).String(), w.Settings(r.ID).Networks[nameBridge].Gateway.String()
	host := peer.Host.String()
	if err := peer.Do(func() error {
		expect(t, "tcp", host+":18080", peer.Addr.String())
		expect(t, "udp", host+":18081", peer.Addr.String())
		expect(t, "tcp", addr+":80", "") // not by the container's own address, also where there is a route
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "tcp", host+":18080", host)
	expect(t, "tcp", "127.0.0.1:18080", gw)
	expect(t, "udp", "127.0.0.1:18081", gw)
	expect(t, "tcp", "[::1]:18080", gw)
	expect(t, "udp", "[::1]:18081", gw)
	for _, p := range []string{otherPath, path} {
		within(t, p, func() {
			expect(t, "tcp", host+":18080", gw)
			expect(t, "udp", host+":18081", gw)
			expect(t, "tcp", gw+":18080", gw)
		})
	}
	got := w.Settings(r.ID).Ports[network.MustParsePort("80/tcp")]
	want := []network.PortBinding{
		{HostIP: netip.MustParseAddr("0.0.0.0"), HostPort: "18080"}, {HostIP: netip.MustParseAddr("::"), HostPort: "18080"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("inspect shows %v, want %v", got, want)
	}
	w.down(r)
	expect(t, "tcp", "127.0.0.1:18080", "")
	expect(t, "tcp", "[::1]:18080", "")
}

// What is published at 127.0.0.1 is for the host alone (CVE-2025-54388), also for who can send it packets to 127.0.0.1.
func TestPublishLoopback(t *testing.T) {
	w := newWorld(t)
	peer := nettest.NewPeer(t, "peer-lo", netip.MustParsePrefix("198.51.100.8/30"))
	r := request("web", publish("127.0.0.1:18082:80"))
	path := w.up(r)
	serve(t, path, "0.0.0.0:80", "")
	expect(t, "tcp", "127.0.0.1:18082", w.Settings(r.ID).Networks[nameBridge].Gateway.String())
	expect(t, "tcp", peer.Host.String()+":18082", "")
	if err := peer.Do(func() error {
		expect(t, "tcp", peer.Host.String()+":18082", "")
		sendLoopback(t, peer.Host)
		expect(t, "tcp", "127.0.0.1:18082", "")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// sendLoopback has the namespace send packets to 127.0.0.1 to a neighbour.
func sendLoopback(t testing.TB, to netip.Addr) {
	t.Helper()
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP.IsLoopback() {
			if err := netlink.RouteDel(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	loopback := &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(32, 32)}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: loopback, Gw: to.AsSlice(), LinkIndex: eth0.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
}

// Containers do not reach what listens at 127.0.0.1 of the host, although packets from there may come to the bridge
// (CVE-2020-8558).
func TestHostLoopback(t *testing.T) {
	w := newWorld(t)
	server := nettest.ServeTCP(t, "127.0.0.1:0")
	r := request("a")
	path := w.up(r)
	gw := w.Settings(r.ID).Networks[nameBridge].Gateway
	within(t, path, func() {
		sendLoopback(t, gw)
		expect(t, "tcp", server.String(), "")
	})
}

// There is no IPv6 on a network without it: not on eth0, not on the bridge's ports, and router advertisements are ignored
// (CVE-2020-13401, CVE-2024-32473).
func TestNoIPv6(t *testing.T) {
	w := newWorld(t)
	r := request("a")
	path := w.up(r)
	s := w.sandboxes[r.ID]
	read := func(key, want string) {
		data, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + key)
		if got := strings.TrimSpace(string(data)); err != nil || got != want {
			t.Errorf("%s is %q, %v: want %s", key, got, err, want)
		}
	}
	within(t, path, func() {
		read("eth0/disable_ipv6", "1")
		read("eth0/accept_ra", "0")
		read("lo/disable_ipv6", "0")
	})
	read(w.opts.Bridge+"/disable_ipv6", "1")
	for _, dev := range []string{s.Endpoints[0].Veth, w.opts.Bridge} {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := ifi.Addrs()
		for _, a := range addrs {
			if strings.Contains(a.String(), ":") {
				t.Errorf("%s has %s, %v", dev, a, err)
			}
		}
	}
}
