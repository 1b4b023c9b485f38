package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/netns"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/firewall"
	"github.com/boxbuild/boxbuild/worker/network/ipam"
	"github.com/boxbuild/boxbuild/worker/network/link"
)

// An undo is what has to be done when something that has begun cannot be ended.
type undo []func()

func (u *undo) add(f func()) { *u = append(*u, f) }

func (u *undo) run(failed bool) {
	if !failed {
		return
	}
	for _, f := range slices.Backward(*u) {
		f()
	}
}

// Setup makes the network of a container that is about to run: its namespace, addresses and published ports. When it fails
// nothing is left. A container that has a network keeps it.
func (s *Service) Setup(ctx context.Context, r *worker.NetworkRequest) (*worker.NetworkSetup, error) {
	leave, err := s.turns.take(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	defer leave()
	s.mu.Lock()
	sb, closed := s.sandboxes[r.ID], s.closed
	s.mu.Unlock()
	if closed {
		return nil, errors.New("the networks are closed")
	}
	if sb != nil {
		return s.describe(sb, r)
	}
	out, err := s.setup(ctx, r)
	if err != nil {
		return nil, wrap(err)
	}
	return out, nil
}

// wrap has docker's words before an error, and its class.
func wrap(err error) error {
	return classify(err, fmt.Sprintf("failed to set up container networking: %v", err))
}

// setup is Setup for a container without a network. Its turn is held.
func (s *Service) setup(ctx context.Context, r *worker.NetworkRequest) (_ *worker.NetworkSetup, err error) {
	sb := &sandbox{
		Container: r.ID, Name: r.Name, ID: newID(), restored: true,
		Hostname: r.Config.Hostname, Domain: r.Config.Domainname, Env: r.Config.Env,
		DNS: r.HostConfig.DNS,
	}
	var u undo
	defer func() { u.run(err != nil) }()
	if isNamed(r) {
		s.stock.started.Do(func() { s.goOn(func() { s.stock.fill(s.life) }) })
		ids, err := s.idsOf(r)
		if err != nil {
			return nil, err
		}
		if err := s.prepare(ctx, ids); err != nil {
			return nil, err
		}
	}
	if err := s.plan(sb, r); err != nil {
		return nil, err
	}
	u.add(func() { s.forget(sb) })
	if sb.Mode == modeNamed {
		if err := s.reserve(sb, r); err != nil {
			return nil, err
		}
	}
	u.add(func() {
		if err := s.takeDown(sb); err != nil {
			s.log.Warn("undoing what was made of a network", "error", err)
		}
	})
	if err := s.build(sb); err != nil {
		return nil, err
	}
	// A daemon that is killed before this leaves what no description has, which is swept.
	if err := s.save(sb); err != nil {
		return nil, err
	}
	out, err := s.describe(sb, r)
	if err != nil {
		return nil, err
	}
	s.publishEvents(sb, true)
	return out, nil
}

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
		ep.DNSNames = dnsNames(r, asked.Aliases)
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

// forget takes a sandbox out of the tables, and gives its addresses and ports back.
func (s *Service) forget(sb *sandbox) {
	s.mu.Lock()
	lease := sb.lease
	sb.lease = nil
	s.forgetLocked(sb)
	s.mu.Unlock()
	if lease != nil {
		lease.Close()
	}
}

func (s *Service) forgetLocked(sb *sandbox) {
	for _, ep := range sb.Endpoints {
		n := s.networks[ep.Network]
		if n == nil || n.endpoints[sb.Container] != ep {
			continue
		}
		delete(n.endpoints, sb.Container)
		n.free(ep)
	}
	if s.sandboxes[sb.Container] == sb {
		delete(s.sandboxes, sb.Container)
	}
}

// prepare makes what networks need on the host, unless it is there.
func (s *Service) prepare(ctx context.Context, ids []string) error {
	if err := s.makeTable(ctx); err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.raise(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// makeTable makes the firewall's table when the first network is needed.
func (s *Service) makeTable(ctx context.Context) error {
	leave, err := s.turns.take(ctx, "table")
	if err != nil {
		return err
	}
	defer leave()
	s.mu.Lock()
	ready := s.ready
	s.mu.Unlock()
	if ready {
		return nil
	}
	if err := netns.EnableForwarding(); err != nil {
		return err
	}
	if err := s.table.Make(s.state()); err != nil {
		return err
	}
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	s.goOn(func() { s.watch(s.life) })
	return nil
}

// state is all that the firewall is to hold.
func (s *Service) state() *firewall.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := new(firewall.State)
	for _, n := range s.networks {
		if n.bridge != 0 {
			st.Networks = append(st.Networks, n.rules())
		}
	}
	for _, sb := range s.sandboxes {
		st.Publications = append(st.Publications, s.publicationsLocked(sb)...)
	}
	return st
}

// raise makes a network's bridge, unless it has been. A subnet that nobody has asked for and that the host has come to use
// otherwise is replaced by another.
func (s *Service) raise(ctx context.Context, id string) error {
	leave, err := s.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer leave()
	for {
		s.mu.Lock()
		n := s.networks[id]
		there := n == nil || n.bridge != 0 || n.Driver != driverBridge
		movable := !there && n.Chosen && len(n.endpoints) == 0
		s.mu.Unlock()
		if there {
			return nil
		}
		index, err := s.host.EnsureBridge(s.bridgeOf(n))
		if err != nil {
			return err
		}
		if movable {
			moved, err := s.moveAway(n)
			if err != nil {
				return err
			}
			if moved {
				continue
			}
		}
		rules := n.rules()
		if err := s.table.AddNetwork(&rules); err != nil {
			return err
		}
		if err := s.passage(n.bridgeName()).Open(); err != nil {
			return err
		}
		s.mu.Lock()
		n.bridge = index
		s.mu.Unlock()
		return nil
	}
}

// moveAway gives a network another subnet if somebody else uses its own. Its turn is held.
func (s *Service) moveAway(n *netw) (moved bool, err error) {
	var subnets []netip.Prefix
	for _, sub := range n.subnets {
		subnets = append(subnets, sub.Prefix)
	}
	taken, err := s.host.Taken(n.bridgeName(), subnets)
	if err != nil || !taken {
		return false, err
	}
	if err := s.host.RemoveBridge(n.bridgeName()); err != nil {
		return false, err
	}
	rec := n.record
	rec.IPAM.Config = nil
	if err := s.chooseSubnets(&rec); err != nil {
		return false, err
	}
	next, err := newNetw(rec)
	if err != nil {
		return false, err
	}
	if err := s.store(&rec); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.networks[n.ID] = next
	s.mu.Unlock()
	return true, nil
}

// build makes a sandbox's namespace and joins it to its networks.
func (s *Service) build(sb *sandbox) error {
	var ns *link.Namespace
	var err error
	switch sb.Mode {
	case modeHost, modeJoin:
		return nil
	case modeNone:
		ns, err = s.host.NewNamespace(0)
	default:
		ns, err = s.stock.take()
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	s.mu.Lock()
	gateway := s.gatewayLocked(sb)
	s.mu.Unlock()
	if err := ns.Pin(s.key(sb)); err != nil {
		return err
	}
	for _, ep := range sb.Endpoints {
		if err := s.join(ns, ep, ep == gateway); err != nil {
			return err
		}
	}
	return s.open(sb, ns)
}

// join joins a namespace to the network of an endpoint.
func (s *Service) join(ns *link.Namespace, ep *endpoint, gateway bool) error {
	if ep.Interface == "" {
		return nil
	}
	s.mu.Lock()
	n := s.networks[ep.Network]
	bridge := n.bridge
	s.mu.Unlock()
	p := &link.Port{
		Bridge: bridge, Interface: ep.Interface, Isolated: !n.option(optICC), MTU: s.mtuOf(n), MAC: ep.MAC, Addrs: ep.Addrs,
	}
	if gateway {
		p.Gateways = n.gatewaysFor(ep)
	}
	veth, err := s.host.Join(ns, p)
	s.mu.Lock()
	defer s.mu.Unlock()
	ep.Veth = veth
	return err
}

// open lets the world in: published ports, and names.
func (s *Service) open(sb *sandbox, ns *link.Namespace) error {
	s.mu.Lock()
	publications, to, lease := s.publicationsLocked(sb), s.serveAddrLocked(sb), sb.lease
	s.mu.Unlock()
	if len(publications) > 0 {
		if err := s.table.Publish(publications); err != nil {
			return err
		}
		s.forgetConnections(publications)
	}
	if lease != nil && to.IsValid() {
		lease.Serve(to)
	}
	return s.startNames(sb, ns)
}

// describe is what the caller is told of a sandbox.
func (s *Service) describe(sb *sandbox, r *worker.NetworkRequest) (*worker.NetworkSetup, error) {
	out := new(worker.NetworkSetup)
	switch sb.Mode {
	case modeHost:
		out.Network.Mode = executor.NetworkHost
	case modeJoin:
		s.mu.Lock()
		other := s.sandboxes[sb.Joined]
		s.mu.Unlock()
		if other == nil {
			return nil, worker.Conflictf("cannot join network namespace of a non running container: %s", sb.Joined)
		}
		if out.Network.Mode = executor.NetworkHost; other.Mode != modeHost {
			out.Network = executor.Network{Mode: executor.NetworkPath, Path: s.key(other)}
		}
		return out, nil
	default:
		out.Network = executor.Network{Mode: executor.NetworkPath, Path: s.key(sb)}
	}
	return out, s.describeNames(out, sb, r)
}

// comparePorts orders ports by number and protocol.
func comparePorts(a, b network.Port) int {
	if a.Num() != b.Num() {
		return int(a.Num()) - int(b.Num())
	}
	if a.Proto() < b.Proto() {
		return -1
	}
	if a.Proto() > b.Proto() {
		return 1
	}
	return 0
}
