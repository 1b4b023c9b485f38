package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/portmap"
)

// errForbidden is the class of what docker answers with 403.
var errForbidden = errdefs.ErrPermissionDenied

// classify returns an error with a text, and the class of err if that has one.
func classify(err error, text string) error {
	for _, class := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrConflict, errdefs.ErrPermissionDenied, errdefs.ErrUnavailable,
	} {
		if errors.Is(err, class) {
			return worker.Errorf(class, "%s", text)
		}
	}
	return &plain{text, err}
}

// A plain error has another text than its cause.
type plain struct {
	text string
	err  error
}

func (e *plain) Error() string { return e.text }

// Unwrap returns the cause.
func (e *plain) Unwrap() error { return e.err }

// networkNames are the names of the networks that a request is for, the one of its mode first.
func networkNames(r *worker.NetworkRequest) []string {
	mode := r.HostConfig.NetworkMode
	first := mode.NetworkName()
	if mode.IsUserDefined() {
		first = mode.UserDefined()
	}
	if first == "" || first == network.NetworkDefault {
		first = nameBridge
	}
	out := []string{first}
	var more []string
	for name := range r.Endpoints {
		if name != first && name != network.NetworkDefault {
			more = append(more, name)
		}
	}
	slices.Sort(more)
	return append(out, more...)
}

// Check is called when a container is made: it refuses what can never be set up, and completes r.Endpoints.
func (s *Service) Check(_ context.Context, r *worker.NetworkRequest) error {
	mode := r.HostConfig.NetworkMode
	if err := checkMode(r); err != nil {
		return err
	}
	if _, err := wants(r, nil); err != nil {
		return err
	}
	if err := checkLists(r); err != nil {
		return err
	}
	if mode.IsContainer() || r.Config.NetworkDisabled {
		return nil
	}
	if r.Endpoints == nil {
		r.Endpoints = make(map[string]*EndpointSettings)
	}
	if e, ok := r.Endpoints[network.NetworkDefault]; ok {
		delete(r.Endpoints, network.NetworkDefault)
		r.Endpoints[nameBridge] = e
	}
	for _, name := range networkNames(r) {
		e := r.Endpoints[name]
		if e == nil {
			e = new(EndpointSettings)
		}
		s.mu.Lock()
		n, _ := s.findLocked(name)
		s.mu.Unlock()
		if err := checkEndpoint(n, name, e); err != nil {
			return err
		}
		if n != nil {
			delete(r.Endpoints, name)
			name = n.Name
			e.NetworkID = n.ID
			if n.userDefined() {
				e.DNSNames = dnsNames(r, e.Aliases)
			}
		}
		r.Endpoints[name] = e
	}
	return nil
}

// checkMode refuses what does not go with a mode, in docker's words.
func checkMode(r *worker.NetworkRequest) error {
	h, mode := r.HostConfig, r.HostConfig.NetworkMode
	const undefined = " This would result in undefined behavior"
	switch {
	case mode.IsContainer():
		switch {
		case mode.ConnectedContainer() == "":
			return worker.Invalidf("invalid network mode: invalid container format container:<name|id>")
		case len(r.Endpoints) > 0 && !(len(r.Endpoints) == 1 && r.Endpoints[string(mode)] != nil):
			return worker.Invalidf("container sharing network namespace with another container or host cannot be connected to any other network")
		case len(h.Links) > 0:
			return worker.Invalidf("conflicting options: container type network can't be used with links.%s", undefined)
		case len(h.DNS) > 0:
			return worker.Invalidf("conflicting options: dns and the network mode")
		case len(h.ExtraHosts) > 0:
			return worker.Invalidf("conflicting options: custom host-to-IP mapping and the network mode")
		case len(h.PortBindings) > 0 || h.PublishAllPorts:
			return worker.Invalidf("conflicting options: port publishing and the container type network mode")
		}
	case mode.IsHost() && len(h.Links) > 0:
		return worker.Invalidf("conflicting options: host type networking can't be used with links.%s", undefined)
	}
	names := networkNames(r)
	switch {
	case len(names) == 1:
	case slices.Contains(names, network.NetworkHost):
		return worker.Invalidf("container sharing network namespace with another container or host cannot be connected to any other network")
	case slices.Contains(names, network.NetworkNone):
		return worker.Invalidf("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	return nil
}

// checkLists refuses what cannot be written to a container's files: their lines are not for clients to end.
func checkLists(r *worker.NetworkRequest) error {
	h := r.HostConfig
	for _, list := range [][]string{h.DNSSearch, h.DNSOptions, h.ExtraHosts} {
		for _, v := range list {
			if strings.ContainsAny(v, "\r\n\x00") {
				return worker.Invalidf("invalid value %q: it is not one line", v)
			}
		}
	}
	for _, v := range []string{r.Config.Hostname, r.Config.Domainname} {
		if strings.ContainsAny(v, " \t\r\n\x00#/") {
			return worker.Invalidf("invalid hostname: %q", v)
		}
	}
	if _, err := parseExtra(h.ExtraHosts, []netip.Addr{netip.IPv4Unspecified()}); err != nil {
		return worker.Invalidf("%v", err)
	}
	for _, l := range h.Links {
		if _, _, err := parseLink(l); err != nil {
			return err
		}
	}
	return nil
}

// checkEndpoint refuses what a network, which may be nil for one that is not there yet, cannot do.
func checkEndpoint(n *netw, name string, e *EndpointSettings) error {
	var errs []string
	userDefined := n == nil || n.userDefined()
	var v4, v6 netip.Addr
	if c := e.IPAMConfig; c != nil {
		v4, v6 = c.IPv4Address, c.IPv6Address
	}
	if !userDefined {
		if v4.IsValid() || v6.IsValid() {
			errs = append(errs, "user specified IP address is supported on user defined networks only")
		}
		if len(e.Aliases) > 0 {
			errs = append(errs, "network-scoped aliases are only supported for user-defined networks")
		}
	}
	if v4.IsValid() && (!v4.Is4() || v4.IsUnspecified()) {
		errs = append(errs, "invalid IPv4 address: "+v4.String())
	}
	if v6.IsValid() && (!v6.Is6() || v6.Is4In6() || v6.IsUnspecified() || v6.Zone() != "") {
		errs = append(errs, "invalid IPv6 address: "+v6.String())
	}
	for _, a := range []netip.Addr{v4, v6} {
		if n != nil && userDefined && a.IsValid() && n.subnetOf(a) == nil {
			errs = append(errs, "no configured subnet contains IP address "+a.String())
		}
	}
	if m := e.MacAddress; len(m) > 0 && (len(m) != 6 || m[0]&1 != 0) {
		errs = append(errs, "invalid MAC address: "+m.String())
	}
	for _, a := range e.Aliases {
		if strings.ContainsAny(a, " \t\r\n\x00") || a == "" {
			errs = append(errs, fmt.Sprintf("invalid alias: %q", a))
		}
	}
	if _, err := sysctlsOf(e); err != nil {
		errs = append(errs, err.Error())
	}
	if len(errs) == 0 {
		return nil
	}
	return worker.Invalidf("invalid config for network %s: invalid endpoint settings:\n%s", name, strings.Join(errs, "\n"))
}

// wants are the ports that a request asks for. hostIP is where those are published for which no address is given.
func wants(r *worker.NetworkRequest, hostIP *netip.Addr) ([]portmap.Want, error) {
	h := r.HostConfig
	var all []network.Port
	for p := range h.PortBindings {
		all = append(all, p)
	}
	for p := range r.Config.ExposedPorts {
		if _, ok := h.PortBindings[p]; !ok && h.PublishAllPorts {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, comparePorts)
	var out []portmap.Want
	for _, p := range all {
		if protocols[p.Proto()] == 0 {
			return nil, worker.Invalidf("invalid proto: %s", p.Proto())
		}
		if p.Num() == 0 {
			return nil, worker.Invalidf("invalid port specification: %q", p)
		}
		list := h.PortBindings[p]
		if len(list) == 0 && h.PublishAllPorts {
			list = []network.PortBinding{{}}
		}
		for _, b := range list {
			w := portmap.Want{Container: p, IP: b.HostIP}
			if !w.IP.IsValid() && hostIP != nil {
				w.IP = *hostIP
			}
			var err error
			if w.First, w.Last, err = parseHostPort(b.HostPort); err != nil {
				return nil, err
			}
			out = append(out, w)
		}
	}
	return out, nil
}

// parseHostPort reads "", "80" or "80-90".
func parseHostPort(s string) (first, last uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	lo, hi, isRange := strings.Cut(s, "-")
	a, err := strconv.ParseUint(lo, 10, 16)
	b := a
	if err == nil && isRange {
		b, err = strconv.ParseUint(hi, 10, 16)
	}
	if err != nil || b < a || isRange && a == 0 {
		return 0, 0, worker.Invalidf("invalid port specification: %q", s)
	}
	return uint16(a), uint16(b), nil
}

// reserve reserves a sandbox's ports on the host.
func (s *Service) reserve(sb *sandbox, r *worker.NetworkRequest) error {
	s.mu.Lock()
	ep := s.gatewayLocked(sb)
	var hostIP *netip.Addr
	if ep != nil {
		if a, err := netip.ParseAddr(s.networks[ep.Network].Options[optHostIP]); err == nil && !a.IsUnspecified() {
			hostIP = &a
		}
	}
	s.mu.Unlock()
	list, err := wants(r, hostIP)
	if err != nil || len(list) == 0 || ep == nil {
		return err
	}
	lease, err := s.ports.Reserve(sb.ID, list)
	if err != nil {
		return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", sb.Name, ep.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sb.lease, sb.Ports = lease, lease.Bindings()
	return nil
}
