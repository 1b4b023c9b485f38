package netns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/netns"
)

var number atomic.Int64

func newID() string { return fmt.Sprintf("%06x%02x", os.Getpid()&0xffffff, number.Add(1)&0xff) }

func newPool(t testing.TB, change ...func(*netns.Options)) (*netns.Pool, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	opts := netns.Options{ID: newID(), Warm: 1}
	for _, c := range change {
		c(&opts)
	}
	p, err := netns.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		for _, n := range interfaces(t) {
			if strings.Contains(n, opts.ID) {
				t.Errorf("interface %s is left", n)
			}
		}
	})
	return p, opts.ID
}

func interfaces(t testing.TB) []string {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range list {
		out = append(out, i.Name)
	}
	return out
}

func bridge(t testing.TB, p *netns.Pool) *os.File {
	t.Helper()
	ns, release, err := p.Bridge(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return ns
}

// inside runs f on a thread that is in the namespace ns.
func inside(t testing.TB, ns *os.File, f func() error) {
	t.Helper()
	if err := tryInside(ns, f); err != nil {
		t.Fatal(err)
	}
}

func tryInside(ns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// dialTCP connects without Go's poller threads, so that the socket is made in this thread's namespace, and returns what
// the server sends.
func dialTCP(addr netip.AddrPort) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	tv := unix.Timeval{Sec: 5}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := unix.Read(fd, buf)
	return string(buf[:max(n, 0)]), err
}

// A server on the host tells each client its address.
func echoServer(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln)
	return netip.MustParseAddrPort(ln.Addr().String())
}

func serve(t testing.TB, ln net.Listener) {
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

// A namespace of the pool has lo up, one address on eth0, a default route, and no IPv6 but on lo; router advertisements
// would be ignored (CVE-2020-13401).
func TestBridgeNamespace(t *testing.T) {
	p, _ := newPool(t)
	gw, err := p.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	ns := bridge(t, p)
	inside(t, ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil || lo.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("lo is not up: %v, %v", lo, err)
		}
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := h.AddrList(eth0, netlink.FAMILY_ALL)
		if err != nil || len(addrs) != 1 || !gw.Contains(netip.MustParseAddr(addrs[0].IP.String())) {
			t.Errorf("addresses of eth0 are %v, %v: want one in %v", addrs, err, gw)
		}
		for file, want := range map[string]string{
			"net/ipv6/conf/eth0/disable_ipv6": "1", "net/ipv6/conf/eth0/accept_ra": "0",
			"net/ipv6/conf/lo/disable_ipv6": "0", "net/ipv4/ip_unprivileged_port_start": "0",
		} {
			data, err := os.ReadFile("/proc/sys/" + file)
			if got := strings.TrimSpace(string(data)); got != want {
				t.Errorf("%s is %q, %v: want %q", file, got, err, want)
			}
		}
		routes, err := h.RouteList(eth0, netlink.FAMILY_V4)
		if err != nil || len(routes) != 2 {
			t.Errorf("routes are %v, %v: want the subnet and the default", routes, err)
		}
		return nil
	})
}

// Each sandbox gets another namespace: none is used twice, and an isolated one has nothing but lo.
func TestNamespacesAreFresh(t *testing.T) {
	p, _ := newPool(t)
	seen := make(map[uint64]bool)
	for range 6 {
		ns, release, err := p.Isolated(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		inside(t, ns, func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			links, err := h.LinkList()
			for _, l := range links {
				if l.Attrs().Name == "eth0" || l.Attrs().Name != "lo" && l.Attrs().Flags&net.FlagUp != 0 {
					t.Errorf("an isolated namespace has %s", l.Attrs().Name)
				}
			}
			return err
		})
		if seen[st.Ino] {
			t.Errorf("namespace %d was handed out twice", st.Ino)
		}
		seen[st.Ino] = true
		defer release()
	}
}

// outside makes a namespace that is connected with the host, as the world is, and returns its address and the host's.
func outside(t *testing.T) (ns *os.File, there, here netip.Addr) {
	t.Helper()
	base := fmt.Sprintf("198.18.%d.", 100+number.Add(1)%100)
	there, here = netip.MustParseAddr(base+"2"), netip.MustParseAddr(base+"1")
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	name := "o" + newID()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "out0", netlink.NsFd(int(ns.Fd()))
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	up := func(h *netlink.Handle, name string, a netip.Addr) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		ipn := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: ipn}); err != nil {
			return err
		}
		return h.LinkSetUp(l)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err == nil {
		err = up(h, name, here)
		h.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	inside(t, ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return up(h, "out0", there)
	})
	return ns, there, here
}

// listenIn listens in a namespace.
func listenIn(t *testing.T, ns *os.File, addr string) netip.AddrPort {
	t.Helper()
	var ln net.Listener
	inside(t, ns, func() (err error) {
		ln, err = net.Listen("tcp4", addr)
		return err
	})
	serve(t, ln)
	return netip.MustParseAddrPort(ln.Addr().String())
}

// A connection to the outside arrives there with the host's address.
func TestNAT(t *testing.T) {
	p, _ := newPool(t)
	out, there, here := outside(t)
	server := listenIn(t, out, there.String()+":0")
	ns := bridge(t, p)
	inside(t, ns, func() error {
		got, err := dialTCP(server)
		if got != here.String() {
			t.Errorf("the server saw %q, %v: want %s", got, err, here)
		}
		return nil
	})
}

// Nothing of the host answers a sandbox: neither on loopback, nor on the bridge's address, nor on another of the host's;
// and the refusal is immediate (CVE-2025-9074).
func TestHostIsOutOfReach(t *testing.T) {
	p, _ := newPool(t)
	gw, err := p.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	_, _, here := outside(t)
	all := echoServer(t, "0.0.0.0:0")
	local := echoServer(t, "127.0.0.1:0")
	ns := bridge(t, p)
	for _, addr := range []netip.AddrPort{
		netip.AddrPortFrom(gw.Addr(), all.Port()), netip.AddrPortFrom(here, all.Port()),
		netip.AddrPortFrom(gw.Addr(), local.Port()), local,
	} {
		inside(t, ns, func() error {
			if got, err := dialTCP(addr); err == nil {
				t.Errorf("%s answered %q", addr, got)
			} else if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: %v: want a refusal", addr, err)
			}
			return nil
		})
	}
}

// With HostAccess, servers on the host can be reached at the bridge's address.
func TestHostAccess(t *testing.T) {
	p, _ := newPool(t, func(o *netns.Options) { o.HostAccess = true })
	gw, err := p.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	all := echoServer(t, "0.0.0.0:0")
	inside(t, bridge(t, p), func() error {
		got, err := dialTCP(netip.AddrPortFrom(gw.Addr(), all.Port()))
		if a, perr := netip.ParseAddr(got); perr != nil || !gw.Contains(a) {
			t.Errorf("the server saw %q, %v: want an address of %s", got, err, gw)
		}
		return nil
	})
}

// Sandboxes can't reach each other.
func TestSandboxesAreApart(t *testing.T) {
	p, _ := newPool(t)
	a, b := bridge(t, p), bridge(t, p)
	server := listenIn(t, a, "0.0.0.0:0")
	addr := addressOf(t, a)
	inside(t, a, func() error {
		if _, err := dialTCP(netip.AddrPortFrom(addr, server.Port())); err != nil {
			t.Errorf("the server does not answer in its own namespace: %v", err)
		}
		return nil
	})
	inside(t, b, func() error {
		if got, err := dialTCP(netip.AddrPortFrom(addr, server.Port())); err == nil {
			t.Errorf("another sandbox answered %q", got)
		}
		return nil
	})
}

func addressOf(t *testing.T, ns *os.File) (out netip.Addr) {
	t.Helper()
	inside(t, ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := h.AddrList(eth0, netlink.FAMILY_V4)
		if err == nil && len(addrs) > 0 {
			out, _ = netip.AddrFromSlice(addrs[0].IP.To4())
		}
		return err
	})
	return out
}

// fakeDNS is a server on loopback that knows one name.
func fakeDNS(t *testing.T, addr string) {
	t.Helper()
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		switch {
		case q.Question[0].Name == "known.test." && q.Question[0].Qtype == dns.TypeA:
			rr, _ := dns.NewRR("known.test. 60 IN A 203.0.113.9")
			a.Answer = append(a.Answer, rr)
		case q.Question[0].Name == "big.test.":
			for range 100 {
				rr, _ := dns.NewRR(`big.test. 60 IN TXT "` + strings.Repeat("x", 200) + `"`)
				a.Answer = append(a.Answer, rr)
			}
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
				a.Truncate(dns.MinMsgSize)
			}
		default:
			a.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(a)
	})
	for _, network := range []string{"udp", "tcp"} {
		s := &dns.Server{Addr: addr, Net: network, Handler: h}
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		failed := make(chan error, 1)
		go func() { failed <- s.ListenAndServe() }()
		select {
		case <-started:
		case err := <-failed:
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Shutdown() })
	}
}

// Queries from a sandbox are answered by the host's server, even though that listens on loopback only (as
// systemd-resolved does); names, unknown names, and answers too long for UDP.
func TestDNS(t *testing.T) {
	fakeDNS(t, "127.0.7.53:53")
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("# c\nnameserver 127.0.7.53\nsearch a.test b.test\noptions ndots:2 trust-ad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, _ := newPool(t, func(o *netns.Options) { o.ResolvConf = conf })
	gw, err := p.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.ResolvConf()
	want := fmt.Sprintf("nameserver %s\nsearch a.test b.test\noptions ndots:2\n", gw.Addr())
	if string(got) != want {
		t.Errorf("resolv.conf is %q, %v: want %q", got, err, want)
	}
	ns := bridge(t, p)
	query := func(network, name string) (*dns.Msg, error) {
		var conn net.Conn
		err := tryInside(ns, func() (err error) {
			conn, err = net.Dial(network, gw.Addr().String()+":53")
			return err
		})
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		c := &dns.Client{Net: network, Timeout: 10 * time.Second}
		kind := dns.TypeA
		if name == "big.test." {
			kind = dns.TypeTXT
		}
		a, _, err := c.ExchangeWithConn(new(dns.Msg).SetQuestion(name, kind), &dns.Conn{Conn: conn})
		return a, err
	}
	for _, network := range []string{"udp", "tcp"} {
		a, err := query(network, "known.test.")
		if err != nil || len(a.Answer) != 1 || !strings.Contains(a.Answer[0].String(), "203.0.113.9") {
			t.Errorf("%s: known.test: %v, %v", network, a, err)
		}
		if a, err := query(network, "unknown.test."); err != nil || a.Rcode != dns.RcodeNameError {
			t.Errorf("%s: unknown.test: %v, %v", network, a, err)
		}
	}
	if a, err := query("udp", "big.test."); err != nil || !a.Truncated {
		t.Errorf("a long answer over UDP: %v, %v: want it truncated", a, err)
	}
	if a, err := query("tcp", "big.test."); err != nil || len(a.Answer) != 100 {
		t.Errorf("a long answer over TCP: %v", err)
	}
}

// What a killed daemon left, a bridge and a table, is removed by the next one with the same ID.
func TestSweep(t *testing.T) {
	first, id := newPool(t)
	if _, err := first.Gateway(); err != nil {
		t.Fatal(err)
	}
	// As if first had been killed: its bridge and table are still there.
	second, err := netns.New(netns.Options{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for _, n := range interfaces(t) {
		if strings.Contains(n, id) {
			t.Errorf("interface %s is left", n)
		}
	}
	if _, err := second.Gateway(); err != nil {
		t.Errorf("making the network again: %v", err)
	}
}

// A daemon that is ended while it removes its network leaves nothing for good: the bridge goes before the veth pairs, which
// the kernel removes with the namespaces.
func TestBridgeGoesFirst(t *testing.T) {
	p, id := newPool(t)
	ns, _, err := p.Bridge(t.Context()) // which is not given back, so that nothing but the end of the network removes its pair
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	veth := 0
	inside(t, ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			veth = link.Attrs().ParentIndex
		}
		return err
	})
	updates, done := make(chan netlink.LinkUpdate, 1000), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for u := range updates {
		// Of another family are the reports of ports that leave a bridge.
		if u.Header.Type != unix.RTM_DELLINK || u.Family != unix.AF_UNSPEC {
			continue
		}
		if u.Attrs().Name == "bx-"+id {
			return
		}
		if u.Attrs().Index == veth {
			t.Fatal("the veth pair goes first")
		}
	}
	t.Error("nothing goes")
}

// Two daemons have different bridges and subnets, and ending one leaves the other working.
func TestTwoPools(t *testing.T) {
	a, _ := newPool(t)
	b, _ := newPool(t)
	ga, err := a.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	gb, err := b.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	if ga.Overlaps(gb) {
		t.Errorf("subnets %s and %s overlap", ga, gb)
	}
	out, there, _ := outside(t)
	server := listenIn(t, out, there.String()+":0")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	inside(t, bridge(t, b), func() error {
		if _, err := dialTCP(server); err != nil {
			t.Errorf("after the other's end: %v", err)
		}
		return nil
	})
	if _, _, err := a.Bridge(context.Background()); !errors.Is(err, netns.ErrClosed) {
		t.Errorf("Bridge after Close: %v", err)
	}
}

func BenchmarkBridge(b *testing.B) {
	p, _ := newPool(b, func(o *netns.Options) { o.Warm = 4 })
	if _, err := p.Gateway(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, release, err := p.Bridge(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}
