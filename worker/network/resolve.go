package network

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/boxbuild/boxbuild/executor/netns/resolvconf"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/link"
	"github.com/boxbuild/boxbuild/worker/network/names"
	"github.com/boxbuild/boxbuild/worker/network/names/away"
	"github.com/boxbuild/boxbuild/worker/network/names/book"
)

// dnsNames are the names of a container on a network that somebody has made, as docker has them; the first is the one that
// its address has.
func dnsNames(r *worker.NetworkRequest, aliases []string) []string {
	all := append([]string{r.Name}, aliases...)
	if len(r.ID) >= 12 {
		all = append(all, r.ID[:12])
	}
	all = append(all, r.Config.Hostname)
	var out []string
	for _, n := range all {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func parseExtra(list []string, gateways []netip.Addr) ([]names.Host, error) {
	return names.ParseExtra(list, gateways)
}

// parseLink reads "name", "name:alias" or, as it is stored, "/name:/own/alias".
func parseLink(s string) (name, alias string, err error) {
	name, alias = book.SplitLink(s)
	if name == "" || strings.ContainsAny(s, " \t\r\n\x00") {
		return "", "", worker.Invalidf("bad format for links: %s", s)
	}
	return name, alias, nil
}

// onUserDefined says whether a sandbox is on a network with an embedded DNS server. Service.mu is held.
func (s *Service) onUserDefinedLocked(sb *sandbox) bool {
	return slices.ContainsFunc(sb.Endpoints, func(ep *endpoint) bool {
		n := s.networks[ep.Network]
		return n != nil && n.Driver == driverBridge && n.userDefined()
	})
}

// resolv returns what a container's resolv.conf is made of, and the servers that the user asks for.
func (s *Service) resolv(r *worker.NetworkRequest) (*resolvconf.Conf, error) {
	host, err := resolvconf.Read(s.opts.ResolvConf)
	if err != nil {
		return nil, err
	}
	h := r.HostConfig
	return host.With(h.DNS, h.DNSSearch, h.DNSOptions), nil
}

// systemdResolv has the servers that systemd-resolved, which the host's file names alone, asks.
const systemdResolv = "/run/systemd/resolve/resolv.conf"

// embedded says whether a sandbox has a DNS server in its namespace: on networks that users have made, and where the host
// has no server that a container could ask.
func (s *Service) embedded(sb *sandbox) bool {
	if sb.Mode != modeNamed {
		return false
	}
	s.mu.Lock()
	userDefined := s.onUserDefinedLocked(sb)
	s.mu.Unlock()
	return userDefined || len(sb.DNS) == 0 && len(s.outside()) == 0
}

// outside returns those of the host's servers that a container can ask.
func (s *Service) outside() []netip.Addr {
	for _, path := range []string{s.opts.ResolvConf, systemdResolv} {
		host, err := resolvconf.Read(path)
		if err != nil {
			continue
		}
		if servers := host.Outside().Servers; len(servers) > 0 {
			return servers
		}
		if !slices.Contains(host.Servers, netip.AddrFrom4([4]byte{127, 0, 0, 53})) {
			break
		}
	}
	return nil
}

// startNames starts the DNS server of a sandbox that is to have one.
func (s *Service) startNames(sb *sandbox, ns *link.Namespace) error {
	if !s.embedded(sb) {
		return nil
	}
	s.mu.Lock()
	out := s.gatewayLocked(sb) != nil
	s.mu.Unlock()
	var ask names.Asker
	if out {
		// A container that is to reach nobody outside asks nobody there either (CVE-2024-29018).
		servers := sb.DNS
		ask = func(ctx context.Context, q *dns.Msg, overTCP bool) (*dns.Msg, error) {
			return s.upstream.Ask(ctx, q, overTCP, servers)
		}
	}
	server, err := names.Listen(ns.Do, ns.FD(), &directory{s, sb}, ask)
	if err != nil {
		return err
	}
	s.mu.Lock()
	old, adopted := sb.dns, sb.adopted
	sb.dns = server
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
	if old != nil || adopted {
		if err := names.Forget(ns.Do); err != nil {
			s.log.Debug("another DNS server in a namespace", "container", sb.Container, "error", err)
		}
	}
	s.hand(sb, server, out)
	return nil
}

// hand has the names of a sandbox answered while no daemon is there. Where that fails they pause then.
func (s *Service) hand(sb *sandbox, server *names.Server, ask bool) {
	if s.away == nil {
		return
	}
	cfg := away.Config{Dir: s.opts.Dir, Container: sb.Container, Ask: ask, Servers: sb.DNS, ResolvConf: s.opts.ResolvConf}
	if err := s.away.Names(namesID(sb), cfg, server.Files()); err != nil {
		s.log.Warn("names will pause while the daemon is away", "container", sb.Container, "error", err)
	}
}

// handAll is hand for all, when the process that answers then was lost.
func (s *Service) handAll() {
	type server struct {
		sb  *sandbox
		dns *names.Server
		ask bool
	}
	var list []server
	s.mu.Lock()
	for _, sb := range s.sandboxes {
		if sb.dns != nil {
			list = append(list, server{sb, sb.dns, s.gatewayLocked(sb) != nil})
		}
	}
	s.mu.Unlock()
	for _, l := range list {
		s.hand(l.sb, l.dns, l.ask)
	}
}

// namesID is what the process knows the names of a sandbox by.
func namesID(sb *sandbox) string { return "names-" + sb.ID }

// namesIDs are those of all sandboxes.
func (s *Service) namesIDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.sandboxes))
	for _, sb := range s.sandboxes {
		ids = append(ids, namesID(sb))
	}
	return ids
}

// closeNames ends the DNS server of a sandbox, which may be nil, here and where it would go on.
func (s *Service) closeNames(sb *sandbox, server *names.Server) {
	if s.away != nil {
		if err := s.away.Drop(namesID(sb)); err != nil {
			s.log.Warn("giving back the names of a container", "container", sb.Container, "error", err)
		}
	}
	if server != nil {
		server.Close()
	}
}

// A directory knows the containers on the networks of a sandbox.
type directory struct {
	s  *Service
	sb *sandbox
}

// book is what the sandbox finds now.
func (d *directory) book() book.Book {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	var out book.Book
	for _, own := range d.sb.Endpoints {
		n := d.s.networks[own.Network]
		if n == nil || !n.userDefined() {
			continue
		}
		in := book.Network{Name: n.Name, Members: make([]book.Member, 0, len(n.endpoints))}
		for _, ep := range n.endpoints {
			in.Members = append(in.Members, book.Member{Names: ep.DNSNames, Addrs: ep.Addrs})
		}
		if own.Asked != nil {
			in.Links = own.Asked.Links
		}
		out = append(out, in)
	}
	return out
}

// Addrs implements names.Directory.
func (d *directory) Addrs(name string) ([]netip.Addr, bool) { return d.book().Addrs(name) }

// Name implements names.Directory.
func (d *directory) Name(a netip.Addr) string { return d.book().Name(a) }

// describeNames fills in what a container finds others with.
func (s *Service) describeNames(out *worker.NetworkSetup, sb *sandbox, r *worker.NetworkRequest) error {
	resolv, err := s.resolv(r)
	if err != nil {
		return err
	}
	extra, err := parseExtra(r.HostConfig.ExtraHosts, s.hostGateway(sb))
	if err != nil {
		return err
	}
	if sb.Mode == modeHost {
		return s.describeHost(out, resolv, extra)
	}
	switch {
	case s.embedded(sb):
		out.ResolvConf = names.ForEmbedded(resolv)
	case len(sb.DNS) == 0 && sb.Mode == modeNamed:
		resolv.Servers = s.outside()
		out.ResolvConf = resolv.File()
	default:
		out.ResolvConf = resolv.File()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range r.HostConfig.Links {
		name, alias, err := parseLink(l)
		if err != nil {
			return err
		}
		if !s.isOnDefaultLocked(sb) {
			break // on others, links are names in their DNS
		}
		other := s.sandboxNamedLocked(name)
		if called, ok := r.LinkNames[name]; ok {
			name = called
		}
		if other == nil {
			return worker.Conflictf("Cannot link to a non running container: /%s AS /%s/%s", name, sb.Name, alias)
		}
		link, err := s.linkLocked(other, alias, sb.Name)
		if err != nil {
			return worker.Conflictf("Cannot link to /%s, as it does not belong to the default network", name)
		}
		extra = append(extra, link.Host())
		out.Env = append(out.Env, link.Variables()...)
	}
	for _, ep := range sb.Endpoints {
		var addrs []netip.Addr
		for _, a := range ep.Addrs {
			addrs = append(addrs, a.Addr())
		}
		extra = append(extra, names.Own(addrs, sb.Hostname, sb.Domain)...)
	}
	out.Hosts = names.Hosts(extra)
	return nil
}

// describeHost is describeNames for the host's own network.
func (s *Service) describeHost(out *worker.NetworkSetup, resolv *resolvconf.Conf, extra []names.Host) error {
	out.ResolvConf = resolv.File()
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	b := bytes.NewBuffer(hosts)
	if len(hosts) == 0 {
		b = bytes.NewBuffer(names.Hosts(nil))
	} else if hosts[len(hosts)-1] != '\n' {
		b.WriteByte('\n')
	}
	names.AppendHosts(b, extra)
	out.Hosts = b.Bytes()
	return nil
}

func (s *Service) isOnDefaultLocked(sb *sandbox) bool {
	n := s.byName(nameBridge)
	return n != nil && n.endpoints[sb.Container] != nil
}

func (s *Service) sandboxNamedLocked(name string) *sandbox {
	for id, sb := range s.sandboxes {
		if sb.Name == name || id == name || len(name) >= 12 && strings.HasPrefix(id, name) {
			return sb
		}
	}
	return nil
}

// hostGateway is what host-gateway stands for in a sandbox: where it is on no bridge, the host is at loopback.
func (s *Service) hostGateway(sb *sandbox) []netip.Addr {
	if len(s.opts.HostGateway) > 0 {
		return s.opts.HostGateway
	}
	if sb.Mode == modeHost {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byName(nameBridge).gateways
}
