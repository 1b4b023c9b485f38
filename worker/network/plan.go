package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/ipam"
	"github.com/boxbuild/boxbuild/worker/network/link"
)

// isNamed says whether a request is for networks that have bridges.
func isNamed(r *worker.NetworkRequest) bool {
	mode := r.HostConfig.NetworkMode
	return !r.Config.NetworkDisabled && !mode.IsContainer() && !mode.IsHost() && !mode.IsNone()
}

// idsOf returns the IDs of the networks that a request is for.
func (s *Service) idsOf(r *worker.NetworkRequest) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, name := range networkNames(r) {
		n, err := s.findLocked(name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, n.ID)
	}
	return ids, nil
}

// plan decides on a sandbox's mode, networks and addresses, and enters it in the tables.
func (s *Service) plan(sb *sandbox, r *worker.NetworkRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	mode := r.HostConfig.NetworkMode
	switch {
	case r.Config.NetworkDisabled:
		sb.Mode = modeNone
	case mode.IsContainer():
		other := s.sandboxes[r.Joined]
		if other == nil {
			return worker.Conflictf("cannot join network namespace of a non running container: %s", r.Joined)
		}
		sb.Mode, sb.Joined = modeJoin, r.Joined
		if other.Mode == modeJoin {
			sb.Joined = other.Joined
		}
	case mode.IsHost():
		sb.Mode = modeHost
	case mode.IsNone():
		sb.Mode = modeNone
	default:
		sb.Mode = modeNamed
	}
	if sb.Mode != modeJoin && !r.Config.NetworkDisabled {
		if err := s.planEndpointsLocked(sb, r); err != nil {
			s.forgetLocked(sb)
			return err
		}
	}
	for p := range r.Config.ExposedPorts {
		sb.Exposed = append(sb.Exposed, p)
	}
	for p := range r.HostConfig.PortBindings {
		if _, ok := r.Config.ExposedPorts[p]; !ok {
			sb.Exposed = append(sb.Exposed, p)
		}
	}
	slices.SortFunc(sb.Exposed, comparePorts)
	s.sandboxes[sb.Container] = sb
	return nil
}

func (s *Service) planEndpointsLocked(sb *sandbox, r *worker.NetworkRequest) error {
	for i, name := range networkNames(r) {
		n, err := s.findLocked(name)
		if err != nil {
			return err
		}
		ep, err := s.endpointLocked(n, r, r.Endpoints[name])
		if err != nil {
			return err
		}
		if n.Driver == driverBridge {
			ep.Interface = fmt.Sprintf("eth%d", i)
		}
		sb.Endpoints = append(sb.Endpoints, ep)
		n.endpoints[sb.Container] = ep
	}
	return nil
}

// endpointLocked takes an address of each family on a network.
func (s *Service) endpointLocked(n *netw, r *worker.NetworkRequest, asked *EndpointSettings) (_ *endpoint, err error) {
	if n.gone {
		return nil, worker.NotFoundf("network %s not found", n.Name)
	}
	if n.ConfigOnly {
		return nil, worker.Invalidf("network %s cannot be used: it is a configuration only", n.Name)
	}
	if asked == nil {
		asked = new(EndpointSettings)
	}
	ep := &endpoint{Network: n.ID, ID: newID(), Asked: asked.Copy()}
	defer func() {
		if err != nil {
			n.free(ep)
		}
	}()
	if err := n.takeAddresses(ep, asked); err != nil {
		return nil, err
	}
	if len(ep.Addrs) > 0 {
		ep.MAC = link.MAC(ep.Addrs[0].Addr())
		if len(asked.MacAddress) > 0 {
			ep.MAC = []byte(asked.MacAddress)
		}
	}
	if n.userDefined() {
		ep.DNSNames, ep.NetworkName = dnsNames(r, asked.Aliases), n.Name
	}
	return ep, nil
}

// takeAddresses takes one of the first subnet of each family, or what is asked for.
func (n *netw) takeAddresses(ep *endpoint, asked *EndpointSettings) error {
	done := make(map[bool]bool)
	var asks [2]netip.Addr
	if c := asked.IPAMConfig; c != nil {
		asks = [2]netip.Addr{c.IPv4Address, c.IPv6Address}
	}
	for _, want := range asks {
		if !want.IsValid() {
			continue
		}
		sub := n.subnetOf(want)
		if sub == nil {
			return worker.Invalidf("no configured subnet contains IP address %s", want)
		}
		if n.Chosen {
			return worker.Invalidf("user specified IP address is supported only when connecting to networks with user configured subnets")
		}
		if err := sub.TakeThis(want); err != nil {
			return worker.Errorf(errForbidden, "%v", err)
		}
		ep.Addrs = append(ep.Addrs, netip.PrefixFrom(want, sub.Prefix.Bits()))
		done[want.Is6()] = true
	}
	var full error
	for _, sub := range n.subnets {
		is6 := sub.Prefix.Addr().Is6()
		if done[is6] {
			continue
		}
		a, err := sub.Take()
		if err != nil {
			full = fmt.Errorf("%w: %s (%s)", err, n.Name, n.ID)
			continue // there may be another subnet of the family
		}
		ep.Addrs = append(ep.Addrs, netip.PrefixFrom(a, sub.Prefix.Bits()))
		done[is6] = true
	}
	for _, sub := range n.subnets {
		if !done[sub.Prefix.Addr().Is6()] {
			return full
		}
	}
	slices.SortFunc(ep.Addrs, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return nil
}

func (n *netw) subnetOf(a netip.Addr) *ipam.Subnet {
	for _, sub := range n.subnets {
		if sub.Prefix.Contains(a) {
			return sub
		}
	}
	return nil
}

func (n *netw) free(ep *endpoint) {
	for _, a := range ep.Addrs {
		if sub := n.subnetOf(a.Addr()); sub != nil {
			sub.Free(a.Addr())
		}
	}
}
