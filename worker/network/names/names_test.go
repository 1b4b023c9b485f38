package names

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/boxbuild/boxbuild/worker/network/names/book"
)

func TestParseExtra(t *testing.T) {
	gw := []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("fd00::1")}
	got, err := ParseExtra([]string{"a:192.0.2.1", "b=192.0.2.2", "six:2001:db8::1", "br:[::1]", "h:host-gateway"}, gw)
	if err != nil {
		t.Fatal(err)
	}
	file := string(Hosts(got))
	want := "192.0.2.1\ta\n192.0.2.2\tb\n2001:db8::1\tsix\n::1\tbr\n172.17.0.1\th\nfd00::1\th\n"
	if !strings.HasPrefix(file, "127.0.0.1\tlocalhost\n") || !strings.HasSuffix(file, "\n"+want) {
		t.Errorf("got %q, want it to end in %q", file, want)
	}
	for _, bad := range []string{"", "a", "a:", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3", "a\nb:1.2.3.4"} {
		if got, err := ParseExtra([]string{bad}, gw); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
	if _, err := ParseExtra([]string{"h:host-gateway"}, nil); err == nil {
		t.Error("a gateway that there is not is had")
	}
}

// Ports come by number, and the first is the link's own.
func TestVariables(t *testing.T) {
	l := &Link{
		Alias: "my-db", Name: "db", Own: "web", Hostname: "db", Addr: netip.MustParseAddr("172.17.0.5"),
		Ports: []string{"443/tcp", "53/udp", "53/tcp"}, Env: []string{"HOME=/", "A=b=c", "EMPTY"},
	}
	want := []string{
		"MY_DB_NAME=/web/my-db", "MY_DB_PORT=tcp://172.17.0.5:53",
		"MY_DB_PORT_53_TCP=tcp://172.17.0.5:53", "MY_DB_PORT_53_TCP_ADDR=172.17.0.5", "MY_DB_PORT_53_TCP_PORT=53", "MY_DB_PORT_53_TCP_PROTO=tcp",
		"MY_DB_PORT_53_UDP=udp://172.17.0.5:53", "MY_DB_PORT_53_UDP_ADDR=172.17.0.5", "MY_DB_PORT_53_UDP_PORT=53", "MY_DB_PORT_53_UDP_PROTO=udp",
		"MY_DB_PORT_443_TCP=tcp://172.17.0.5:443", "MY_DB_PORT_443_TCP_ADDR=172.17.0.5", "MY_DB_PORT_443_TCP_PORT=443", "MY_DB_PORT_443_TCP_PROTO=tcp",
		"MY_DB_ENV_A=b=c",
	}
	if got := l.Variables(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := l.Host(); strings.Join(got.Names, " ") != "my-db db" {
		t.Errorf("got %v", got)
	}
}

func TestParseReverse(t *testing.T) {
	for _, a := range []string{"192.0.2.1", "2001:db8::f", "::1", "255.255.255.255"} {
		name, err := dns.ReverseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := book.ParseReverse(strings.ToUpper(name)); !ok || got.String() != a {
			t.Errorf("%s: got %s, %v, want %s", name, got, ok, a)
		}
	}
}

// Whatever the name is, what comes out is an address of which it is the name, or none.
func FuzzParseReverse(f *testing.F) {
	f.Add("1.2.0.192.in-addr.arpa.")
	f.Add("x.ip6.arpa")
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := book.ParseReverse(name)
		if !ok {
			return
		}
		back, err := dns.ReverseAddr(a.String())
		if err != nil || trimDot(back) != strings.ToLower(trimDot(name)) && !strings.Contains(name, "::") && !a.Is4In6() {
			t.Errorf("%q is %s, whose name is %q, %v", name, a, back, err)
		}
	})
}
