package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/link"
	"github.com/boxbuild/boxbuild/worker/network/portmap"
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
		s.stocking.Do(func() { s.goOn(func() { s.stock.Fill(s.life) }) })
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

// forget takes a sandbox out of the tables, and gives its addresses and ports back.
func (s *Service) forget(sb *sandbox) {
	s.mu.Lock()
	lease := sb.lease
	sb.lease = nil
	s.forgetLocked(sb)
	s.mu.Unlock()
	if lease != nil {
		s.giveBack(sb, lease)
	}
}

func (s *Service) giveBack(sb *sandbox, lease *portmap.Lease) {
	if err := lease.Close(); err != nil {
		s.log.Warn("giving back the ports of a container", "container", sb.Container, "error", err)
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
		ns, err = s.stock.Take()
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
	begin := time.Now()
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
	var err error
	if p.Sysctls, err = sysctlsOf(ep.Asked); err != nil {
		return err
	}
	veth, err := s.host.Join(ns, p)
	s.mu.Lock()
	ep.Veth = veth
	s.mu.Unlock()
	if err == nil && s.opts.Connected != nil {
		s.opts.Connected(time.Since(begin))
	}
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
		if err := lease.Serve(to); err != nil {
			return err
		}
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
