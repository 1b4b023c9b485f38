package network

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"github.com/boxbuild/boxbuild/worker/network/link"
)

// Settings are what inspect shows of a container that runs; nil if it has no network now.
func (s *Service) Settings(id string) *container.NetworkSettings {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb := s.sandboxes[id]
	if sb == nil {
		return nil
	}
	out := &container.NetworkSettings{
		Ports: network.PortMap{}, Networks: make(map[string]*network.EndpointSettings),
	}
	if sb.Mode == modeJoin {
		return out
	}
	out.SandboxID, out.SandboxKey = sb.ID, s.key(sb)
	if sb.Mode == modeHost {
		out.SandboxKey = "/proc/1/ns/net"
	}
	if sb.Mode == modeNamed {
		for _, p := range sb.Exposed {
			out.Ports[p] = nil
		}
		for _, b := range sb.Ports {
			out.Ports[b.Container] = append(out.Ports[b.Container], network.PortBinding{
				HostIP: b.Host.Addr(), HostPort: strconv.Itoa(int(b.Host.Port())),
			})
		}
	}
	for _, ep := range sb.Endpoints {
		if n := s.networks[ep.Network]; n != nil {
			out.Networks[n.Name] = s.endpointSettings(n, ep)
		}
	}
	return out
}

// endpointSettings are an endpoint as the API has it.
func (s *Service) endpointSettings(n *netw, ep *endpoint) *network.EndpointSettings {
	out := ep.Asked.Copy()
	if out == nil {
		out = new(network.EndpointSettings)
	}
	out.NetworkID, out.EndpointID, out.MacAddress, out.DNSNames = n.ID, ep.ID, network.HardwareAddr(ep.MAC), ep.DNSNames
	out.Gateway, out.IPAddress, out.IPPrefixLen = netip.Addr{}, netip.Addr{}, 0
	if a := ep.addr(false); a.IsValid() {
		out.IPAddress, out.IPPrefixLen = a.Addr(), a.Bits()
	}
	if a := ep.addr(true); a.IsValid() {
		out.GlobalIPv6Address, out.GlobalIPv6PrefixLen = a.Addr(), a.Bits()
	}
	if n.Internal {
		return out
	}
	for _, gw := range n.gatewaysFor(ep) {
		if gw.Is4() {
			out.Gateway = gw
		} else {
			out.IPv6Gateway = gw
		}
	}
	return out
}

// Stats are the counters of a container's interfaces by name; nil if it has none of its own.
func (s *Service) Stats(_ context.Context, id string) (map[string]container.NetworkStats, error) {
	s.mu.Lock()
	sb := s.sandboxes[id]
	var interfaces []string
	if sb != nil {
		for _, ep := range sb.Endpoints {
			if ep.Interface != "" {
				interfaces = append(interfaces, ep.Interface)
			}
		}
	}
	s.mu.Unlock()
	if len(interfaces) == 0 {
		return nil, nil
	}
	ns, err := link.OpenNamespace(s.key(sb))
	if errors.Is(err, link.ErrNoNamespace) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	out := make(map[string]container.NetworkStats)
	for _, name := range interfaces {
		l, err := ns.Handle().LinkByName(name)
		if err != nil {
			continue // it is being taken away, or the container has renamed it
		}
		if st := l.Attrs().Statistics; st != nil {
			out[name] = statsOf(st)
		}
	}
	return out, nil
}

func statsOf(st *netlink.LinkStatistics) container.NetworkStats {
	return container.NetworkStats{
		RxBytes: st.RxBytes, RxPackets: st.RxPackets, RxErrors: st.RxErrors, RxDropped: st.RxDropped,
		TxBytes: st.TxBytes, TxPackets: st.TxPackets, TxErrors: st.TxErrors, TxDropped: st.TxDropped,
	}
}

// publishEvents tells of a container that has been connected to its networks, or disconnected.
func (s *Service) publishEvents(sb *sandbox, connected bool) {
	if s.opts.Events == nil {
		return
	}
	action := events.ActionConnect
	if !connected {
		action = events.ActionDisconnect
	}
	for _, ep := range sb.Endpoints {
		s.mu.Lock()
		n := s.networks[ep.Network]
		s.mu.Unlock()
		if n != nil {
			s.publish(n, action, map[string]string{"container": sb.Container})
		}
	}
}

// publish tells of a network.
func (s *Service) publish(n *netw, action events.Action, more map[string]string) {
	if s.opts.Events == nil {
		return
	}
	attrs := map[string]string{"name": n.Name, "type": n.Driver}
	for k, v := range more {
		attrs[k] = v
	}
	s.opts.Events.Publish(events.Message{
		Type: events.NetworkEventType, Action: action, Scope: "local", Actor: events.Actor{ID: n.ID, Attributes: attrs},
	})
}
