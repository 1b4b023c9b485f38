package netns

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// What the networks of containers have in common with those of builds.

// UsedPrefixes returns the destinations that the host has IPv4 routes to, other than the default route, and its addresses.
func UsedPrefixes(h *netlink.Handle) ([]netip.Prefix, error) { return usedPrefixes(h) }

// OutsideMTU returns the MTU of the interface with the default route, else 1500.
func OutsideMTU(h *netlink.Handle) int { return outsideMTU(h) }

// EnableForwarding makes the host hand on IPv4 packets between interfaces. It is left so: others may rely on it by now.
func EnableForwarding() error { return enableForwarding() }

// OnThread runs f on an operating system thread whose network namespace f may change, and then changes it back.
func OnThread(f func() error) error { return onThread(f) }
