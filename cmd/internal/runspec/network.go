package runspec

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"
)

// networking is how the container is reached and what it reaches.
type networking struct {
	networks                       opts.NetworkOpt
	aliases, links, linkLocal      opts.ListOpts
	ip, ip6                        net.IP
	mac                            string
	publish, expose                opts.ListOpts
	publishAll                     bool
	hosts, dns, dnsOpts, dnsSearch opts.ListOpts
}

func (n *networking) register(fs *pflag.FlagSet) {
	for _, l := range []*opts.ListOpts{&n.aliases, &n.linkLocal, &n.publish, &n.expose, &n.dnsOpts} {
		*l = opts.NewListOpts(nil)
	}
	n.links = opts.NewListOpts(opts.ValidateLink)
	n.hosts = opts.NewListOpts(opts.ValidateExtraHost)
	n.dns, n.dnsSearch = opts.NewListOpts(opts.ValidateIPAddress), opts.NewListOpts(opts.ValidateDNSSearch)
	fs.Var(&n.networks, "network", "Connect a container to a network")
	fs.Var(&n.networks, "net", "Connect a container to a network")
	fs.Var(&n.aliases, "network-alias", "Add network-scoped alias for the container")
	fs.Var(&n.aliases, "net-alias", "Add network-scoped alias for the container")
	fs.Var(&n.links, "link", "Add link to another container")
	fs.Var(&n.linkLocal, "link-local-ip", "Container IPv4/IPv6 link-local addresses")
	fs.IPVar(&n.ip, "ip", nil, "IPv4 address (e.g., 172.30.100.104)")
	fs.IPVar(&n.ip6, "ip6", nil, "IPv6 address (e.g., 2001:db8::33)")
	fs.StringVar(&n.mac, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")
	fs.VarP(&n.publish, "publish", "p", "Publish a container's port(s) to the host")
	fs.BoolVarP(&n.publishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
	fs.Var(&n.expose, "expose", "Expose a port or a range of ports")
	fs.Var(&n.hosts, "add-host", "Add a custom host-to-IP mapping (host:ip)")
	fs.Var(&n.dns, "dns", "Set custom DNS servers")
	fs.Var(&n.dnsOpts, "dns-option", "Set DNS options")
	fs.Var(&n.dnsOpts, "dns-opt", "Set DNS options")
	fs.Var(&n.dnsSearch, "dns-search", "Set custom DNS search domains")
	hide(fs, "net", "net-alias", "dns-opt")
}

func (n *networking) apply(req *container.CreateRequest, _ *pflag.FlagSet) error {
	h := req.HostConfig
	var err error
	if req.ExposedPorts, h.PortBindings, err = ports(n.publish.GetSlice(), n.expose.GetSlice()); err != nil {
		return err
	}
	h.PublishAllPorts = n.publishAll
	h.NetworkMode = container.NetworkMode(n.networks.NetworkMode())
	h.Links, h.ExtraHosts = n.links.GetSlice(), n.hosts.GetSlice()
	h.DNS = addresses(n.dns.GetSlice())
	h.DNSOptions, h.DNSSearch = n.dnsOpts.GetAllOrEmpty(), n.dnsSearch.GetAllOrEmpty()
	req.NetworkingConfig.EndpointsConfig, err = n.endpoints()
	return err
}

// addresses reads addresses that have been validated.
func addresses(list []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// endpoints are the networks that the container joins. What the flags without a network say is of the first.
func (n *networking) endpoints() (map[string]*network.EndpointSettings, error) {
	wanted := n.networks.Value()
	implicit := len(wanted) == 0
	if implicit {
		wanted = []opts.NetworkAttachmentOpts{{Target: "default"}}
	}
	out := make(map[string]*network.EndpointSettings, len(wanted))
	own, builtin := false, false
	for i, w := range wanted {
		if i == 0 {
			var err error
			if w, err = n.merge(w); err != nil {
				return nil, err
			}
		}
		ep, err := endpoint(w)
		if err != nil {
			return nil, err
		}
		if _, twice := out[w.Target]; twice {
			return nil, fmt.Errorf("network %q is specified multiple times", w.Target)
		}
		if container.NetworkMode(w.Target).IsUserDefined() {
			own = true
		} else {
			builtin = true
		}
		// One network of which nothing else is said is in the host's part of the request.
		if len(wanted) == 1 && !implicit && reflect.ValueOf(*ep).IsZero() {
			continue
		}
		out[w.Target] = ep
	}
	if own && builtin {
		return nil, errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return out, nil
}

// merge adds the flags without a network to a network.
func (n *networking) merge(w opts.NetworkAttachmentOpts) (opts.NetworkAttachmentOpts, error) {
	for _, c := range []struct {
		inner, outer bool
		what         string
	}{
		{len(w.Aliases) > 0, n.aliases.Len() > 0, "--network-alias and per-network alias"},
		{len(w.Links) > 0, n.links.Len() > 0, "--link and per-network links"},
		{w.IPv4Address.IsValid(), n.ip != nil, "--ip and per-network IPv4 address"},
		{w.IPv6Address.IsValid(), n.ip6 != nil, "--ip6 and per-network IPv6 address"},
		{w.MacAddress != "", n.mac != "", "--mac-address and per-network MAC address"},
		{len(w.LinkLocalIPs) > 0, n.linkLocal.Len() > 0, "--link-local-ip and per-network link-local IP addresses"},
	} {
		if c.inner && c.outer {
			return w, errors.New("conflicting options: cannot specify both " + c.what)
		}
	}
	if n.aliases.Len() > 0 {
		w.Aliases = n.aliases.GetSlice()
	}
	// On the default bridge a link is the host's affair.
	if n.links.Len() > 0 && container.NetworkMode(w.Target).IsUserDefined() {
		w.Links = n.links.GetSlice()
	}
	if a, ok := netip.AddrFromSlice(n.ip.To4()); ok {
		w.IPv4Address = a
	}
	if a, ok := netip.AddrFromSlice(n.ip6.To16()); ok {
		w.IPv6Address = a
	}
	if n.mac != "" {
		w.MacAddress = n.mac
	}
	if n.linkLocal.Len() > 0 {
		w.LinkLocalIPs = addresses(n.linkLocal.GetSlice())
	}
	return w, nil
}

// endpoint is what one network is asked for.
func endpoint(w opts.NetworkAttachmentOpts) (*network.EndpointSettings, error) {
	if strings.TrimSpace(w.Target) == "" {
		return nil, errors.New("no name set for network")
	}
	if !container.NetworkMode(w.Target).IsUserDefined() {
		switch {
		case len(w.Aliases) > 0:
			return nil, errors.New("network-scoped aliases are only supported for user-defined networks")
		case len(w.Links) > 0:
			return nil, errors.New("links are only supported for user-defined networks")
		}
	}
	ep := &network.EndpointSettings{GwPriority: w.GwPriority}
	if len(w.Aliases) > 0 {
		ep.Aliases = w.Aliases
	}
	if len(w.DriverOpts) > 0 {
		ep.DriverOpts = w.DriverOpts
	}
	if len(w.Links) > 0 {
		ep.Links = w.Links
	}
	if w.IPv4Address.IsValid() || w.IPv6Address.IsValid() || len(w.LinkLocalIPs) > 0 {
		ep.IPAMConfig = &network.EndpointIPAMConfig{
			IPv4Address: w.IPv4Address, IPv6Address: w.IPv6Address, LinkLocalIPs: w.LinkLocalIPs,
		}
	}
	if w.MacAddress != "" {
		mac, err := net.ParseMAC(strings.TrimSpace(w.MacAddress))
		if err != nil {
			return nil, fmt.Errorf("%s is not a valid mac address", w.MacAddress)
		}
		ep.MacAddress = network.HardwareAddr(mac)
	}
	return ep, nil
}
