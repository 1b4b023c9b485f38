package ipam

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// The subnet is docker's first unless something of it is in use, and never one that overlaps.
func TestChoose(t *testing.T) {
	all := prefixes("172.16.0.0/12", "192.168.0.0/17", "192.168.128.0/17")
	for _, c := range []struct {
		used []netip.Prefix
		want string
	}{
		{nil, "172.17.0.0/16"},
		{prefixes("172.17.3.4/32"), "172.18.0.0/16"},
		{prefixes("172.17.0.0/16", "172.19.0.0/16", "172.18.0.0/30"), "172.20.0.0/16"},
		{prefixes("172.16.0.0/12"), "192.168.0.0/20"},
		{prefixes("172.16.0.0/12", "192.168.0.0/19", "10.0.0.0/8"), "192.168.32.0/20"},
		{prefixes("0.0.0.0/0"), ""},
		{all, ""},
	} {
		got, err := Choose(DefaultPools(), c.used)
		if c.want == "" {
			if !errors.Is(err, ErrNoSubnet) {
				t.Errorf("with %v: got %s, %v", c.used, got, err)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("with %v: got %s, %v, want %s", c.used, got, err, c.want)
		}
	}
}

// A pool whose end is the end of all addresses has no subnet beyond.
func TestChooseAtTheEnd(t *testing.T) {
	pools := []Pool{{Base: netip.MustParsePrefix("255.255.0.0/16"), Size: 17}}
	if got, err := Choose(pools, prefixes("255.255.0.0/16")); !errors.Is(err, ErrNoSubnet) {
		t.Errorf("got %s, %v", got, err)
	}
	pools = []Pool{{Base: netip.MustParsePrefix("fd00::/8"), Size: 64}}
	if got, err := Choose(pools, prefixes("fd00::/63")); err != nil || got.String() != "fd00:0:0:2::/64" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestPoolValidate(t *testing.T) {
	for _, p := range append(DefaultPools(), Pool{netip.MustParsePrefix("fd00::/8"), 64}) {
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, p := range []Pool{
		{}, {netip.MustParsePrefix("10.0.0.1/8"), 16}, {netip.MustParsePrefix("10.0.0.0/8"), 7}, {netip.MustParsePrefix("10.0.0.0/8"), 31},
	} {
		if p.Validate() == nil {
			t.Errorf("%v: no error", p)
		}
	}
}

// Every address is handed out once, in order, but those of the network, of broadcasts and the reserved ones; the lowest
// that came back is the next.
func TestSubnet(t *testing.T) {
	s := NewSubnet(netip.MustParsePrefix("10.0.0.0/29"), netip.Prefix{}, netip.MustParseAddr("10.0.0.1"))
	var got []string
	for {
		a, err := s.Take()
		if err != nil {
			if !errors.Is(err, ErrFull) {
				t.Error(err)
			}
			break
		}
		got = append(got, a.String())
	}
	if want := []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	s.Free(netip.MustParseAddr("10.0.0.5"))
	s.Free(netip.MustParseAddr("10.0.0.3"))
	for _, want := range []string{"10.0.0.3", "10.0.0.5"} {
		if a, err := s.Take(); err != nil || a.String() != want {
			t.Errorf("got %s, %v, want %s", a, err, want)
		}
	}
	if _, err := s.Take(); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want that it is full", err)
	}
}

// An address that is asked for is had once, if it is in the subnet, and also outside the range for the others.
func TestTakeThis(t *testing.T) {
	s := NewSubnet(netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.5.0/30"), netip.MustParseAddr("10.1.0.1"))
	for _, c := range []struct {
		addr string
		want error
	}{
		{"10.1.9.9", nil},
		{"10.1.9.9", ErrInUse},
		{"10.1.0.1", ErrInUse},
		{"10.1.255.255", ErrInUse},
		{"10.1.5.1", nil},
		{"10.2.0.1", ErrOutside},
	} {
		if got := s.TakeThis(netip.MustParseAddr(c.addr)); !errors.Is(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.addr, got, c.want)
		}
	}
	var got []string
	for a, err := s.Take(); err == nil; a, err = s.Take() {
		got = append(got, a.String())
	}
	if want := []string{"10.1.5.0", "10.1.5.2", "10.1.5.3"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
