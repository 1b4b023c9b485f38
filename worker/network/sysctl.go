package network

import (
	"fmt"
	"strings"

	"github.com/boxbuild/boxbuild/worker/network/link"
)

// optSysctls is the option of an endpoint with the kernel parameters of its interface, whose name users cannot know: they
// write IFNAME in its place.
const optSysctls = "com.docker.network.endpoint.sysctls"

// sysctlsOf reads the kernel parameters that are asked for, and refuses in docker's words what is none of an interface.
func sysctlsOf(e *EndpointSettings) (out []link.Sysctl, err error) {
	if e == nil {
		return nil, nil
	}
	list, ok := e.DriverOpts[optSysctls]
	if !ok {
		return nil, nil
	}
	for text := range strings.SplitSeq(list, ",") {
		s, ok := link.ParseSysctl(text)
		if !ok {
			return nil, fmt.Errorf("unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as "+
				"'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'", text)
		}
		out = append(out, s)
	}
	return out, nil
}
