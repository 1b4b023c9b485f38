package network

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/ipam"
)

// Create implements worker.Networks.
func (s *Service) Create(ctx context.Context, req *network.CreateRequest) (*network.CreateResponse, error) {
	leave, err := s.turns.take(ctx, "create")
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.checkCreate(req); err != nil {
		return nil, err
	}
	s.mu.Lock()
	taken := s.byName(req.Name) != nil
	s.mu.Unlock()
	if taken {
		return nil, worker.Conflictf("network with name %s already exists", req.Name)
	}
	req, err = s.withConfigFrom(req)
	if err != nil {
		return nil, err
	}
	rec, err := s.newRecord(req)
	if err != nil {
		return nil, err
	}
	n, err := newNetw(*rec)
	if err != nil {
		return nil, worker.Invalidf("%v", err)
	}
	if err := s.store(rec); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.networks[n.ID] = n
	s.mu.Unlock()
	if n.Driver == driverBridge && !n.ConfigOnly {
		// Now, so that what is wrong with it is told to who asked for it.
		err := s.makeTable(ctx)
		if err == nil {
			err = s.raise(ctx, n.ID)
		}
		if err != nil {
			_ = s.drop(context.WithoutCancel(ctx), n)
			return nil, err
		}
	}
	s.publish(n, events.ActionCreate, nil)
	return &network.CreateResponse{ID: n.ID}, nil
}

// withConfigFrom completes a request by what a network that is a configuration only has.
func (s *Service) withConfigFrom(req *network.CreateRequest) (*network.CreateRequest, error) {
	if req.ConfigFrom == nil || req.ConfigFrom.Network == "" {
		return req, nil
	}
	if req.IPAM != nil || len(req.Options) > 0 || req.Internal || req.ConfigOnly {
		return nil, worker.Invalidf("user supplied options are not supported with a configuration from another network")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	from, err := s.findLocked(req.ConfigFrom.Network)
	if err != nil {
		return nil, err
	}
	if !from.ConfigOnly {
		return nil, worker.Invalidf("network %s is no configuration", from.Name)
	}
	out := *req
	out.IPAM, out.Options, out.Internal = &from.IPAM, from.Options, from.Internal
	out.EnableIPv4, out.EnableIPv6 = &from.EnableIPv4, &from.EnableIPv6
	return &out, nil
}

// newRecord checks a request, and completes it.
func (s *Service) newRecord(req *network.CreateRequest) (*record, error) {
	rec := &record{Network: network.Network{
		ID: newID(), Name: req.Name, Created: s.now().UTC(), Scope: "local", Driver: driverBridge,
		EnableIPv4: req.EnableIPv4 == nil || *req.EnableIPv4, EnableIPv6: req.EnableIPv6 != nil && *req.EnableIPv6,
		Internal: req.Internal, Attachable: req.Attachable, ConfigOnly: req.ConfigOnly,
		Options: maps.Clone(req.Options), Labels: maps.Clone(req.Labels), IPAM: network.IPAM{Driver: "default"},
	}}
	if rec.Options == nil {
		rec.Options = map[string]string{}
	}
	if rec.Labels == nil {
		rec.Labels = map[string]string{}
	}
	if req.ConfigFrom != nil {
		rec.ConfigFrom = *req.ConfigFrom
	}
	if req.IPAM != nil {
		rec.IPAM.Options, rec.IPAM.Config = req.IPAM.Options, slices.Clone(req.IPAM.Config)
	}
	if req.ConfigOnly {
		rec.Driver = driverNone
		return rec, nil
	}
	return rec, s.chooseSubnets(rec)
}

// checkCreate refuses a network that cannot be, in docker's words.
func (s *Service) checkCreate(req *network.CreateRequest) error {
	switch {
	case strings.TrimSpace(req.Name) == "":
		return worker.Invalidf("invalid network name: name is empty")
	case strings.ContainsAny(req.Name, "/\\:\x00\r\n") || strings.TrimSpace(req.Name) != req.Name:
		return worker.Invalidf("invalid network name: %q", req.Name)
	case slices.Contains([]string{nameBridge, nameHost, nameNone, network.NetworkDefault}, req.Name) || strings.HasPrefix(req.Name, "container:"):
		return worker.Errorf(errForbidden, "operation is not permitted on predefined %s network", req.Name)
	case req.Driver == driverHost || req.Driver == driverNone:
		return worker.Errorf(errForbidden, "only one instance of %q network is allowed", req.Driver)
	case req.Driver != "" && req.Driver != driverBridge && req.Driver != network.NetworkDefault:
		return worker.NotFoundf("could not find plugin %s in v1 plugin registry: plugin not found", req.Driver)
	case req.Scope != "" && req.Scope != "local" || req.Ingress:
		return worker.Invalidf("this node is not a swarm manager")
	case req.IPAM != nil && req.IPAM.Driver != "" && req.IPAM.Driver != "default":
		return worker.NotFoundf("could not find plugin %s in v1 plugin registry: plugin not found", req.IPAM.Driver)
	}
	for key, value := range req.Options {
		var err error
		switch key {
		case optMTU:
			var mtu int
			if mtu, err = strconv.Atoi(value); err == nil && (mtu < 68 || mtu > 65535) {
				return worker.Invalidf("invalid MTU: %d", mtu)
			}
		case optICC, optMasq:
			_, err = strconv.ParseBool(value)
		case optHostIP:
			_, err = netip.ParseAddr(value)
		case optName:
			// The kernel keeps the settings of all interfaces under these two names.
			if value == "all" || value == "default" || !bridgeName.MatchString(value) || s.host.Has(value) {
				return worker.Invalidf("invalid bridge name: %q is no name of an interface, or there is one", value)
			}
		}
		if err != nil {
			return worker.Invalidf("invalid value of option %s: %v", key, err)
		}
	}
	return nil
}

// pools6 are where IPv6 subnets come from: of a unique local range made of the daemon's ID, as no two machines have.
func (s *Service) pools6() []ipam.Pool {
	id, _ := strconv.ParseUint(s.opts.ID, 16, 32) // setDefaults has looked
	a := [16]byte{0xfd, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
	return []ipam.Pool{{Base: netip.PrefixFrom(netip.AddrFrom16(a), 48), Size: 64}}
}

// chooseSubnets checks the subnets that are asked for, and chooses those of families for which none is.
func (s *Service) chooseSubnets(rec *record) error {
	used, err := s.usedPrefixes()
	if err != nil {
		return err
	}
	var ours []netip.Prefix
	s.mu.Lock()
	for _, n := range s.networks {
		for _, sub := range n.subnets {
			ours = append(ours, sub.Prefix)
		}
	}
	s.mu.Unlock()
	has := make(map[bool]bool)
	rec.IPAM.Config = slices.DeleteFunc(rec.IPAM.Config, func(c network.IPAMConfig) bool { return !c.Subnet.IsValid() && !c.Gateway.IsValid() })
	rec.Chosen = len(rec.IPAM.Config) == 0
	for i := range rec.IPAM.Config {
		c := &rec.IPAM.Config[i]
		if err := completeSubnet(c); err != nil {
			return err
		}
		// What the host has routes to is the user's business: they may want to be a part of it.
		if ipam.Overlaps(c.Subnet, ours) {
			return worker.Errorf(errForbidden, "invalid pool request: Pool overlaps with other one on this address space")
		}
		ours = append(ours, c.Subnet)
		has[c.Subnet.Addr().Is6()] = true
	}
	rec.EnableIPv6 = rec.EnableIPv6 || has[true]
	if !rec.EnableIPv4 && !rec.EnableIPv6 {
		return worker.Invalidf("IPv4 or IPv6 must be enabled")
	}
	for _, family := range []struct {
		want  bool
		is6   bool
		pools []ipam.Pool
	}{{rec.EnableIPv4, false, s.opts.Pools}, {rec.EnableIPv6, true, s.pools6()}} {
		if !family.want || has[family.is6] {
			continue
		}
		subnet, err := ipam.Choose(family.pools, used)
		if err != nil {
			return worker.Invalidf("%v", err)
		}
		rec.IPAM.Config = append(rec.IPAM.Config, network.IPAMConfig{Subnet: subnet, Gateway: subnet.Addr().Next()})
	}
	return nil
}

// completeSubnet checks a subnet that a user asks for.
func completeSubnet(c *network.IPAMConfig) error {
	if !c.Subnet.IsValid() {
		return worker.Invalidf("invalid network config: a subnet is needed for gateway %s", c.Gateway)
	}
	if c.Subnet != c.Subnet.Masked() {
		return worker.Invalidf("invalid network config:\ninvalid subnet %s: it should be %s", c.Subnet, c.Subnet.Masked())
	}
	if c.Subnet.Bits() > c.Subnet.Addr().BitLen()-2 {
		return worker.Invalidf("invalid network config:\ninvalid subnet %s: it has no room for containers", c.Subnet)
	}
	if c.IPRange.IsValid() && (!c.Subnet.Contains(c.IPRange.Addr()) || c.IPRange.Bits() < c.Subnet.Bits()) {
		return worker.Invalidf("invalid network config:\ninvalid ip-range %s: parent subnet %s doesn't contain ip-range", c.IPRange, c.Subnet)
	}
	if c.IPRange.IsValid() {
		c.IPRange = c.IPRange.Masked()
	}
	if !c.Gateway.IsValid() {
		c.Gateway = c.Subnet.Addr().Next()
		if c.IPRange.IsValid() && c.IPRange.Addr() != c.Subnet.Addr() {
			c.Gateway = c.IPRange.Addr().Next()
		}
	}
	if !c.Subnet.Contains(c.Gateway) {
		return worker.Invalidf("invalid network config:\ninvalid gateway %s: parent subnet %s doesn't contain this address", c.Gateway, c.Subnet)
	}
	for name, a := range c.AuxAddress {
		if !c.Subnet.Contains(a) {
			return worker.Invalidf("invalid network config:\ninvalid auxiliary address %s (%s): parent subnet %s doesn't contain this address", a, name, c.Subnet)
		}
	}
	return nil
}
