package config

import (
	"strings"
	"testing"
)

// The networks of containers are what the file says, or it is refused.
func TestBridge(t *testing.T) {
	for _, c := range []struct {
		b    Bridge
		want string
	}{
		{Bridge{}, ""},
		{Bridge{
			Address: "172.30.0.1/16", Pools: []AddressPool{{"10.200.0.0/16", 24}}, MTU: 1400, HostGateway: []string{"192.0.2.1", "fd00::1"},
		}, ""},
		{Bridge{Address: "172.30.0.1"}, "bridge.address"},
		{Bridge{Address: "fd00::1/64"}, "bridge.address"},
		{Bridge{Pools: []AddressPool{{"10.200.0.1/16", 24}}}, "bridge.pool"},
		{Bridge{Pools: []AddressPool{{"10.200.0.0/16", 8}}}, "no subnets of size 8"},
		{Bridge{MTU: 1}, "bridge.mtu"},
		{Bridge{HostGateway: []string{"here"}}, "bridge.host-gateway"},
	} {
		err := c.b.validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: got %v, want %q", c.b, err, c.want)
		}
	}
}
