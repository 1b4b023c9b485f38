package link

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker/network/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

func open(t *testing.T, id string) *Host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	h, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func bridge(name, addr string) *Bridge {
	return &Bridge{Name: name, MTU: 1400, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}
}

// A bridge is made once, whoever asks again; one that somebody else has made is used and stays.
func TestBridge(t *testing.T) {
	h := open(t, "00000001")
	first, err := h.EnsureBridge(bridge("test-own", "10.9.0.1/24"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := h.EnsureBridge(bridge("test-own", "10.9.0.1/24")); err != nil || again != first {
		t.Errorf("got %d, %v, want %d", again, err, first)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "test-foreign"
	foreign := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(foreign); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = netlink.LinkDel(foreign) }()
	if _, err := h.EnsureBridge(bridge("test-foreign", "10.9.1.1/24")); err != nil {
		t.Error(err)
	}
	if bridges, _, err := h.Devices(); err != nil || !slices.Equal(bridges, []string{"test-own"}) {
		t.Errorf("got %v, %v", bridges, err)
	}
	for range 2 {
		for _, name := range []string{"test-own", "test-foreign"} {
			if err := h.RemoveBridge(name); err != nil {
				t.Error(err)
			}
		}
	}
	if h.Has("test-own") || !h.Has("test-foreign") {
		t.Errorf("own is there: %v, foreign: %v", h.Has("test-own"), h.Has("test-foreign"))
	}
	if _, err := h.EnsureBridge(bridge("lo", "10.9.2.1/24")); err == nil {
		t.Error("lo is a bridge")
	}
}

// There is no moment at which a bridge is there under its name and could be taken for somebody else's: a daemon that is killed
// then would leave it for good. Before that it has a name under which the next daemon removes it.
func TestBridgeIsOwn(t *testing.T) {
	h := open(t, "00000005")
	updates, done := make(chan netlink.LinkUpdate, 1000), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		t.Fatal(err)
	}
	if _, err := h.EnsureBridge(bridge("test-whose", "10.9.5.1/24")); err != nil {
		t.Fatal(err)
	}
	if err := h.RemoveBridge("test-whose"); err != nil {
		t.Fatal(err)
	}
	for u := range updates {
		attrs := u.Attrs()
		switch {
		case u.Header.Type == unix.RTM_DELLINK && attrs.Name == "test-whose":
			return
		case attrs.Name == "test-whose" && attrs.Alias != h.alias():
			t.Errorf("it has its name, and the alias %q", attrs.Alias)
		case attrs.Name != "test-whose" && !strings.HasPrefix(attrs.Name, VethPrefix("00000005")):
			t.Errorf("there is a device %s", attrs.Name)
		}
	}
}

// Nothing is removed that has not the daemon's name.
func TestForeignVeth(t *testing.T) {
	h := open(t, "00000002")
	for _, name := range []string{"lo", "w00000003-00000", ""} {
		if err := h.RemoveVeth(name); err == nil {
			t.Errorf("%q: no error", name)
		}
	}
	if err := h.RemoveVeth("w00000002-00000"); err != nil {
		t.Error(err)
	}
}

// A namespace that is pinned is found by its path, joined, and withdrawn from; without the pin it is gone.
func TestNamespace(t *testing.T) {
	h := open(t, "00000004")
	index, err := h.EnsureBridge(bridge("test-ns", "10.9.3.1/24"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.RemoveBridge("test-ns") }()
	ns, err := h.NewNamespace(1400)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ns")
	if err := ns.Pin(path); err != nil {
		t.Fatal(err)
	}
	if ns.Pin(path) == nil {
		t.Error("it is pinned twice")
	}
	ns.Close()
	if ns, err = OpenNamespace(path); err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	port := &Port{
		Bridge: index, Interface: "eth1", MTU: 1300, MAC: MAC(netip.MustParseAddr("10.9.3.2")),
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.3.2/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.9.3.1")},
		Sysctls: []Sysctl{{"ipv4", "conf", "log_martians", "1"}, {"ipv4", "neigh", "retrans_time_ms", "500"}},
	}
	veth, err := h.Join(ns, port)
	if err != nil {
		t.Fatal(err)
	}
	_ = ns.Do(func() error {
		for file, want := range map[string]string{"conf/eth1/log_martians": "1\n", "neigh/eth1/retrans_time_ms": "500\n"} {
			if got, err := os.ReadFile("/proc/sys/net/ipv4/" + file); err != nil || string(got) != want {
				t.Errorf("%s is %q, %v; want %q", file, got, err, want)
			}
		}
		return nil
	})
	other := *port
	other.Interface, other.Sysctls = "eth2", []Sysctl{{"ipv4", "conf", "no_such", "1"}}
	if _, err := h.Join(ns, &other); err == nil || !strings.Contains(err.Error(), "is not a sysctl file") {
		t.Errorf("joined with a parameter that there is not: %v", err)
	}
	l, err := ns.Handle().LinkByName("eth1")
	if err != nil || l.Attrs().MTU != 1300 || l.Attrs().HardwareAddr.String() != "02:42:0a:09:03:02" {
		t.Errorf("eth1 is %+v, %v", l, err)
	}
	for range 2 {
		if err := ns.Withdraw("eth1"); err != nil {
			t.Error(err)
		}
	}
	if addrs, err := ns.Handle().AddrList(l, netlink.FAMILY_V4); err != nil || len(addrs) > 0 {
		t.Errorf("it has %v, %v", addrs, err)
	}
	for range 2 {
		if err := errors.Join(h.RemoveVeth(veth), Unpin(path)); err != nil {
			t.Error(err)
		}
	}
	if _, err := OpenNamespace(path); !errors.Is(err, ErrNoNamespace) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenNamespace(path); !errors.Is(err, ErrNoNamespace) {
		t.Errorf("a plain file is a namespace: %v", err)
	}
}
