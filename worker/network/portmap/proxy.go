package portmap

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxProxied is how many sockets of a container are listened to at most: who publishes ranges of thousands of ports
	// has them by the packet filter only.
	maxProxied = 1024
	// maxClients bounds the clients of a UDP port that are carried.
	maxClients = 1024
	// udpIdle is how long a client of a UDP port may be silent before it is forgotten.
	udpIdle = 90 * time.Second
	// dialTimeout is how long a container has to take a connection.
	dialTimeout = 10 * time.Second
)

// proxies carry connections.
type proxies struct {
	stop context.CancelFunc // nil until Serve is called
	to   atomic.Value       // a netip.Addr
	work sync.WaitGroup

	mu    sync.Mutex
	conns map[io.Closer]bool // guarded by mu; nil once closed
}

// Serve carries what comes to the sockets to the container at ip. Called again, it leads new connections elsewhere.
func (l *Lease) Serve(ip netip.Addr) {
	p := &l.proxies
	p.to.Store(ip)
	if p.stop != nil {
		return
	}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	p.conns = make(map[io.Closer]bool)
	for i, s := range l.sockets {
		if i == maxProxied {
			return
		}
		port := s.binding.Container.Num()
		switch c := s.Closer.(type) {
		case net.Listener:
			p.work.Go(func() { p.serveTCP(ctx, c, port) })
		case net.PacketConn:
			p.work.Go(func() { p.serveUDP(ctx, c, port) })
		}
	}
}

// target is where connections lead now.
func (p *proxies) target(port uint16) string {
	return netip.AddrPortFrom(p.to.Load().(netip.Addr), port).String()
}

func (p *proxies) close() {
	if p.stop == nil {
		return
	}
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

// add has c closed by close. It says whether it is in time for that.
func (p *proxies) add(c io.Closer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	p.conns[c] = true
	return true
}

// drop closes c.
func (p *proxies) drop(c io.Closer) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	c.Close()
}

func (p *proxies) serveTCP(ctx context.Context, ln net.Listener, port uint16) {
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

func (p *proxies) carryTCP(ctx context.Context, client *net.TCPConn, to string) {
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
func (p *proxies) serveUDP(ctx context.Context, pc net.PacketConn, port uint16) {
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
