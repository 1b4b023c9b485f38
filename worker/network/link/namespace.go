package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/netns"
)

// sysctls of every namespace. As in Docker, a process without privileges may use low ports, and ping; both concern
// nothing but its own namespace.
var sysctls = [][2]string{
	{"net/ipv4/ip_unprivileged_port_start", "0"},
	{"net/ipv4/ping_group_range", "0 2147483647"},
	// Whoever knew the address by another interface hears of the new one.
	{"net/ipv4/conf/default/arp_notify", "1"},
	// For devices to come; lo is there already and keeps ::1.
	{"net/ipv6/conf/default/disable_ipv6", "1"},
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
}

// A Namespace is a network namespace for one container.
type Namespace struct {
	file *os.File
	nl   *netlink.Handle // inside
	// Veth is the host's end of the pair that waits to be joined, "" if there is none.
	Veth string
	host int // index of Veth
	mtu  int
}

// NewNamespace makes a namespace in which lo is up. With an MTU it has an eth0 too, whose cable is not plugged in yet.
func (h *Host) NewNamespace(mtu int) (_ *Namespace, err error) {
	n := &Namespace{mtu: mtu}
	err = netns.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		var err error
		if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		for _, s := range sysctls {
			if err := os.WriteFile("/proc/sys/"+s[0], []byte(s[1]), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err == nil {
		// lo is the first device of every namespace.
		err = n.nl.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}})
	}
	if err == nil && mtu > 0 {
		if n.Veth, n.host, err = h.addVeth(n, "eth0", mtu); err == nil {
			err = errors.Join(awaitUp(n.nl, "eth0"), awaitUp(h.nl, n.Veth))
		}
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	return n, nil
}

// addVeth makes a veth pair, both of whose ends are up.
func (h *Host) addVeth(n *Namespace, name string, mtu int) (string, int, error) {
	for range 8 {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = h.NewVeth(), mtu
		v := netlink.NewVeth(attrs)
		v.PeerName, v.PeerMTU = name, uint32(mtu)
		v.PeerNamespace = netlink.NsFd(int(n.file.Fd()))
		err := h.nl.LinkAdd(v)
		if errors.Is(err, unix.EEXIST) {
			if _, err := n.nl.LinkByName(name); err == nil {
				return "", 0, fmt.Errorf("making a veth pair: there is an interface %s", name)
			}
			continue // the name of the host's end is another pair's
		}
		if err != nil {
			return "", 0, fmt.Errorf("making a veth pair: %w", err)
		}
		// The host's end is a bridge's port and has no addresses, also no link-local one (CVE-2024-32473).
		err = h.nl.LinkSetIP6AddrGenMode(v, nl.IN6_ADDR_GEN_MODE_NONE)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
			err = nil // a kernel without IPv6
		}
		if err == nil {
			err = h.nl.LinkSetUp(v)
		}
		var peer netlink.Link
		if err == nil {
			peer, err = n.nl.LinkByName(name)
		}
		if err == nil {
			err = n.nl.LinkSetUp(peer)
		}
		if err != nil {
			return "", 0, errors.Join(err, h.RemoveVeth(attrs.Name))
		}
		return attrs.Name, v.Attrs().Index, nil
	}
	return "", 0, errors.New("making a veth pair: every name is taken")
}

// Pin gives the namespace a path, which must not exist.
func (n *Namespace) Pin(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("pinning a network namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("pinning a network namespace at %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// Unpin removes what Pin has made. It can be called for what is not there.
func Unpin(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpinning network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpinning a network namespace: %w", err)
	}
	return nil
}

// ErrNoNamespace is returned by OpenNamespace for a path at which none is pinned.
var ErrNoNamespace = errors.New("no network namespace is pinned there")

// OpenNamespace opens one that was pinned.
func OpenNamespace(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoNamespace
	}
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, ErrNoNamespace
	}
	n := &Namespace{file: f}
	if err := n.Do(func() (err error) {
		n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening network namespace %s: %w", path, err)
	}
	return n, nil
}

// Do runs f on a thread that is in the namespace. Sockets that it opens are there.
func (n *Namespace) Do(f func() error) error {
	return netns.OnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// FD is the descriptor of the namespace.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Handle is a netlink socket in the namespace.
func (n *Namespace) Handle() *netlink.Handle { return n.nl }

// Close lets the namespace go. The kernel removes it, with its devices, once nothing else holds it.
func (n *Namespace) Close() {
	if n.nl != nil {
		n.nl.Close()
	}
	if n.file != nil {
		n.file.Close()
	}
}

// A Port is how a namespace is joined to a bridge.
type Port struct {
	Bridge    int // index
	Interface string
	Isolated  bool // it cannot talk to other isolated ports of the bridge
	MTU       int
	MAC       net.HardwareAddr
	Addrs     []netip.Prefix
	Gateways  []netip.Addr // one for each family at most; none where another port has the default route
	Sysctls   []Sysctl     // of the interface
}

// Join joins the namespace to a bridge, by the pair that waits if there is one and it is for that interface, and returns
// the name of the host's end.
func (h *Host) Join(n *Namespace, p *Port) (veth string, err error) {
	fresh := n.Veth == "" || p.Interface != "eth0"
	index := n.host
	if fresh {
		if veth, index, err = h.addVeth(n, p.Interface, p.MTU); err != nil {
			return "", err
		}
	} else {
		veth, n.Veth = n.Veth, ""
	}
	if err := h.join(n, p, index, !fresh && n.mtu != p.MTU); err != nil {
		return "", errors.Join(fmt.Errorf("joining %s to its bridge: %w", p.Interface, err), h.RemoveVeth(veth))
	}
	if fresh {
		err = errors.Join(awaitUp(n.nl, p.Interface), awaitUp(h.nl, veth))
	}
	return veth, errors.Join(err, h.awaitBridge(p.Bridge))
}

func (h *Host) join(n *Namespace, p *Port, index int, setMTU bool) error {
	outer := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	inner, err := n.nl.LinkByName(p.Interface)
	if err != nil {
		return err
	}
	if setMTU {
		if err := errors.Join(h.nl.LinkSetMTU(outer, p.MTU), n.nl.LinkSetMTU(inner, p.MTU)); err != nil {
			return err
		}
	}
	if err := h.nl.LinkSetMasterByIndex(outer, p.Bridge); err != nil {
		return err
	}
	if err := h.setPort(outer, p.Isolated); err != nil {
		return err
	}
	if err := n.allow6(p); err != nil {
		return err
	}
	for _, a := range p.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := n.nl.AddrAdd(inner, addr); err != nil {
			return fmt.Errorf("setting address %s: %w", a, err)
		}
	}
	// After the address, so that others hear of both.
	if err := n.nl.LinkSetHardwareAddr(inner, p.MAC); err != nil {
		return fmt.Errorf("setting address %s: %w", p.MAC, err)
	}
	if err := n.addRoutes(inner.Attrs().Index, p.Gateways); err != nil {
		return err
	}
	return n.setSysctls(p)
}

// setPort sets the flags of a bridge port. With br_netfilter, what a container sends to a port of its own that is published
// is turned round in the bridge already, which has to let it out where it came in.
func (h *Host) setPort(l netlink.Link, isolated bool) error {
	if err := h.nl.LinkSetHairpin(l, true); err != nil {
		return err
	}
	if !isolated {
		return nil
	}
	return h.nl.LinkSetIsolated(l, true)
}

func (n *Namespace) addRoutes(index int, gateways []netip.Addr) error {
	for _, gw := range gateways {
		if err := n.nl.RouteReplace(&netlink.Route{LinkIndex: index, Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("adding the default route by %s: %w", gw, err)
		}
	}
	return nil
}

// SetGateways makes the default routes lead to gateways by that interface.
func (n *Namespace) SetGateways(iface string, gateways []netip.Addr) error {
	l, err := n.nl.LinkByName(iface)
	if err != nil {
		return err
	}
	return n.addRoutes(l.Attrs().Index, gateways)
}

// allow6 turns IPv6 on for an interface that has an address of it.
func (n *Namespace) allow6(p *Port) error {
	for _, a := range p.Addrs {
		if a.Addr().Is6() {
			return n.Do(func() error {
				return os.WriteFile("/proc/sys/net/ipv6/conf/"+p.Interface+"/disable_ipv6", []byte("0"), 0)
			})
		}
	}
	return nil
}

// Withdraw removes the addresses of an interface, which then answers for them no more. That there is none is no error.
func (n *Namespace) Withdraw(iface string) error {
	l, err := n.nl.LinkByName(iface)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	addrs, err := n.nl.AddrList(l, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	for _, a := range addrs {
		if err := n.nl.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("withdrawing address %s: %w", a.IPNet, err)
		}
	}
	return nil
}

// Plug joins a veth pair that is there to a bridge, by the name of the host's end.
func (h *Host) Plug(veth string, bridge int, isolated bool) error {
	l, err := h.nl.LinkByName(veth)
	if err != nil {
		return fmt.Errorf("joining %s to its bridge: %w", veth, err)
	}
	if l.Attrs().MasterIndex == bridge {
		return nil
	}
	if err := h.nl.LinkSetMasterByIndex(l, bridge); err != nil {
		return fmt.Errorf("joining %s to its bridge: %w", veth, err)
	}
	return h.setPort(l, isolated)
}
