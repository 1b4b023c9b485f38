package buildkit

import (
	"net/netip"
	"testing"
)

// The host's address is among the labels where docker's clients look for it, unless the configuration has said it or there is
// none; the Worker's own labels stay as they are.
func TestHostGatewayLabel(t *testing.T) {
	for _, c := range []struct {
		given string
		found netip.Addr
		want  string
	}{
		{"", netip.MustParseAddr("172.30.0.1"), "172.30.0.1"},
		{"192.0.2.1", netip.MustParseAddr("172.30.0.1"), "192.0.2.1"},
		{"", netip.Addr{}, ""},
	} {
		w := &Worker{Labels: map[string]string{"a": "b"}, HostGateway: func() netip.Addr { return c.found }}
		if c.given != "" {
			w.Labels[hostGatewayLabel] = c.given
		}
		n := len(w.Labels)
		got := w.labels()
		if got["a"] != "b" || got["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] != c.want || len(w.Labels) != n {
			t.Errorf("%+v: got %v", c, got)
		}
	}
	if got := new(Worker).labels(); got != nil {
		t.Errorf("got %v", got)
	}
}
