package netns

import (
	"net/netip"
	"slices"
	"testing"
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

func TestParseResolvConf(t *testing.T) {
	for _, c := range []struct {
		in, want string // want is the sandbox's file
		servers  []string
	}{
		{"", "nameserver 10.0.0.1\n", []string{"127.0.0.1"}},
		{"nameserver 127.0.0.53\n", "nameserver 10.0.0.1\n", []string{"127.0.0.53"}},
		{
			"search old\nnameserver 192.0.2.1 # first\nnameserver 2001:db8::1\nnameserver bad\nsearch a b\noptions ndots:5 rotate\n",
			"nameserver 10.0.0.1\nsearch a b\noptions ndots:5\n",
			[]string{"192.0.2.1", "2001:db8::1"},
		},
		{"; comment\n\tnameserver   192.0.2.7  \r\n", "nameserver 10.0.0.1\n", []string{"192.0.2.7"}},
		{"domain example.test", "nameserver 10.0.0.1\nsearch example.test\n", []string{"127.0.0.1"}},
	} {
		conf := parseResolvConf([]byte(c.in))
		var servers []string
		for _, s := range conf.servers {
			servers = append(servers, s.String())
		}
		if got := string(conf.forSandbox(netip.MustParseAddr("10.0.0.1"))); got != c.want || !slices.Equal(servers, c.servers) {
			t.Errorf("%q: got %q and servers %v, want %q and %v", c.in, got, servers, c.want, c.servers)
		}
	}
}

// Whatever the file holds, there is a server, and the sandbox's file has one line for each thing.
func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 1.2.3.4\nsearch a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		conf := parseResolvConf(data)
		if len(conf.servers) == 0 {
			t.Error("no server")
		}
		out := string(conf.forSandbox(netip.MustParseAddr("10.0.0.1")))
		if again := parseResolvConf([]byte(out)); len(again.servers) != 1 {
			t.Errorf("%q has servers %v", out, again.servers)
		}
	})
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
