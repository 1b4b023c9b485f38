package book

import (
	"net/netip"
	"slices"
	"testing"
)

// Names are found without regard to case, with the network's name or without, and by links; addresses have the first name.
func TestBook(t *testing.T) {
	member := func(addr string, names ...string) Member {
		return Member{Names: names, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}
	}
	b := Book{
		{Name: "app", Members: []Member{member("10.0.0.2/24", "web", "www"), member("10.0.0.3/24", "db")}, Links: []string{"/db:/web/store", "web"}},
		{Name: "other", Members: []Member{member("10.0.1.2/24", "web"), member("10.0.1.9/24")}},
	}
	for name, want := range map[string][]string{
		"web": {"10.0.0.2", "10.0.1.2"}, "WEB.App": {"10.0.0.2"}, "www": {"10.0.0.2"}, "store": {"10.0.0.3"}, "Store": {"10.0.0.3"},
		"none": nil, "": nil, ".app": nil, "store.app": nil,
	} {
		addrs, known := b.Addrs(name)
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if !slices.Equal(got, want) || known != (want != nil) {
			t.Errorf("%q: got %v, %v, want %v", name, got, known, want)
		}
	}
	for addr, want := range map[string]string{"10.0.0.2": "web.app", "10.0.1.2": "web.other", "10.0.1.9": "", "10.0.0.9": ""} {
		if got := b.Name(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %q, want %q", addr, got, want)
		}
	}
}
