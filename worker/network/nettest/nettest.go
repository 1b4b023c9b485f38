// Package nettest helps to test networks: it runs a test program in a network and mount namespace of its own, in which it
// may do what it wants and of which nothing is left, and programs in others.
package nettest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside is set for the program in its own namespaces.
const inside = "BOXBUILD_NETTEST_INSIDE"

// Main runs the tests of a package, in namespaces of their own if the user is root, and returns the code to exit with:
// TestMain calls it.
func Main(m *testing.M) int {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		if os.Getuid() == 0 {
			if err := prepare(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 2
			}
		}
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // whose end would be the parent's
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return 0
}

// prepare makes the namespace like a host: lo is up, and there is a way out to nowhere.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// It is there already for a program that a test has started.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// A Peer is another machine: a namespace that is joined to the test's by a cable.
type Peer struct {
	file *os.File
	// Host is the test's end of the cable, Addr the peer's.
	Host, Addr netip.Addr
}

// NewPeer makes a peer, whose network is a subnet of the host's and which has its default route by the host.
func NewPeer(t testing.TB, name string, subnet netip.Prefix) *Peer {
	t.Helper()
	p := &Peer{Host: subnet.Addr().Next()}
	p.Addr = p.Host.Next()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	made := make(chan error)
	go func() { // the thread ends with the goroutine
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			p.file, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
	}()
	must(<-made)
	t.Cleanup(func() { p.file.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = name, net.FlagUp
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = "eth0", netlink.NsFd(int(p.file.Fd()))
	must(netlink.LinkAdd(v))
	t.Cleanup(func() { _ = netlink.LinkDel(v) })
	must(netlink.AddrAdd(v, &netlink.Addr{
		IPNet: &net.IPNet{IP: p.Host.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), p.Host.BitLen())}, Flags: unix.IFA_F_NODAD,
	}))
	must(p.Do(func() error {
		for _, dev := range []string{"lo", "eth0"} {
			l, err := netlink.LinkByName(dev)
			if err != nil {
				return err
			}
			if dev == "eth0" {
				ip := &net.IPNet{IP: p.Addr.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), p.Addr.BitLen())}
				if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD}); err != nil {
					return err
				}
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return netlink.RouteAdd(&netlink.Route{Gw: p.Host.AsSlice()})
	}))
	return p
}

// Do runs f in the peer.
func (p *Peer) Do(f func() error) error { return Do(p.file, f) }

// DoAt is Do for the namespace that is pinned at path.
func DoAt(path string, f func() error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return Do(file, f)
}

// Do runs f on a thread that is in a network namespace. Sockets that it makes are there, those of package net too, as long
// as it makes them itself.
func Do(ns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// ServeTCP has a server at addr tell every client its address, until the test ends.
func ServeTCP(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Error(err)
		return netip.AddrPort{}
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap())
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(ln.Addr().String())
}

// ServeUDP is ServeTCP for UDP.
func ServeUDP(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Error(err)
		return netip.AddrPort{}
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(netip.MustParseAddrPort(from.String()).Addr().Unmap().String()), from)
		}
	}()
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// Ask connects to a server of ServeTCP or ServeUDP and returns what it says. It gives up after patience, for what is
// dropped; an error is the kernel's for what is refused.
func Ask(network string, to netip.AddrPort, patience time.Duration) (string, error) {
	domain, typ := unix.AF_INET, unix.SOCK_STREAM
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port())}
	if to.Addr().Is6() {
		domain = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else {
		sa.(*unix.SockaddrInet4).Addr = to.Addr().As4()
	}
	if network == "udp" {
		typ = unix.SOCK_DGRAM
	}
	// Not by package net, which may make another attempt from another thread.
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	if err := unix.Connect(fd, sa); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := unix.Write(fd, []byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 100)
	n, err := unix.Read(fd, buf)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return string(buf[:max(n, 0)]), err
}
