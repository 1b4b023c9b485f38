package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// upstreamTimeout is how long a server has for an answer before the next one is asked.
	upstreamTimeout = 2 * time.Second
	// maxQueries bounds the queries under way; a sandbox that asks more waits for its own answers.
	maxQueries = 256
)

// A forwarder answers the sandboxes' DNS queries with the answers of the host's servers. It runs in the host's network
// namespace, so a server on loopback, such as systemd-resolved at 127.0.0.53, is as good as any.
type forwarder struct {
	port    uint16
	subnet  netip.Prefix
	udp     *dns.Server
	tcp     *dns.Server
	running sync.WaitGroup
	slots   chan struct{}
	ctx     context.Context //nolint:containedctx // ends queries when the forwarder is closed
	cancel  context.CancelFunc
	path    string

	mu     sync.Mutex
	conf   *resolvConf // guarded by mu
	mtime  time.Time   // guarded by mu; of the file that conf is from
	looked time.Time   // guarded by mu; when the file was looked at
}

// startForwarder listens at addr, on a free port, for queries from subnet.
func startForwarder(addr netip.Addr, subnet netip.Prefix, resolvConf string) (*forwarder, error) {
	pc, ln, err := listenBoth(addr)
	if err != nil {
		return nil, fmt.Errorf("listening for DNS queries: %w", err)
	}
	f := &forwarder{
		port: uint16(ln.Addr().(*net.TCPAddr).Port), subnet: subnet, path: resolvConf,
		slots: make(chan struct{}, maxQueries),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.udp = &dns.Server{PacketConn: pc, Handler: f}
	f.tcp = &dns.Server{Listener: ln, Handler: f, MaxTCPQueries: 128}
	for _, s := range []*dns.Server{f.udp, f.tcp} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		f.running.Go(func() { _ = s.ActivateAndServe() })
		<-started // Shutdown of a server that has not started does nothing
	}
	return f, nil
}

// listenBoth listens on the same port for both protocols.
func listenBoth(addr netip.Addr) (net.PacketConn, net.Listener, error) {
	var err error
	for range 16 {
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp4", netip.AddrPortFrom(addr, 0).String()); err != nil {
			return nil, nil, err
		}
		var ln net.Listener
		if ln, err = net.Listen("tcp4", pc.LocalAddr().String()); err == nil {
			return pc, ln, nil
		}
		pc.Close()
	}
	return nil, nil, err
}

// close ends all queries.
func (f *forwarder) close() error {
	f.cancel()
	err := errors.Join(f.udp.Shutdown(), f.tcp.Shutdown())
	f.running.Wait()
	return err
}

// ServeDNS implements dns.Handler.
func (f *forwarder) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil || !f.subnet.Contains(from.Addr().Unmap()) {
		return // not one of ours: no answer, as if nobody were here
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-f.ctx.Done():
		return
	}
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	answer, err := f.ask(q, overTCP)
	if err != nil {
		answer = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	if !overTCP {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		answer.Truncate(size)
	}
	_ = w.WriteMsg(answer)
}

// ask returns the first answer that a server gives.
func (f *forwarder) ask(q *dns.Msg, overTCP bool) (*dns.Msg, error) {
	client := &dns.Client{Net: "udp", Timeout: upstreamTimeout, UDPSize: dns.MaxMsgSize}
	if overTCP {
		client.Net = "tcp"
	}
	var refused *dns.Msg
	err := errors.New("no server")
	for _, s := range f.servers() {
		// A new ID for each server: one that the sandbox does not know can't be guessed with its help.
		ask := q.Copy()
		ask.Id = dns.Id()
		var a *dns.Msg
		a, _, err = client.ExchangeContext(f.ctx, ask, net.JoinHostPort(s.String(), strconv.Itoa(53)))
		if err != nil {
			continue
		}
		a.Id = q.Id
		if a.Rcode == dns.RcodeServerFailure || a.Rcode == dns.RcodeRefused {
			refused = a
			continue
		}
		return a, nil
	}
	if refused != nil {
		return refused, nil
	}
	return nil, err
}

// servers returns the host's servers. The file is read again when it has changed, which is looked for once a second.
func (f *forwarder) servers() []netip.Addr {
	f.mu.Lock()
	conf, mtime, fresh := f.conf, f.mtime, time.Since(f.looked) < time.Second
	f.mu.Unlock()
	if conf != nil && fresh {
		return conf.servers
	}
	var now time.Time
	if fi, err := os.Stat(f.path); err == nil {
		now = fi.ModTime()
	}
	if conf == nil || now != mtime {
		if c, err := readResolvConf(f.path); err == nil {
			conf = c
		}
	}
	if conf == nil {
		return nil
	}
	f.mu.Lock()
	f.conf, f.mtime, f.looked = conf, now, time.Now()
	f.mu.Unlock()
	return conf.servers
}
