package runspec

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/moby/moby/api/types/network"
)

// ports reads --publish and --expose. A published port is exposed too.
func ports(publish, expose []string) (network.PortSet, network.PortMap, error) {
	exposed, bindings := network.PortSet{}, network.PortMap{}
	specs := make([]string, len(publish))
	for i, p := range publish {
		var err error
		if specs[i], err = shortForm(p); err != nil {
			return nil, nil, err
		}
	}
	_, published, err := nat.ParsePortSpecs(specs)
	if err != nil {
		return nil, nil, err
	}
	for port, hosts := range published {
		p, err := network.ParsePort(string(port))
		if err != nil {
			return nil, nil, err
		}
		exposed[p] = struct{}{}
		bindings[p] = []network.PortBinding{}
		for _, host := range hosts {
			b := network.PortBinding{HostPort: host.HostPort}
			if host.HostIP != "" {
				if b.HostIP, err = netip.ParseAddr(host.HostIP); err != nil {
					return nil, nil, err
				}
			}
			bindings[p] = append(bindings[p], b)
		}
	}
	for _, e := range expose {
		r, err := network.ParsePortRange(e)
		if err != nil {
			return nil, nil, fmt.Errorf("invalid range format for --expose: %w", err)
		}
		for p := range r.All() {
			exposed[p] = struct{}{}
		}
	}
	return exposed, bindings, nil
}

// shortForm turns the long form of --publish, as services have it, into the short one.
func shortForm(s string) (string, error) {
	if !strings.Contains(s, "=") {
		return s, nil
	}
	fields := map[string]string{"protocol": "tcp"}
	for field := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(field, "=")
		if !ok || key == "" {
			return "", fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", field)
		}
		fields[key] = value
	}
	return fields["published"] + ":" + fields["target"] + "/" + fields["protocol"], nil
}
