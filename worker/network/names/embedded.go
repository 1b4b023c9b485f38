package names

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/executor/netns/resolvconf"
)

// Embedded is where the DNS server of a container's namespace is.
var Embedded = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// ForEmbedded returns the resolv.conf of a container whose names the embedded server resolves, and those of c beside them. A
// name with a dot in it is tried as it is first, one without is a container's.
func ForEmbedded(c *resolvconf.Conf) []byte {
	out := c.Asking(Embedded)
	if !slices.ContainsFunc(out.Options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		out.Options = append(out.Options, "ndots:0")
	}
	return out.File()
}
