package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker/network/firewall"
	"github.com/boxbuild/boxbuild/worker/network/link"
)

// Teardown gives back what Setup made: when it returns the ports and addresses are free. That there is nothing is no
// error.
func (s *Service) Teardown(ctx context.Context, id string) error {
	leave, err := s.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer leave()
	s.mu.Lock()
	sb := s.sandboxes[id]
	s.mu.Unlock()
	if sb == nil {
		return nil
	}
	err = s.takeDown(sb)
	s.forget(sb)
	s.publishEvents(sb, false)
	return err
}

// takeDown removes a sandbox from the host. The container's turn is held; the sandbox is in the tables still, so that
// nobody else has its addresses. What can wait, as nobody notices, is done in the background.
func (s *Service) takeDown(sb *sandbox) error {
	s.mu.Lock()
	publications, dns := s.publicationsLocked(sb), sb.dns
	sb.dns = nil
	lease := sb.lease
	sb.lease = nil
	var veths []string
	for _, ep := range sb.Endpoints {
		if ep.Veth != "" {
			veths = append(veths, ep.Veth)
		}
	}
	s.mu.Unlock()
	var errs []error
	if len(publications) > 0 {
		errs = append(errs, s.table.Withdraw(publications))
		s.forgetConnections(publications)
	}
	if lease != nil {
		errs = append(errs, lease.Close())
	}
	if dns != nil || sb.adopted {
		s.closeNames(sb, dns)
	}
	key := s.key(sb)
	if len(veths) > 0 {
		if err := withdraw(key, sb.Endpoints); err != nil {
			// Then the devices have to be gone before somebody else has the addresses.
			errs = append(errs, err)
			errs = append(errs, s.demolish(key, veths))
			veths = nil
		}
	}
	if err := os.Remove(s.file(sb.Container)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	if key != "" {
		s.grave.add(key, veths)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("giving back the network of container %s: %w", sb.Container, err)
	}
	return nil
}

// withdraw takes the addresses of a namespace away.
func withdraw(key string, endpoints []*endpoint) error {
	ns, err := link.OpenNamespace(key)
	if errors.Is(err, link.ErrNoNamespace) {
		return nil
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	var errs []error
	for _, ep := range endpoints {
		if ep.Interface != "" {
			errs = append(errs, ns.Withdraw(ep.Interface))
		}
	}
	return errors.Join(errs...)
}

// demolish removes devices and a namespace.
func (s *Service) demolish(key string, veths []string) error {
	var errs []error
	for _, v := range veths {
		errs = append(errs, s.host.RemoveVeth(v))
	}
	return errors.Join(append(errs, link.Unpin(key))...)
}

// forgetConnections makes the kernel forget UDP flows to published ports: it would go on to send their packets where it did
// before, as a client that sends often never lets them expire.
func (s *Service) forgetConnections(list []firewall.Publication) {
	udp := slices.DeleteFunc(slices.Clone(list), func(p firewall.Publication) bool { return p.Proto != unix.IPPROTO_UDP })
	for _, p := range udp {
		family := netlink.InetFamily(unix.AF_INET)
		if p.To.Addr().Is6() {
			family = unix.AF_INET6
		}
		f := new(netlink.ConntrackFilter)
		if err := errors.Join(f.AddProtocol(p.Proto), f.AddPort(netlink.ConntrackOrigDstPort, p.Host.Port())); err != nil {
			continue
		}
		if _, err := s.host.Handle().ConntrackDeleteFilters(netlink.ConntrackTable, family, f); err != nil &&
			!errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.ENOENT) {
			s.log.Debug("forgetting UDP flows", "port", p.Host, "error", err)
		}
	}
}
