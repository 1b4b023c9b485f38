package link

import "testing"

// Only what is a parameter of an interface is read as one; no path leads elsewhere.
func TestParseSysctl(t *testing.T) {
	for in, want := range map[string]Sysctl{
		"net.ipv4.conf.IFNAME.log_martians=1": {"ipv4", "conf", "log_martians", "1"},
		"net.ipv6.neigh.ifname.delay=a=b":     {"ipv6", "neigh", "delay", "a=b"},
		"net.mpls.conf.IFNAME.input=":         {"mpls", "conf", "input", ""},
		"net.ipv4.conf.eth0.log_martians=1":   {},
		"net.ipv4.conf.IFNAME.log_martians":   {},
		"net.core.conf.IFNAME.x=1":            {},
		"kernel.ipv4.conf.IFNAME.x=1":         {},
		"net.ipv4.conf/../../..IFNAME.x=1":    {},
		"net.ipv4.conf/all/x/y.IFNAME.x=1":    {},
		"net.ipv4.conf.IFNAME./../x=1":        {},
		"net.ipv4..IFNAME.x=1":                {},
		"net.ipv4.conf.IFNAME.=1":             {},
		"net.ipv4.conf.IFNAME.a.b=1":          {},
		"":                                    {},
	} {
		got, ok := ParseSysctl(in)
		if got != want || ok != (want != Sysctl{}) {
			t.Errorf("%q: %+v, %v; want %+v", in, got, ok, want)
		}
	}
}
