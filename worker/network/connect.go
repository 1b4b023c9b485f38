package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/link"
)

// find finds a network, and those who know the container that is to be on it or not.
func (s *Service) find(ref, container string) (*netw, Containers, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.findLocked(ref)
	switch {
	case err != nil:
		return nil, nil, err
	case s.containers != nil:
		return n, s.containers, nil
	case s.sandboxNamedLocked(container) != nil:
		return nil, nil, worker.Errorf(errForbidden, "container %s cannot be changed", container)
	}
	return nil, nil, worker.NotFoundf("No such container: %s", container)
}

// Connect implements worker.Networks.
func (s *Service) Connect(ctx context.Context, ref string, req *network.ConnectRequest) error {
	n, all, err := s.find(ref, req.Container)
	if err != nil {
		return err
	}
	e := req.EndpointConfig.Copy()
	if e == nil {
		e = new(EndpointSettings)
	}
	var sb *sandbox // that it has been connected in
	err = all.EditEndpoint(ctx, req.Container, n.Name, func(r *worker.NetworkRequest) (*EndpointSettings, error) {
		leave, err := s.turns.take(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		defer leave()
		if err := checkConnect(n, r, e); err != nil {
			return nil, err
		}
		e.NetworkID = n.ID
		if n.userDefined() {
			e.DNSNames = dnsNames(r, e.Aliases)
		}
		s.mu.Lock()
		on := s.sandboxes[r.ID]
		s.mu.Unlock()
		if on == nil {
			return e, nil
		}
		err = s.rewriting(on, r, func() error {
			err := s.connect(ctx, on, n, r, e)
			if err == nil {
				sb = on
			}
			return err
		})
		return e, err
	})
	if sb == nil {
		return err
	}
	if err != nil {
		return errors.Join(err, s.undoConnect(ctx, sb, n))
	}
	s.publish(n, events.ActionConnect, map[string]string{"container": sb.Container})
	return nil
}

// undoConnect takes a container off a network whose being on it could not be written down.
func (s *Service) undoConnect(ctx context.Context, sb *sandbox, n *netw) error {
	leave, err := s.turns.take(context.WithoutCancel(ctx), sb.Container)
	if err != nil {
		return err
	}
	defer leave()
	return s.disconnect(sb, n)
}

// checkConnect refuses what cannot be connected, in docker's words.
func checkConnect(n *netw, r *worker.NetworkRequest, e *EndpointSettings) error {
	mode := r.HostConfig.NetworkMode
	switch {
	case mode.IsContainer():
		return worker.Invalidf("container sharing network namespace with another container or host cannot be connected to any other network")
	case mode.IsHost() || n.Driver == driverHost:
		return worker.Errorf(errForbidden, "container cannot be disconnected from host network or connected to host network")
	case mode.IsNone() || n.Driver == driverNone:
		return worker.Errorf(errForbidden, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	for name := range r.Endpoints {
		if name == n.Name || name == n.ID {
			return worker.Errorf(errForbidden, "endpoint with name %s already exists in network %s", r.Name, n.Name)
		}
	}
	return checkEndpoint(n, n.Name, e)
}

// connect joins a container that runs to one more network. Its turn is held.
func (s *Service) connect(ctx context.Context, sb *sandbox, n *netw, r *worker.NetworkRequest, e *EndpointSettings) (err error) {
	var u undo
	defer func() { u.run(err != nil) }()
	if err := s.makeTable(ctx); err != nil {
		return err
	}
	if err := s.raise(ctx, n.ID); err != nil {
		return err
	}
	s.mu.Lock()
	if n = s.networks[n.ID]; n == nil {
		s.mu.Unlock()
		return worker.NotFoundf("network %s not found", e.NetworkID)
	}
	if n.endpoints[sb.Container] != nil {
		s.mu.Unlock()
		return worker.Errorf(errForbidden, "endpoint with name %s already exists in network %s", sb.Name, n.Name)
	}
	ep, err := s.endpointLocked(n, r, e)
	if err == nil {
		ep.Interface = sb.nextInterface()
		n.endpoints[sb.Container] = ep
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	u.add(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		sb.Endpoints = slices.DeleteFunc(slices.Clone(sb.Endpoints), func(o *endpoint) bool { return o == ep })
		delete(n.endpoints, sb.Container)
		n.free(ep)
	})
	ns, err := link.OpenNamespace(s.key(sb))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := s.join(ns, ep, false); err != nil {
		return err
	}
	u.add(func() { _ = s.host.RemoveVeth(ep.Veth) })
	s.mu.Lock()
	sb.Endpoints = append(slices.Clone(sb.Endpoints), ep)
	serves := sb.dns != nil
	s.mu.Unlock()
	if err := s.reroute(sb, ns); err != nil {
		return err
	}
	if !serves {
		if err := s.startNames(sb, ns); err != nil {
			return err
		}
	}
	return s.save(sb)
}

// nextInterface returns a name that no interface of the sandbox has.
func (sb *sandbox) nextInterface() string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("eth%d", i)
		if !slices.ContainsFunc(sb.Endpoints, func(ep *endpoint) bool { return ep.Interface == name }) {
			return name
		}
	}
}

// reroute leads a container's packets out by the network that is its way out now, and published ports in by it.
func (s *Service) reroute(sb *sandbox, ns *link.Namespace) error {
	s.mu.Lock()
	gateway := s.gatewayLocked(sb)
	publications, to, lease := s.publicationsLocked(sb), s.serveAddrLocked(sb), sb.lease
	s.mu.Unlock()
	if gateway == nil {
		return nil
	}
	if lease != nil {
		if err := lease.Serve(to); err != nil {
			return err
		}
	}
	s.mu.Lock()
	n := s.networks[gateway.Network]
	s.mu.Unlock()
	if err := ns.SetGateways(gateway.Interface, n.gatewaysFor(gateway)); err != nil {
		return err
	}
	return s.table.Replace(publications)
}

// Disconnect implements worker.Networks.
func (s *Service) Disconnect(ctx context.Context, ref string, req *network.DisconnectRequest) error {
	n, all, err := s.find(ref, req.Container)
	if err != nil {
		return err
	}
	return all.EditEndpoint(ctx, req.Container, n.Name, func(r *worker.NetworkRequest) (*EndpointSettings, error) {
		if r.HostConfig.NetworkMode.IsHost() {
			return nil, worker.Errorf(errForbidden, "container cannot be disconnected from host network or connected to host network")
		}
		leave, err := s.turns.take(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		defer leave()
		s.mu.Lock()
		sb := s.sandboxes[r.ID]
		on := n.endpoints[r.ID] != nil
		s.mu.Unlock()
		if _, asked := r.Endpoints[n.Name]; !on && !asked {
			return nil, worker.Errorf(errForbidden, "container %s is not connected to network %s", r.ID, n.Name)
		}
		if !on || sb == nil {
			return nil, nil
		}
		if err := s.rewriting(sb, r, func() error { return s.disconnect(sb, n) }); err != nil {
			return nil, err
		}
		s.publish(n, events.ActionDisconnect, map[string]string{"container": r.ID})
		return nil, nil
	})
}

// disconnect takes a container that runs off a network. Its turn is held.
func (s *Service) disconnect(sb *sandbox, n *netw) error {
	s.mu.Lock()
	ep := n.endpoints[sb.Container]
	before := s.publicationsLocked(sb)
	s.mu.Unlock()
	if ep == nil {
		return nil
	}
	if err := s.host.RemoveVeth(ep.Veth); err != nil {
		return err
	}
	s.mu.Lock()
	sb.Endpoints = slices.DeleteFunc(slices.Clone(sb.Endpoints), func(o *endpoint) bool { return o == ep })
	delete(n.endpoints, sb.Container)
	n.free(ep)
	left := s.gatewayLocked(sb) != nil
	s.mu.Unlock()
	if !left && len(before) > 0 {
		if err := s.table.Withdraw(before); err != nil {
			return err
		}
	}
	ns, err := link.OpenNamespace(s.key(sb))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := s.reroute(sb, ns); err != nil {
		return err
	}
	return s.save(sb)
}

// rewriting runs f, which changes the networks of a container that runs, and then writes its /etc/hosts and
// /etc/resolv.conf anew, unless the container has changed them.
func (s *Service) rewriting(sb *sandbox, r *worker.NetworkRequest, f func() error) error {
	before, err := s.describe(sb, r)
	if err != nil {
		return err
	}
	if err := f(); err != nil || r.Dir == "" {
		return err
	}
	after, err := s.describe(sb, r)
	if err != nil {
		return err
	}
	return errors.Join(
		rewrite(filepath.Join(r.Dir, "hosts"), before.Hosts, after.Hosts),
		rewrite(filepath.Join(r.Dir, "resolv.conf"), before.ResolvConf, after.ResolvConf),
	)
}

// rewrite writes a file in place, as it is mounted, if it holds what it did before.
func rewrite(path string, before, after []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := io.ReadAll(io.LimitReader(f, int64(len(before))+1))
	if err != nil || !bytes.Equal(now, before) {
		return err
	}
	if _, err := f.WriteAt(after, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(after)))
}
