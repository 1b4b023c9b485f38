package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sysctls of every namespace. As in Docker, a process without privileges may use low ports, and ping; both concern
// nothing but its own namespace.
var sysctls = [][2]string{
	{"net/ipv4/ip_unprivileged_port_start", "0"},
	{"net/ipv4/ping_group_range", "0 2147483647"},
	// For devices to come; lo is there already and keeps ::1.
	{"net/ipv6/conf/default/disable_ipv6", "1"},
	{"net/ipv6/conf/default/accept_ra", "0"},
}

// makeIsolated makes a namespace with nothing but lo.
func makeIsolated() (*namespace, error) {
	f, err := newNamespace(func(*os.File, *netlink.Handle) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	return &namespace{file: f}, nil
}

// newNamespace makes a namespace, brings lo up, and calls configure with the namespace and a handle in it.
func newNamespace(configure func(*os.File, *netlink.Handle) error) (_ *os.File, err error) {
	var ns *os.File
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		var err error
		if ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		for _, s := range sysctls {
			// A kernel without IPv6 has no such file.
			if err := os.WriteFile("/proc/sys/"+s[0], []byte(s[1]), 0); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		// lo is the first device of every namespace.
		if err := h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil {
			return fmt.Errorf("bringing lo up: %w", err)
		}
		return configure(ns, h)
	})
	if err != nil && ns != nil {
		ns.Close()
		ns = nil
	}
	return ns, err
}

// onThread runs f on an operating system thread whose network namespace f may change, and then changes it back. A thread
// for which that fails is not used for anything else: it ends.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		host, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer host.Close()
		err = f()
		if serr := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); serr == nil {
			runtime.UnlockOSThread()
		} else if err == nil {
			err = os.NewSyscallError("setns", serr)
		}
		done <- err
	}()
	return <-done
}

// makeNamespace makes a namespace with an address in the subnet, joined to the bridge.
func (n *network) makeNamespace() (*namespace, error) {
	addr, err := n.addrs.take()
	if err != nil {
		return nil, err
	}
	f, err := newNamespace(func(ns *os.File, h *netlink.Handle) error { return n.join(addr, ns, h) })
	if err != nil {
		n.addrs.free(addr)
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	return &namespace{file: f, free: func() { n.addrs.free(addr) }}, nil
}

// join connects the namespace ns, in which h is, with the bridge.
func (n *network) join(addr netip.Addr, ns *os.File, h *netlink.Handle) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.vethName(addr)
	attrs.MasterIndex = n.bridge
	attrs.MTU = n.mtu
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "eth0"
	veth.PeerHardwareAddr = macOf(addr)
	veth.PeerNamespace = netlink.NsFd(int(ns.Fd()))
	veth.PeerMTU = uint32(n.mtu)
	// The host's end is made in the host's namespace, which n.host is in, and is up at once.
	veth.Flags = net.FlagUp
	if err := n.host.LinkAdd(veth); err != nil {
		return fmt.Errorf("making a veth pair: %w", err)
	}
	if err := n.host.LinkSetIsolated(veth, true); err != nil {
		return fmt.Errorf("isolating the bridge port: %w", err)
	}
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("finding eth0: %w", err)
	}
	if err := h.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, subnetBits))}); err != nil {
		return fmt.Errorf("setting the address of eth0: %w", err)
	}
	if err := h.LinkSetUp(eth0); err != nil {
		return fmt.Errorf("bringing eth0 up: %w", err)
	}
	gw := net.IP(n.gateway.AsSlice())
	if err := h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gw}); err != nil {
		return fmt.Errorf("adding the default route: %w", err)
	}
	if err := awaitUp(h, "eth0"); err != nil {
		return err
	}
	if err := awaitUp(n.host, attrs.Name); err != nil {
		return err
	}
	return awaitUp(n.host, bridgeName(n.id))
}

// awaitUp waits until an interface passes packets: the kernel makes it do so some time after its cable, so to speak, has
// been plugged in. A packet that a sandbox sent before would be lost, and its first DNS query take a second.
func awaitUp(h *netlink.Handle, name string) error {
	for wait := 50 * time.Microsecond; ; wait *= 2 {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if wait > 2*time.Second {
			return fmt.Errorf("waiting for %s: it is %s", name, link.Attrs().OperState)
		}
		time.Sleep(wait)
	}
}

// macOf returns a locally administered address made of an IPv4 address, so that it is unique in the subnet.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x62, b[0], b[1], b[2], b[3]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
