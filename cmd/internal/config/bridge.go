package config

import (
	"errors"
	"fmt"
	"net/netip"
)

// Bridge configures the networks of containers: the default one, and what others have for which nothing else is asked.
type Bridge struct {
	// Name is what the default network's bridge is called, as "docker0"; empty for one that is made of the root, so that
	// daemons with other roots do not have the same.
	Name string `toml:"name"`
	// Address is the bridge's, and with its length the default network's subnet, "172.17.0.1/16"; empty for one that the host
	// does not use.
	Address string `toml:"address"`
	// Pools are where subnets come from; empty for docker's.
	Pools []AddressPool `toml:"pool"`
	// MTU is that of networks, in bytes; 0 for that of the host's way out.
	MTU int `toml:"mtu"`
	// ICC is whether containers on the default network reach each other; they do unless it is false.
	ICC *bool `toml:"icc"`
	// HostGateway is what host-gateway stands for in --add-host; empty for the bridge's address.
	HostGateway []string `toml:"host-gateway"`
}

// An AddressPool is a range that subnets of one size are taken from, as docker's default-address-pools.
type AddressPool struct {
	Base string `toml:"base"` // "10.200.0.0/16"
	Size int    `toml:"size"` // the length of the subnets' prefixes
}

// Prefix returns Address; the zero Prefix if it is empty.
func (b *Bridge) Prefix() (netip.Prefix, error) {
	if b.Address == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(b.Address)
	if err != nil || !p.Addr().Is4() || p.Bits() > 30 {
		return netip.Prefix{}, fmt.Errorf("bridge.address: %q is not an IPv4 address with the length of its network", b.Address)
	}
	return p, nil
}

// Gateways returns HostGateway.
func (b *Bridge) Gateways() ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range b.HostGateway {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("bridge.host-gateway: %q is not an address", s)
		}
		out = append(out, a)
	}
	return out, nil
}

// Range returns Base.
func (p *AddressPool) Range() (netip.Prefix, error) {
	r, err := netip.ParsePrefix(p.Base)
	switch {
	case err != nil || r != r.Masked() || !r.Addr().Is4():
		return netip.Prefix{}, fmt.Errorf("bridge.pool: %q is not an IPv4 network", p.Base)
	case p.Size < r.Bits() || p.Size > 30:
		return netip.Prefix{}, fmt.Errorf("bridge.pool: %s has no subnets of size %d", r, p.Size)
	}
	return r, nil
}

func (b *Bridge) validate() error {
	_, err := b.Prefix()
	_, gerr := b.Gateways()
	errs := []error{err, gerr}
	for i := range b.Pools {
		_, err := b.Pools[i].Range()
		errs = append(errs, err)
	}
	if b.MTU != 0 && (b.MTU < 68 || b.MTU > 65535) {
		errs = append(errs, fmt.Errorf("bridge.mtu: %d is not from 68 to 65535", b.MTU))
	}
	return errors.Join(errs...)
}
