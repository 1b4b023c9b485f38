// Package portmap reserves the host's ports that containers publish, and carries what the packet filter cannot.
//
// A port is reserved when this daemon has given it to no other container and it could be bound, so that no other program
// has it either; it stays bound, so that none gets it. Connections do not come to the bound sockets: the packet filter
// leads them to the container before, with the client's address. What it cannot do is to change the family of a packet,
// or to take one from ::1 to another interface; such connections arrive at the sockets, and are carried on from there by a
// carry.Carrier, which may be a process that outlives the daemon: it has the sockets, too, and with them the reservation.
//
// Life cycle: Reserve, Serve once the container's address is known, Close; or Leave, with which the Carrier goes on, and
// Restore by the next daemon. A lease's turn is taken before Ports.mu,
// which guards the tables and is held for no I/O.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker/network/portmap/carry"
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
	carrier carry.Carrier

	mu     sync.Mutex
	used   map[key][]netip.Addr // guarded by mu, as all below
	next   map[network.IPProtocol]uint16
	leases map[*Lease]bool
}

type key struct {
	proto network.IPProtocol
	port  uint16
}

// New returns Ports of which nobody has any. The Carrier carries what comes to them.
func New(c carry.Carrier) *Ports {
	return &Ports{
		carrier: c, used: make(map[key][]netip.Addr), next: make(map[network.IPProtocol]uint16), leases: make(map[*Lease]bool),
	}
}

// A Lease is the ports of one container.
type Lease struct {
	ports    *Ports
	id       string
	bindings []Binding

	turn    chan struct{} // held while what follows is looked at or changed, I/O included
	sockets []socket
	handed  int        // how many of them the Carrier has
	to      netip.Addr // where they lead; the zero Addr until Serve
	carried bool       // the Carrier may have something of it
	over    bool
}

// A socket is bound for a binding.
type socket struct {
	*os.File
	binding Binding
}

// maxCarried is how many sockets of a container are listened to at most: who publishes ranges of thousands of ports has them
// by the packet filter only.
const maxCarried = 1024

// Bindings returns the ports, in the order in which they were asked for; IPv4 before IPv6.
func (l *Lease) Bindings() []Binding { return l.bindings }

// allFamilies are the unspecified addresses that "all addresses" stands for.
func allFamilies() []netip.Addr {
	out := []netip.Addr{netip.IPv4Unspecified()}
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); err == nil {
		out = append(out, netip.IPv6Unspecified())
	}
	return out
}

// Reserve reserves all ports of wants or, with an error in docker's words, none. The ID is the lease's, also for daemons
// that come later.
func (p *Ports) Reserve(id string, wants []Want) (*Lease, error) {
	l := &Lease{ports: p, id: id, turn: make(chan struct{}, 1)}
	for _, w := range wants {
		if err := l.reserve(w); err != nil {
			l.Close()
			return nil, err
		}
	}
	p.enter(l)
	return l, nil
}

func (p *Ports) enter(l *Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases[l] = true
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

// A takenError says that somebody has a port: a container, or another program. Of a range there are many, which nobody reads.
type takenError struct {
	binding Binding
	program bool
}

func (e *takenError) Error() string {
	if e.program {
		return fmt.Sprintf("failed to bind host port %s/%s: address already in use", e.binding.Host, e.binding.Container.Proto())
	}
	return fmt.Sprintf("Bind for %s failed: port is already allocated", e.binding.Host)
}

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
			var s *os.File
			if s, err = open(b); err == nil {
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
	if len(gone) == 0 { // as for each port of a range that is taken: looking at all sockets then would be cubic
		return
	}
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
		return &takenError{binding: b}
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

// open binds a socket.
func open(b Binding) (*os.File, error) {
	suffix := "4"
	if b.Host.Addr().Is6() {
		suffix = "6"
	}
	var s *os.File
	var err error
	// Go sets SO_REUSEADDR for TCP, so that connections in TIME_WAIT are in nobody's way, and IPV6_V6ONLY.
	switch b.Container.Proto() {
	case network.TCP:
		var ln net.Listener
		if ln, err = new(net.ListenConfig).Listen(context.Background(), "tcp"+suffix, b.Host.String()); err == nil {
			s, err = ln.(*net.TCPListener).File()
			ln.Close()
		}
	case network.UDP:
		var pc net.PacketConn
		if pc, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp"+suffix, b.Host.String()); err == nil {
			s, err = pc.(*net.UDPConn).File()
			pc.Close()
		}
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
		return nil, &takenError{binding: b, program: true}
	}
	return nil, fmt.Errorf("failed to bind host port %s/%s: %w", b.Host, b.Container.Proto(), errno)
}

func bindSCTP(a netip.AddrPort) (*os.File, error) {
	domain := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(a.Port())}
	if a.Addr().Is6() {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	} else {
		sa.(*unix.SockaddrInet4).Addr = a.Addr().As4()
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, err // the kernel has no SCTP, and containers have none either
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
func (p *Ports) Restore(id string, list []Binding) (*Lease, error) {
	l := &Lease{ports: p, id: id, turn: make(chan struct{}, 1), carried: true}
	for _, b := range list {
		if err := p.claim(b); err != nil {
			l.Leave()
			return nil, err
		}
		l.bindings = append(l.bindings, b)
	}
	l.open()
	p.enter(l)
	return l, nil
}

// open binds the sockets that the lease does not have, as far as they can be had. Those that a Carrier has are not.
func (l *Lease) open() {
	for _, b := range l.bindings {
		if slices.ContainsFunc(l.sockets, func(s socket) bool { return s.binding == b }) {
			continue
		}
		if s, err := open(b); err == nil {
			l.sockets = append(l.sockets, socket{s, b})
		}
	}
}

// Serve has what comes to the sockets carried to the container at ip. Called again, it leads new connections elsewhere.
func (l *Lease) Serve(ip netip.Addr) error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.to = ip
	return l.serve()
}

func (l *Lease) serve() error {
	if l.over || len(l.bindings) == 0 {
		return nil
	}
	var list []carry.Socket
	first := min(l.handed, len(l.sockets))
	for _, s := range l.sockets[first:min(len(l.sockets), maxCarried)] {
		if s.binding.Container.Proto() != network.SCTP {
			list = append(list, carry.Socket{File: s.File, Port: s.binding.Container.Num()})
		}
	}
	l.carried = true
	if err := l.ports.carrier.Carry(l.id, l.to, list); err != nil {
		return err
	}
	l.handed = len(l.sockets)
	return nil
}

// Again has all that was served carried anew, by a Carrier that has lost what it had.
func (p *Ports) Again() error {
	p.mu.Lock()
	list := slices.Collect(maps.Keys(p.leases))
	p.mu.Unlock()
	var errs []error
	for _, l := range list {
		errs = append(errs, l.again())
	}
	return errors.Join(errs...)
}

func (l *Lease) again() error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if !l.to.IsValid() || l.over {
		return nil
	}
	l.open()
	l.handed = 0
	return l.serve()
}

// Keep has the Carrier drop what no lease has, and none of others.
func (p *Ports) Keep(others ...string) error {
	p.mu.Lock()
	ids := slices.Clone(others)
	for l := range p.leases {
		ids = append(ids, l.id)
	}
	p.mu.Unlock()
	return p.carrier.Keep(ids)
}

// Close gives the ports back. It ends the connections that are carried. It is idempotent.
func (l *Lease) Close() (err error) {
	l.turn <- struct{}{}
	drop := l.carried && !l.over
	l.over = true
	<-l.turn
	if drop {
		err = l.ports.carrier.Drop(l.id)
	}
	l.Leave()
	return err
}

// Leave gives the ports back, but for what the Carrier has, which goes on.
func (l *Lease) Leave() {
	l.turn <- struct{}{}
	l.over = true
	for _, s := range l.sockets {
		s.Close()
	}
	l.sockets = nil
	bindings := l.bindings
	l.bindings = nil
	<-l.turn
	l.ports.release(bindings)
	l.ports.mu.Lock()
	defer l.ports.mu.Unlock()
	delete(l.ports.leases, l)
}
