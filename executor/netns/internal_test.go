package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// The subnet depends on the ID alone unless it is taken; then it is another one; and it is never one that overlaps.
func TestChooseSubnet(t *testing.T) {
	within := netip.MustParsePrefix("10.192.0.0/10")
	first, err := chooseSubnet(within, "01234567", nil)
	if err != nil || first.Bits() != subnetBits || !within.Overlaps(first) {
		t.Fatalf("got %s, %v", first, err)
	}
	if again, _ := chooseSubnet(within, "01234567", nil); again != first {
		t.Errorf("got %s, then %s", first, again)
	}
	if other, _ := chooseSubnet(within, "01234568", nil); other == first {
		t.Errorf("two IDs have subnet %s", first)
	}
	for _, used := range []string{first.String(), first.Addr().Next().String() + "/32", first.Addr().String() + "/19"} {
		got, err := chooseSubnet(within, "01234567", []netip.Prefix{netip.MustParsePrefix(used).Masked()})
		if err != nil || got.Overlaps(netip.MustParsePrefix(used)) {
			t.Errorf("with a route to %s: got %s, %v", used, got, err)
		}
	}
	if got, err := chooseSubnet(within, "01234567", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); err == nil {
		t.Errorf("with a route to 10.0.0.0/8: got %s", got)
	}
}

// Every address but the network's, the gateway's and the broadcast address is handed out once, and one that comes back
// is the last to be used again.
func TestAddresses(t *testing.T) {
	a := newAddresses(netip.MustParsePrefix("10.0.0.0/29"))
	var got []string
	for {
		addr, err := a.take()
		if err != nil {
			break
		}
		got = append(got, addr.String())
	}
	want := []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	a.free(netip.MustParseAddr("10.0.0.4"))
	a.free(netip.MustParseAddr("10.0.0.2"))
	if addr, err := a.take(); err != nil || addr.String() != "10.0.0.4" {
		t.Errorf("got %s, %v, want the one that came back first", addr, err)
	}
}

// The servers of a file are asked; where it has none, the one on this host is meant.
func TestUpstreamServers(t *testing.T) {
	for in, want := range map[string][]string{
		"":                        {"127.0.0.1"},
		"domain example.test":     {"127.0.0.1"},
		"nameserver 127.0.0.53\n": {"127.0.0.53"},
		"nameserver 192.0.2.1 # first\nnameserver 2001:db8::1\nnameserver bad\n": {"192.0.2.1", "2001:db8::1"},
	} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range NewUpstream(path).servers() {
			got = append(got, a.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{ID: ""},
		{ID: "0123456"},
		{ID: "0123456g"},
		{ID: "01234567", Warm: -1},
		{ID: "01234567", Range: netip.MustParsePrefix("10.0.0.0/24")},
		{ID: "01234567", Range: netip.MustParsePrefix("fd00::/8")},
	} {
		if err := o.setDefaults(); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

// Who makes a namespace while the pool is being closed, to keep it ready or for a caller who was just in time, gets an error.
func TestMakeBridgedClosed(t *testing.T) {
	if n, err := new(Pool).makeBridged(); n != nil || !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, %v", n, err)
	}
}

// A query that comes when too many wait already is dropped at once: a sandbox that floods the forwarder must not fill the
// daemon's memory.
func TestFlood(t *testing.T) {
	f := &forwarder{
		subnet: netip.MustParsePrefix("10.0.0.0/20"), ctx: t.Context(),
		slots: make(chan struct{}), waiting: make(chan struct{}, 1),
	}
	f.waiting <- struct{}{}
	f.ServeDNS(&sandboxQuery{}, new(dns.Msg)) // waits for ever if it waits at all
}

// sandboxQuery is a dns.ResponseWriter of a query from a sandbox.
type sandboxQuery struct{ dns.ResponseWriter }

func (*sandboxQuery) RemoteAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 1} }
