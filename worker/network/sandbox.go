package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker/network/firewall"
	"github.com/boxbuild/boxbuild/worker/network/names"
	"github.com/boxbuild/boxbuild/worker/network/portmap"
	"github.com/boxbuild/boxbuild/worker/network/portmap/carry"
)

// The modes of a sandbox.
const (
	modeHost  = "host"
	modeNone  = "none"
	modeNamed = "named" // it is on networks that have bridges
	modeJoin  = "container"
)

// A sandbox is the network of a container that runs: what is stored of it, and what there is of it while the daemon runs.
type sandbox struct {
	Container, Name string
	Mode            string
	ID              string // of this run
	// Joined is the container whose namespace it shares.
	Joined    string `json:",omitempty"`
	Endpoints []*endpoint
	Ports     []portmap.Binding `json:",omitempty"`
	// Exposed are ports which are shown even if they are not published.
	Exposed []network.Port `json:",omitempty"`
	// Hostname, Domain and Env are the container's, for those who are linked with it.
	Hostname, Domain string
	Env              []string `json:",omitempty"`
	// DNS are the servers that the user asks for.
	DNS []netip.Addr `json:",omitempty"`

	// What follows is guarded by Service.mu.
	lease    *portmap.Lease
	dns      *names.Server
	adopted  bool // from an earlier daemon, whose names may be answered still
	restored bool // a container that runs has it, not only an earlier daemon's file
}

// An endpoint is a sandbox's place on a network.
type endpoint struct {
	Network string // ID
	// NetworkName is that of a network that has names, for package names/away.
	NetworkName string `json:",omitempty"`
	ID          string
	Interface   string `json:",omitempty"`
	Veth        string `json:",omitempty"` // the host's end
	Addrs       []netip.Prefix
	MAC         net.HardwareAddr  `json:",omitempty"`
	Asked       *EndpointSettings `json:",omitempty"` // what the user asked for
	DNSNames    []string          `json:",omitempty"`
}

// key is the path of a sandbox's namespace; empty if it has none of its own.
func (s *Service) key(sb *sandbox) string {
	if sb.Mode == modeHost || sb.Mode == modeJoin {
		return ""
	}
	return s.path(sb.ID[:12])
}

// file is where a sandbox is described.
func (s *Service) file(container string) string { return s.path(container + suffix) }

const suffix = ".json"

func (s *Service) save(sb *sandbox) error {
	if err := writeFile(s.file(sb.Container), sb); err != nil {
		return fmt.Errorf("writing down the network of container %s: %w", sb.Container, err)
	}
	return nil
}

// loadSandboxes reads what containers of an earlier daemon have. What a boot has ended since is as if it had never been.
func (s *Service) loadSandboxes() error {
	entries, err := os.ReadDir(s.opts.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == carry.SocketName {
			continue
		}
		s.oldFiles = append(s.oldFiles, e.Name())
		id, is := strings.CutSuffix(e.Name(), suffix)
		if !is {
			continue
		}
		data, err := os.ReadFile(s.path(e.Name()))
		if err != nil {
			return err
		}
		sb := new(sandbox)
		if err := json.Unmarshal(data, sb); err != nil || sb.Container != id || len(sb.ID) != 64 {
			s.log.Warn("a description of a container's network cannot be read", "file", e.Name(), "error", err)
			continue // what is left of it is swept
		}
		s.adopt(sb)
	}
	return nil
}

// adopt takes the addresses and ports of a sandbox, before anybody else can.
func (s *Service) adopt(sb *sandbox) {
	for _, ep := range sb.Endpoints {
		n := s.networks[ep.Network]
		if n == nil {
			continue
		}
		n.endpoints[sb.Container] = ep
		for _, a := range ep.Addrs {
			if sub := n.subnetOf(a.Addr()); sub != nil {
				_ = sub.TakeThis(a.Addr())
			}
		}
	}
	lease, err := s.ports.Restore(sb.ID, sb.Ports)
	if err != nil {
		s.log.Warn("taking over the ports of a container", "container", sb.Container, "error", err)
	}
	sb.lease, sb.adopted = lease, true
	s.sandboxes[sb.Container] = sb
}

// gateway returns the endpoint that has the way out, nil if there is none: the one with the highest priority or, among
// equals, whose network's name comes first. Service.mu is held.
func (s *Service) gatewayLocked(sb *sandbox) *endpoint {
	var best *endpoint
	better := func(a, b *endpoint) bool {
		x, y := s.networks[a.Network], s.networks[b.Network]
		if p, q := priority(a), priority(b); p != q {
			return p > q
		}
		return x.Name < y.Name
	}
	for _, ep := range sb.Endpoints {
		n := s.networks[ep.Network]
		if n == nil || n.Driver != driverBridge || n.Internal || len(ep.Addrs) == 0 {
			continue
		}
		if best == nil || better(ep, best) {
			best = ep
		}
	}
	return best
}

func priority(ep *endpoint) int {
	if ep.Asked == nil {
		return 0
	}
	return ep.Asked.GwPriority
}

// gatewaysFor returns the routers of an endpoint's families.
func (n *netw) gatewaysFor(ep *endpoint) []netip.Addr {
	var out []netip.Addr
	for i, sub := range n.subnets {
		if slices.ContainsFunc(ep.Addrs, func(a netip.Prefix) bool { return sub.Prefix.Contains(a.Addr()) }) {
			out = append(out, n.gateways[i])
		}
	}
	return out
}

// addr returns an endpoint's address of a family; the zero Addr if it has none.
func (ep *endpoint) addr(is6 bool) netip.Prefix {
	for _, a := range ep.Addrs {
		if a.Addr().Is6() == is6 {
			return a
		}
	}
	return netip.Prefix{}
}

var protocols = map[network.IPProtocol]uint8{
	network.TCP: unix.IPPROTO_TCP, network.UDP: unix.IPPROTO_UDP, network.SCTP: unix.IPPROTO_SCTP,
}

// publications are what the firewall knows of a sandbox's ports. Service.mu is held.
func (s *Service) publicationsLocked(sb *sandbox) []firewall.Publication {
	ep := s.gatewayLocked(sb)
	if ep == nil {
		return nil
	}
	var out []firewall.Publication
	for _, b := range sb.Ports {
		to := ep.addr(b.Host.Addr().Is6())
		if !to.IsValid() {
			continue // a proxy's
		}
		out = append(out, firewall.Publication{
			Proto: protocols[b.Container.Proto()], Host: b.Host, To: netip.AddrPortFrom(to.Addr(), b.Container.Num()),
		})
	}
	return out
}

// serveAddr is where proxies of a sandbox's ports lead. Service.mu is held.
func (s *Service) serveAddrLocked(sb *sandbox) netip.Addr {
	ep := s.gatewayLocked(sb)
	if ep == nil {
		return netip.Addr{}
	}
	if a := ep.addr(false); a.IsValid() {
		return a.Addr()
	}
	return ep.addr(true).Addr()
}

// linkOf describes a sandbox for a container named own that is linked with it. Service.mu is held.
func (s *Service) linkLocked(sb *sandbox, alias, own string) (*names.Link, error) {
	bridge := s.byName(nameBridge)
	ep := bridge.endpoints[sb.Container]
	if ep == nil {
		return nil, errors.New("it is not on the default network")
	}
	l := &names.Link{
		Alias: alias, Name: sb.Name, Own: own, Hostname: sb.Hostname, Addr: ep.addr(false).Addr(), Env: sb.Env,
	}
	for _, p := range sb.Exposed {
		l.Ports = append(l.Ports, p.String())
	}
	return l, nil
}
