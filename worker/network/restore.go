package network

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/link"
)

// Restore takes over what Setup of an earlier daemon made for a container that runs on, and mends what is missing. If its
// namespace is gone too, that is an error: nobody can get into the container's any more.
func (s *Service) Restore(ctx context.Context, r *worker.NetworkRequest) (*worker.NetworkSetup, error) {
	leave, err := s.turns.take(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	defer leave()
	s.mu.Lock()
	sb := s.sandboxes[r.ID]
	if sb != nil {
		sb.restored = true
		sb.Name = r.Name
	}
	s.mu.Unlock()
	if sb == nil {
		return nil, worker.NotFoundf("nothing is known of the network of container %s", r.ID)
	}
	if sb.Mode == modeHost || sb.Mode == modeJoin {
		return s.describe(sb, r)
	}
	ns, err := link.OpenNamespace(s.key(sb))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if sb.Mode == modeNamed {
		var ids []string
		for _, ep := range sb.Endpoints {
			ids = append(ids, ep.Network)
		}
		if err := s.prepare(ctx, ids); err != nil {
			return nil, err
		}
		if err := s.mend(sb, ns); err != nil {
			return nil, err
		}
	}
	if s.nameEndpoints(sb) {
		if err := s.save(sb); err != nil {
			return nil, err
		}
	}
	if err := s.open(sb, ns); err != nil {
		return nil, err
	}
	return s.describe(sb, r)
}

// nameEndpoints adds the names of networks that a daemon before names/away has not written down, and says whether it has.
func (s *Service) nameEndpoints(sb *sandbox) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ep := range sb.Endpoints {
		if n := s.networks[ep.Network]; n != nil && n.userDefined() && ep.NetworkName == "" {
			ep.NetworkName, changed = n.Name, true
		}
	}
	return changed
}

// mend joins interfaces to their bridges that are not, because one or the other has been removed.
func (s *Service) mend(sb *sandbox, ns *link.Namespace) error {
	s.mu.Lock()
	gateway := s.gatewayLocked(sb)
	s.mu.Unlock()
	for _, ep := range sb.Endpoints {
		if ep.Interface == "" {
			continue
		}
		s.mu.Lock()
		n, bridge := s.networks[ep.Network], 0
		if n != nil {
			bridge = n.bridge
		}
		s.mu.Unlock()
		if n == nil {
			continue
		}
		if ep.Veth != "" && s.host.Has(ep.Veth) {
			if err := s.host.Plug(ep.Veth, bridge, !n.option(optICC)); err != nil {
				return err
			}
			continue
		}
		if err := s.join(ns, ep, ep == gateway); err != nil {
			return err
		}
		if err := s.save(sb); err != nil {
			return err
		}
	}
	return nil
}

// Settle is called once, when Restore has been called for all that run: what others have is given back.
func (s *Service) Settle(ctx context.Context) error {
	var errs []error
	s.mu.Lock()
	var stale []string
	any := false
	for id, sb := range s.sandboxes {
		if !sb.restored {
			stale = append(stale, id)
		}
		any = any || sb.restored
	}
	s.mu.Unlock()
	for _, id := range stale {
		errs = append(errs, s.Teardown(ctx, id))
	}
	errs = append(errs, s.sweepFiles(), s.sweepDevices(), s.ports.Keep(s.namesIDs()...))
	if !any {
		// Nothing needs the rules. They are made when something does.
		leave, err := s.turns.take(ctx, "table")
		if err != nil {
			return err
		}
		defer leave()
		s.mu.Lock()
		ready := s.ready
		s.mu.Unlock()
		if !ready {
			errs = append(errs, s.table.Remove())
		}
	}
	return errors.Join(errs...)
}

// sweepFiles removes namespaces, and halves of descriptions, that belong to no sandbox.
func (s *Service) sweepFiles() error {
	s.mu.Lock()
	known := make(map[string]bool)
	for id, sb := range s.sandboxes {
		known[id+suffix] = true
		if len(sb.ID) >= 12 {
			known[sb.ID[:12]] = true
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, name := range s.oldFiles {
		switch {
		case known[name]:
		case strings.HasSuffix(name, suffix) || strings.HasSuffix(name, suffix+".tmp"):
			if err := os.Remove(s.path(name)); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		default:
			errs = append(errs, link.Unpin(s.path(name)))
		}
	}
	return errors.Join(errs...)
}

// sweepDevices removes veth pairs and bridges that are marked as this daemon's and that nothing here has.
func (s *Service) sweepDevices() error {
	bridges, _, err := s.host.Devices()
	if err != nil {
		return err
	}
	s.mu.Lock()
	used := make(map[string]bool)
	for _, n := range s.networks {
		if n.Driver == driverBridge {
			used[n.bridgeName()] = true
		}
	}
	for _, sb := range s.sandboxes {
		for _, ep := range sb.Endpoints {
			used[ep.Veth] = true
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, v := range s.oldVeths {
		if !used[v] {
			errs = append(errs, s.host.RemoveVeth(v))
		}
	}
	for _, b := range bridges {
		if !used[b] {
			errs = append(errs, s.passage(b).Close(), s.host.RemoveBridge(b))
		}
	}
	return errors.Join(errs...)
}
