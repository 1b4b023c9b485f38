// Package ipam manages the addresses of networks: it chooses subnets that overlap nothing, and hands out the addresses of
// a subnet. It is pure: what the host uses is told to it, and who asks for an address writes down what it got.
//
// A Subnet is safe for concurrent use; its lock is held for no I/O.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// A Pool is a range that subnets of one size are taken from.
type Pool struct {
	Base netip.Prefix // "172.17.0.0/16"
	Size int          // bits of the prefix of a subnet
}

// DefaultPools are docker's: sixteen /16 of 172.16.0.0/12 from 172.17.0.0/16 on, then /20 of 192.168.0.0/16.
func DefaultPools() []Pool {
	var out []Pool
	for i := 17; i < 32; i++ {
		out = append(out, Pool{Base: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i)}), 16), Size: 16})
	}
	return append(out, Pool{Base: netip.MustParsePrefix("192.168.0.0/16"), Size: 20})
}

// Validate returns an error unless subnets can be taken from p.
func (p Pool) Validate() error {
	switch {
	case !p.Base.IsValid() || p.Base != p.Base.Masked():
		return fmt.Errorf("address pool %s: want the address of a network", p.Base)
	case p.Size < p.Base.Bits() || p.Size > p.Base.Addr().BitLen()-2:
		return fmt.Errorf("address pool %s: subnets of %d bits are not in it", p.Base, p.Size)
	}
	return nil
}

// ErrNoSubnet is returned when every subnet of the pools is in use. The text is docker's.
var ErrNoSubnet = errors.New("all predefined address pools have been fully subnetted")

// maxTries bounds how many subnets of a pool are looked at: IPv6 pools have more than there is time for.
const maxTries = 1 << 16

// Choose returns the first subnet of the pools, in order, that overlaps none of used.
func Choose(pools []Pool, used []netip.Prefix) (netip.Prefix, error) {
	for _, p := range pools {
		subnet := netip.PrefixFrom(p.Base.Addr(), p.Size)
		for range maxTries {
			if !p.Base.Contains(subnet.Addr()) {
				break
			}
			if !Overlaps(subnet, used) {
				return subnet, nil
			}
			next := Last(subnet).Next()
			if !next.IsValid() {
				break
			}
			subnet = netip.PrefixFrom(next, p.Size)
		}
	}
	return netip.Prefix{}, ErrNoSubnet
}

// Overlaps says whether p has an address in common with one of used.
func Overlaps(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if p.Overlaps(u) {
			return true
		}
	}
	return false
}

// Last returns the last address of p: for IPv4, the broadcast address.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
