package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A network is what all bridged namespaces of a daemon have in common.
type network struct {
	id      string
	bridge  int // interface index
	mtu     int
	subnet  netip.Prefix
	gateway netip.Addr
	addrs   *addresses
	host    *netlink.Handle // in the host's namespace
	dns     *forwarder
}

func bridgeName(id string) string { return "bx-" + id }

func vethPrefix(id string) string { return "v" + id + "-" }

// vethName returns the name of the host's end of a namespace's veth pair.
func (n *network) vethName(a netip.Addr) string {
	return fmt.Sprintf("%s%x", vethPrefix(n.id), as32(a)-as32(n.subnet.Addr()))
}

// makeNetwork makes the bridge, the forwarder and the table.
func makeNetwork(opts *Options) (_ *network, err error) {
	n := &network{id: opts.ID}
	if n.host, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	used, err := usedPrefixes(n.host)
	if err != nil {
		return nil, err
	}
	if n.subnet, err = chooseSubnet(opts.Range, opts.ID, used); err != nil {
		return nil, err
	}
	n.gateway = n.subnet.Addr().Next()
	n.addrs = newAddresses(n.subnet)
	n.mtu = outsideMTU(n.host)
	if err := n.makeBridge(); err != nil {
		return nil, fmt.Errorf("making bridge %s: %w", bridgeName(n.id), err)
	}
	if err := enableForwarding(); err != nil {
		return nil, err
	}
	if n.dns, err = startForwarder(n.gateway, n.subnet, opts.ResolvConf); err != nil {
		return nil, err
	}
	if err := n.makeTable(opts.HostAccess); err != nil {
		return nil, fmt.Errorf("making nftables table %s: %w", tableName(n.id), err)
	}
	if err := (Passage{Tag: tableName(n.id), Bridge: bridgeName(n.id)}).Open(); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *network) makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName(n.id)
	// An address of its own: else the bridge would take the lowest of its ports' and change it as they come and go.
	attrs.HardwareAddr = macOf(n.gateway)
	attrs.MTU = n.mtu
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := n.host.LinkAdd(br); err != nil {
		return err
	}
	link, err := n.host.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	n.bridge = link.Attrs().Index
	conf := "/proc/sys/net/ipv6/conf/" + attrs.Name + "/disable_ipv6"
	if err := os.WriteFile(conf, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := n.host.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(n.gateway, subnetBits))}); err != nil {
		return err
	}
	return n.host.LinkSetUp(link)
}

// enableForwarding makes the host hand on packets between interfaces. It is left so: others may rely on it by now.
func enableForwarding() error {
	const file = "/proc/sys/net/ipv4/ip_forward"
	if data, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(data)) == "1" {
		return nil
	}
	if err := os.WriteFile(file, []byte("1"), 0); err != nil {
		return fmt.Errorf("enabling IP forwarding: %w", err)
	}
	return nil
}

// usedPrefixes returns the destinations that the host has routes to, other than the default route, and its addresses.
func usedPrefixes(h *netlink.Handle) ([]netip.Prefix, error) {
	var out []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		a, ok := netip.AddrFromSlice(n.IP.To4())
		bits, _ := n.Mask.Size()
		if ok && bits > 0 {
			out = append(out, netip.PrefixFrom(a, bits).Masked())
		}
	}
	// Every table, as VPNs like to have their own.
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, all, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		add(r.Dst)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	return out, nil
}

// outsideMTU returns the MTU of the interface with the default route, else Ethernet's: where path MTU discovery is
// blocked, connections through a link with a smaller one would hang.
func outsideMTU(h *netlink.Handle) int {
	const ethernet = 1500
	routes, err := h.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return ethernet
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" {
			continue
		}
		if link, err := h.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU >= 576 {
			return min(link.Attrs().MTU, 65535)
		}
	}
	return ethernet
}

// close undoes makeNetwork, also a part of it.
func (n *network) close() error {
	var err error
	if n.dns != nil {
		err = n.dns.close()
	}
	err = errors.Join(err, removeNetwork(n.id))
	n.host.Close()
	return err
}

// removeVeths removes the host's ends of veth pairs, and with them the others. Most are gone already, or the kernel is
// about to remove them with their namespaces; but a namespace lives on while it has a TCP connection that was not closed
// by both sides, which can take minutes.
func removeVeths(id string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		entries, err := os.ReadDir("/sys/class/net")
		if err != nil {
			return fmt.Errorf("listing interfaces: %w", err)
		}
		left := 0
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), vethPrefix(id)) {
				continue
			}
			left++
			if link, err := netlink.LinkByName(e.Name()); err == nil {
				_ = netlink.LinkDel(link)
			}
		}
		if left == 0 {
			return nil
		}
		if wait > 4*time.Second {
			return fmt.Errorf("removing %d veth pairs: they are still there", left)
		}
		time.Sleep(wait)
	}
}

// removeNetwork removes the table, the bridge and the veth pairs of the daemon id. That there are none is no error. What the
// kernel removes by itself when the daemon has ended comes last: on a busy machine there may be no time to wait for it.
func removeNetwork(id string) error {
	return errors.Join(removeTable(id), removeBridge(id), removeVeths(id))
}

func removeBridge(id string) error {
	link, err := netlink.LinkByName(bridgeName(id))
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing bridge %s: %w", bridgeName(id), err)
	}
	return nil
}
