package network

import (
	"context"
	"net/netip"
	"time"

	"github.com/boxbuild/boxbuild/executor/netns"
	"github.com/boxbuild/boxbuild/worker/network/firewall"
	"github.com/boxbuild/boxbuild/worker/network/link"
)

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
	s.goOn(func() {
		tick := time.NewTicker(legacyEvery)
		defer tick.Stop()
		s.watchLegacy(s.life, tick.C)
	})
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
		if n.EnableIPv6 && !n.Internal {
			if err := link.EnableForwarding6(); err != nil {
				return err
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
