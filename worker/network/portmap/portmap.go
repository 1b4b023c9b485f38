// Package portmap reserves the host's ports that containers publish, and carries what the packet filter cannot.
//
// A port is reserved when this daemon has given it to no other container and it could be bound, so that no other program
// has it either; it stays bound, so that none gets it. Connections do not come to the bound sockets: the packet filter
// leads them to the container before, with the client's address. What it cannot do is to change the family of a packet,
// or to take one from ::1 to another interface; such connections arrive at the sockets, and are carried on from there. The
// container then sees the bridge's address as the client's, never a loopback one (CVE-2021-20199). They end with the
// daemon, while those that the packet filter leads go on.
//
// Life cycle: Reserve, Serve once the container's address is known, Close. A Lease owns its goroutines and waits for them
// in Close. Ports.mu guards the table and is held for no I/O.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/moby/moby/api/types/network"
)

// A Want is a port that a container asks for.
type Want struct {
	Container network.Port
	// IP is the host's address; the zero Addr means all addresses of both families.
	IP netip.Addr
	// First and Last are the ports that will do; 0 for any.
	First, Last uint16
}

// A Binding is a port that a container has.
type Binding struct {
	Container network.Port
	Host      netip.AddrPort // an unspecified address for all of its family
}

// Ports are the ports that containers of this daemon have. They are safe for concurrent use.
type Ports struct {
	mu   sync.Mutex
	used map[key][]netip.Addr // guarded by mu
	next map[network.IPProtocol]uint16
}

type key struct {
	proto network.IPProtocol
	port  uint16
}

// New returns Ports of which nobody has any.
func New() *Ports {
	return &Ports{used: make(map[key][]netip.Addr), next: make(map[network.IPProtocol]uint16)}
}

// A Lease is the ports of one container.
type Lease struct {
	ports    *Ports
	bindings []Binding
	sockets  []socket
	proxies  proxies
}

// A socket is bound for a binding.
type socket struct {
	io.Closer
	binding Binding
}

// Bindings returns the ports, in the order in which they were asked for; IPv4 before IPv6.
func (l *Lease) Bindings() []Binding { return l.bindings }

// allFamilies are the unspecified addresses that "all addresses" stands for.
func allFamilies() []netip.Addr {
	out := []netip.Addr{netip.IPv4Unspecified()}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		out = append(out, netip.IPv6Unspecified())
	}
	return out
}

// Reserve reserves all ports of wants or, with an error in docker's words, none.
func (p *Ports) Reserve(wants []Want) (*Lease, error) {
	l := &Lease{ports: p}
	for _, w := range wants {
		if err := l.reserve(w); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

func (l *Lease) reserve(w Want) error {
	ips := []netip.Addr{w.IP.Unmap()}
	if !w.IP.IsValid() {
		ips = allFamilies()
	}
	first, last := w.First, w.Last
	if first == 0 {
		return l.reserveAny(w, ips)
	}
	var err error
	for port := int(first); port <= int(max(first, last)); port++ {
		if err = l.bind(w.Container, ips, uint16(port)); err == nil {
			return nil
		}
	}
	if last > first && isTaken(err) {
		return fmt.Errorf("Bind for %s:%d-%d failed: all ports are allocated", ips[0], first, last) //nolint:staticcheck // docker's words
	}
	return err
}

// reserveAny reserves the next port of the range that the kernel takes ports of outgoing connections from.
func (l *Lease) reserveAny(w Want, ips []netip.Addr) error {
	first, last := ephemeral()
	proto := w.Container.Proto()
	l.ports.mu.Lock()
	start := l.ports.next[proto]
	l.ports.mu.Unlock()
	if start < first || start > last {
		start = first
	}
	count := int(last) - int(first) + 1
	for i := range count {
		port := uint16(int(first) + (int(start-first)+i)%count)
		err := l.bind(w.Container, ips, port)
		if err == nil {
			l.ports.mu.Lock()
			l.ports.next[proto] = port + 1
			l.ports.mu.Unlock()
			return nil
		}
		if !isTaken(err) {
			return err
		}
	}
	return errors.New("all ports are allocated")
}

func ephemeral() (first, last uint16) {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(data), &first, &last)
	}
	if err != nil || first == 0 || last < first {
		return 32768, 60999
	}
	return first, last
}

// A takenError says that somebody has a port.
type takenError struct{ text string }

func (e *takenError) Error() string { return e.text }

func isTaken(err error) bool {
	var e *takenError
	return errors.As(err, &e)
}

// bind reserves a port at all of ips, or none.
func (l *Lease) bind(c network.Port, ips []netip.Addr, port uint16) error {
	old := len(l.bindings)
	for i, ip := range ips {
		b := Binding{Container: c, Host: netip.AddrPortFrom(ip, port)}
		err := l.ports.claim(b)
		if err == nil {
			l.bindings = append(l.bindings, b)
			var s io.Closer
			if s, err = open(b); err == nil && s != nil {
				l.sockets = append(l.sockets, socket{s, b})
			}
		}
		if i > 0 && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			l.undo(len(l.bindings) - 1) // a host without IPv6 after all
			continue
		}
		if err != nil {
			l.undo(old)
			return err
		}
	}
	return nil
}

// undo gives all bindings from the i-th on back.
func (l *Lease) undo(i int) {
	gone := l.bindings[i:]
	l.bindings = l.bindings[:i]
	l.sockets = slices.DeleteFunc(l.sockets, func(s socket) bool {
		if !slices.Contains(gone, s.binding) {
			return false
		}
		s.Close()
		return true
	})
	l.ports.release(gone)
}

func clash(a, b netip.Addr) bool {
	return a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
}

// claim writes down that a port is taken.
func (p *Ports) claim(b Binding) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := key{b.Container.Proto(), b.Host.Port()}
	if slices.ContainsFunc(p.used[k], func(a netip.Addr) bool { return clash(a, b.Host.Addr()) }) {
		return &takenError{fmt.Sprintf("Bind for %s failed: port is already allocated", b.Host)}
	}
	p.used[k] = append(p.used[k], b.Host.Addr())
	return nil
}

func (p *Ports) release(list []Binding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range list {
		k := key{b.Container.Proto(), b.Host.Port()}
		if p.used[k] = slices.DeleteFunc(p.used[k], func(a netip.Addr) bool { return a == b.Host.Addr() }); len(p.used[k]) == 0 {
			delete(p.used, k)
		}
	}
}

// open binds a socket. It returns none for a protocol that the kernel does not have.
func open(b Binding) (io.Closer, error) {
	suffix := "4"
	if b.Host.Addr().Is6() {
		suffix = "6"
	}
	var s io.Closer
	var err error
	// Go sets SO_REUSEADDR for TCP, so that connections in TIME_WAIT are in nobody's way, and IPV6_V6ONLY.
	switch b.Container.Proto() {
	case network.TCP:
		s, err = new(net.ListenConfig).Listen(context.Background(), "tcp"+suffix, b.Host.String())
	case network.UDP:
		s, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp"+suffix, b.Host.String())
	case network.SCTP:
		s, err = bindSCTP(b.Host)
	default:
		return nil, fmt.Errorf("invalid protocol: %s", b.Container.Proto())
	}
	if err == nil {
		return s, nil
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		errno = unix.EINVAL
	}
	if errno == unix.EADDRINUSE {
		return nil, &takenError{fmt.Sprintf("failed to bind host port %s/%s: address already in use", b.Host, b.Container.Proto())}
	}
	return nil, fmt.Errorf("failed to bind host port %s/%s: %w", b.Host, b.Container.Proto(), errno)
}

func bindSCTP(a netip.AddrPort) (io.Closer, error) {
	domain := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(a.Port())}
	if a.Addr().Is6() {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	} else {
		sa.(*unix.SockaddrInet4).Addr = a.Addr().As4()
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, nil //nolint:nilerr // the kernel has no SCTP, so that nobody else can have the port
	}
	f := os.NewFile(uintptr(fd), "sctp")
	if domain == unix.AF_INET6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err := unix.Bind(fd, sa); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Restore reserves ports that a container of an earlier daemon has. That another program has taken one in between is no
// error: what the packet filter leads does not come to it.
func (p *Ports) Restore(list []Binding) (*Lease, error) {
	l := &Lease{ports: p}
	for _, b := range list {
		if err := p.claim(b); err != nil {
			l.Close()
			return nil, err
		}
		l.bindings = append(l.bindings, b)
		if s, err := open(b); err == nil && s != nil {
			l.sockets = append(l.sockets, socket{s, b})
		}
	}
	return l, nil
}

// Close gives the ports back. It ends the connections that it carries. It is idempotent.
func (l *Lease) Close() {
	for _, s := range l.sockets {
		s.Close()
	}
	l.sockets = nil
	l.proxies.close()
	l.ports.release(l.bindings)
	l.bindings = nil
}
