package names

import (
	"net/netip"
	"testing"

	"github.com/boxbuild/boxbuild/executor/netns/resolvconf"
)

func TestForEmbedded(t *testing.T) {
	host := resolvconf.Parse([]byte("nameserver 127.0.0.53\nsearch a b\noptions edns0 trust-ad\n"))
	if got, want := string(ForEmbedded(host)), "nameserver 127.0.0.11\nsearch a b\noptions edns0 ndots:0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	servers := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	if got, want := string(ForEmbedded(host.With(servers, []string{"."}, []string{"ndots:2"}))), "nameserver 127.0.0.11\noptions ndots:2\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever the host's file holds, a container's has one meaning for each line.
func FuzzForEmbedded(f *testing.F) {
	f.Add([]byte("nameserver 1.2.3.4\nsearch a\noptions ndots:1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := resolvconf.Parse(data)
		again := resolvconf.Parse(ForEmbedded(c))
		if len(again.Servers) != 1 || again.Servers[0] != Embedded {
			t.Errorf("%q has servers %v", ForEmbedded(c), again.Servers)
		}
	})
}
