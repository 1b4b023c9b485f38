// Package link makes the devices of container networks: bridges, network namespaces and the veth pairs between them.
//
// Life cycle: a Namespace is made with lo up and, if it is to be joined to a bridge soon, a veth pair that waits; so most
// of the work is done before a container needs it. Pin gives it a path in the file system, so that it outlives the
// program. Join puts it on a bridge with its address. Withdraw takes the addresses away, after which nothing answers for
// them; then the rest can be removed at leisure. All functions that make or remove something can be called again.
//
// Names tell whose devices are: the host's ends of veth pairs begin with VethPrefix of a daemon's ID, and bridges have an
// alias with it. Nothing else is ever removed.
package link

import (
	"crypto/rand"
	"encoding/binary"
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

// A Host makes and removes devices in the daemon's network namespace. It is safe for concurrent use.
type Host struct {
	id string
	nl *netlink.Handle
}

// Open returns the Host of the daemon of that ID. The caller closes it.
func Open(id string) (*Host, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	return &Host{id: id, nl: nl}, nil
}

// Close closes the Host. Devices stay.
func (h *Host) Close() { h.nl.Close() }

// Handle is the netlink socket of the Host.
func (h *Host) Handle() *netlink.Handle { return h.nl }

// VethPrefix is what the names of the host's ends of the daemon's veth pairs begin with.
func VethPrefix(id string) string { return "w" + id + "-" }

// NewVeth returns a name for one more veth pair.
func (h *Host) NewVeth() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%s%05x", VethPrefix(h.id), binary.BigEndian.Uint32(b[:])&0xfffff)
}

// A Bridge is one of the daemon's.
type Bridge struct {
	Name  string
	MTU   int
	Addrs []netip.Prefix // the gateway's addresses, with the subnets' lengths
}

func (h *Host) alias() string { return "boxbuild " + h.id }

// EnsureBridge makes the bridge or, if there is one of that name, completes it, and returns its index. One that somebody
// else has made is used, and never removed.
func (h *Host) EnsureBridge(b *Bridge) (int, error) {
	index, err := h.ensureBridge(b)
	if err != nil {
		return 0, fmt.Errorf("making bridge %s: %w", b.Name, err)
	}
	return index, nil
}

func (h *Host) ensureBridge(b *Bridge) (int, error) {
	l, err := h.nl.LinkByName(b.Name)
	if missing(err) {
		if err := h.makeBridge(b); err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, err
		}
		l, err = h.nl.LinkByName(b.Name)
	}
	if err != nil {
		return 0, err
	}
	if l.Type() != "bridge" {
		return 0, fmt.Errorf("there is an interface of that name that is no bridge but %s", l.Type())
	}
	has6 := false
	for _, a := range b.Addrs {
		has6 = has6 || a.Addr().Is6()
	}
	if err := writeSysctls(b.Name, has6); err != nil {
		return 0, err
	}
	for _, a := range b.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}
		if err := h.nl.AddrReplace(l, addr); err != nil {
			return 0, fmt.Errorf("setting address %s: %w", a, err)
		}
	}
	return l.Attrs().Index, h.nl.LinkSetUp(l)
}

// makeBridge makes a bridge, which has its name only when it can be told that it is ours: the kernel takes no alias for what is to
// be made, and of a daemon that is killed in between there would be a bridge that all who come after it take for somebody
// else's. Until then it is called like a veth pair, which they remove.
func (h *Host) makeBridge(b *Bridge) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = h.NewVeth(), b.MTU
	// An address of its own: else the bridge would take the lowest of its ports' and change it as they come and go.
	attrs.HardwareAddr = MAC(b.Addrs[0].Addr())
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return err
	}
	l, err := h.nl.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	if err = h.nl.LinkSetAlias(l, h.alias()); err == nil {
		err = h.nl.LinkSetName(l, b.Name)
	}
	if err != nil {
		return errors.Join(err, h.nl.LinkDel(l))
	}
	return nil
}

// writeSysctls sets up a bridge. Packets from 127.0.0.1 may leave by it, and their answers come in, as published ports are
// for the host itself too; the firewall sees to it that nothing else from there reaches 127.0.0.1.
func writeSysctls(bridge string, has6 bool) error {
	disable6 := "1"
	if has6 {
		disable6 = "0"
	}
	for _, s := range [][2]string{
		{"ipv4/conf/" + bridge + "/route_localnet", "1"},
		{"ipv6/conf/" + bridge + "/disable_ipv6", disable6},
		{"ipv6/conf/" + bridge + "/accept_ra", "0"},
		{"ipv6/conf/" + bridge + "/accept_dad", "0"},
	} {
		// A kernel without IPv6 has no such file.
		if err := os.WriteFile("/proc/sys/net/"+s[0], []byte(s[1]), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// RemoveBridge removes a bridge that this daemon has made. That there is none is no error.
func (h *Host) RemoveBridge(name string) error {
	l, err := h.nl.LinkByName(name)
	if err == nil {
		if l.Type() != "bridge" || l.Attrs().Alias != h.alias() {
			return nil
		}
		err = h.nl.LinkDel(l)
	}
	if err != nil && !missing(err) {
		return fmt.Errorf("removing bridge %s: %w", name, err)
	}
	return nil
}

// RemoveVeth removes a veth pair by the name of the host's end. That there is none is no error.
func (h *Host) RemoveVeth(name string) error {
	if !strings.HasPrefix(name, VethPrefix(h.id)) {
		return fmt.Errorf("removing %s: it is not this daemon's", name)
	}
	l, err := h.nl.LinkByName(name)
	if err == nil {
		err = h.nl.LinkDel(l)
	}
	if err != nil && !missing(err) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

func missing(err error) bool {
	var e netlink.LinkNotFoundError
	return errors.As(err, &e) || errors.Is(err, unix.ENODEV)
}

// Devices returns the names of the bridges and the host's ends of veth pairs that are this daemon's.
func (h *Host) Devices() (bridges, veths []string, err error) {
	links, err := h.nl.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, nil, fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range links {
		switch name := l.Attrs().Name; {
		case l.Type() == "bridge" && l.Attrs().Alias == h.alias():
			bridges = append(bridges, name)
		case strings.HasPrefix(name, VethPrefix(h.id)):
			veths = append(veths, name)
		}
	}
	return bridges, veths, nil
}

// Has says whether there is an interface of that name.
func (h *Host) Has(name string) bool {
	_, err := h.nl.LinkByName(name)
	return err == nil
}

// awaitUp waits until an interface passes packets: the kernel makes it do so some time after its cable, so to speak, has
// been plugged in. A packet that was sent before would be lost.
func awaitUp(nl *netlink.Handle, name string) error {
	return await(name, func() (netlink.Link, error) { return nl.LinkByName(name) })
}

// awaitBridge is awaitUp for a bridge, which is up once it has a port that is.
func (h *Host) awaitBridge(index int) error {
	return await("the bridge", func() (netlink.Link, error) { return h.nl.LinkByIndex(index) })
}

func await(what string, get func() (netlink.Link, error)) error {
	for wait := 50 * time.Microsecond; ; wait *= 2 {
		l, err := get()
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if wait > 2*time.Second {
			return fmt.Errorf("waiting for %s: it is %s", what, l.Attrs().OperState)
		}
		time.Sleep(wait)
	}
}

// MAC returns the address for an interface with an IP address: for IPv4 docker's 02:42 and the address, so that it is
// unique in the subnet and a container that comes after another with the same address has the same.
func MAC(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	if a.Is4() {
		return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
	}
	return net.HardwareAddr{0x02, 0x43, b[12], b[13], b[14], b[15]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Taken says whether an interface other than the bridge of that name, and older than it, has an address or a route in one
// of the subnets. Of two daemons that take the same subnet at the same time, it so says that to one.
func (h *Host) Taken(bridge string, subnets []netip.Prefix) (bool, error) {
	own := 0
	if l, err := h.nl.LinkByName(bridge); err == nil {
		own = l.Attrs().Index
	}
	routes, err := h.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.LinkIndex == own || own != 0 && r.LinkIndex > own {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok || bits == 0 {
			continue
		}
		if a = a.Unmap(); a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast()) {
			continue
		}
		for _, s := range subnets {
			if s.Overlaps(netip.PrefixFrom(a, bits)) {
				return true, nil
			}
		}
	}
	return false, nil
}

// EnableForwarding6 makes the host hand on IPv6 packets between interfaces. A host that does so takes no routes from its
// own routers any more unless it is told to, which it is where it did. It is left so: others may rely on it by now.
func EnableForwarding6() error {
	const conf = "/proc/sys/net/ipv6/conf/"
	if on(conf + "all/forwarding") {
		return nil
	}
	entries, err := os.ReadDir(conf)
	if err != nil {
		return fmt.Errorf("enabling IPv6 forwarding: %w", err)
	}
	for _, e := range entries {
		if file := conf + e.Name() + "/accept_ra"; on(file) {
			// An interface that has gone has no file.
			if err := os.WriteFile(file, []byte("2"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("enabling IPv6 forwarding: %w", err)
			}
		}
	}
	if err := os.WriteFile(conf+"all/forwarding", []byte("1"), 0); err != nil {
		return fmt.Errorf("enabling IPv6 forwarding: %w", err)
	}
	return nil
}

// on says whether a setting is 1.
func on(file string) bool {
	data, err := os.ReadFile(file)
	return err == nil && strings.TrimSpace(string(data)) == "1"
}
