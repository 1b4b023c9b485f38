package carry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxClients bounds the clients of a UDP port that are carried.
	maxClients = 1024
	// udpIdle is how long a client of a UDP port may be silent before it is forgotten.
	udpIdle = 90 * time.Second
	// dialTimeout is how long a container has to take a connection.
	dialTimeout = 10 * time.Second
)

// A lease is what is carried for a container. It owns its goroutines.
type lease struct {
	to   atomic.Pointer[netip.Addr]
	stop context.CancelFunc
	ctx  context.Context //nolint:containedctx // ends what is under way when the lease is closed
	work sync.WaitGroup

	mu    sync.Mutex
	conns map[io.Closer]bool // guarded by mu; sockets and connections; nil once closed
}

func newLease() *lease {
	l := &lease{conns: make(map[io.Closer]bool)}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// serve has what comes to a socket carried.
func (p *lease) serve(s Socket) error {
	typ, err := socketType(s.File)
	if err != nil {
		return err
	}
	if typ == unix.SOCK_DGRAM {
		pc, err := net.FilePacketConn(s.File)
		if err != nil {
			return err
		}
		if !p.add(pc) {
			return errors.Join(net.ErrClosed, pc.Close())
		}
		p.work.Go(func() { p.serveUDP(p.ctx, pc, s.Port) })
		return nil
	}
	ln, err := net.FileListener(s.File)
	if err != nil {
		return err
	}
	if !p.add(ln) {
		return errors.Join(net.ErrClosed, ln.Close())
	}
	p.work.Go(func() { p.serveTCP(p.ctx, ln, s.Port) })
	return nil
}

func socketType(f *os.File) (typ int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := rc.Control(func(fd uintptr) { typ, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE) })
	return typ, errors.Join(cerr, os.NewSyscallError("getsockopt", err))
}

// target is where connections lead now.
func (p *lease) target(port uint16) string { return netip.AddrPortFrom(*p.to.Load(), port).String() }

func (p *lease) close() {
	p.stop()
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for c := range conns {
		c.Close()
	}
	p.work.Wait()
}

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

// add has c closed by close. It says whether it is in time for that.
func (p *lease) add(c io.Closer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	p.conns[c] = true
	return true
}

// drop closes c.
func (p *lease) drop(c io.Closer) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	c.Close()
}

func (p *lease) serveTCP(ctx context.Context, ln net.Listener, port uint16) {
	for wait := time.Millisecond; ; {
		c, err := ln.Accept()
		if err == nil {
			wait = time.Millisecond
			p.work.Go(func() { p.carryTCP(ctx, c.(*net.TCPConn), p.target(port)) })
			continue
		}
		// Closed, or out of descriptors for a while.
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			wait = min(2*wait, time.Second)
		}
		if isClosed(err) {
			return
		}
	}
}

func (p *lease) carryTCP(ctx context.Context, client *net.TCPConn, to string) {
	if !p.add(client) {
		client.Close()
		return
	}
	defer p.drop(client)
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		_ = client.SetLinger(0) // a reset, as the container would have sent
		return
	}
	server := c.(*net.TCPConn)
	if !p.add(server) {
		server.Close()
		return
	}
	defer p.drop(server)
	done := make(chan struct{})
	p.work.Go(func() {
		defer close(done)
		_, _ = io.Copy(server, client)
		_ = server.CloseWrite()
		_ = client.CloseRead()
	})
	_, _ = io.Copy(client, server)
	_ = client.CloseWrite()
	_ = server.CloseRead()
	<-done
}

// serveUDP gives every client a socket of its own towards the container, by which answers find their way.
func (p *lease) serveUDP(ctx context.Context, pc net.PacketConn, port uint16) {
	var mu sync.Mutex
	clients := make(map[string]net.Conn) // guarded by mu
	buf := make([]byte, 65536)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil || isClosed(err) {
				return
			}
			continue
		}
		mu.Lock()
		c, count := clients[from.String()], len(clients)
		mu.Unlock()
		if c == nil {
			if count >= maxClients {
				continue
			}
			var d net.Dialer
			if c, err = d.DialContext(ctx, "udp", p.target(port)); err != nil {
				continue
			}
			if !p.add(c) {
				c.Close()
				return
			}
			mu.Lock()
			clients[from.String()] = c
			mu.Unlock()
			p.work.Go(func() {
				defer func() {
					mu.Lock()
					delete(clients, from.String())
					mu.Unlock()
					p.drop(c)
				}()
				answerUDP(pc, from, c)
			})
		}
		_ = c.SetReadDeadline(time.Now().Add(udpIdle))
		_, _ = c.Write(buf[:n]) // a container that does not listen is as if the packet were lost
	}
}

// answerUDP carries answers to a client until it has been silent for long.
func answerUDP(pc net.PacketConn, client net.Addr, server net.Conn) {
	buf := make([]byte, 65536)
	for {
		n, err := server.Read(buf)
		if isRefused(err) {
			continue // its server may come
		}
		if err != nil {
			return
		}
		_ = server.SetReadDeadline(time.Now().Add(udpIdle))
		if _, err := pc.WriteTo(buf[:n], client); err != nil {
			return
		}
	}
}
