package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/miekg/dns"
)

// maxQueries bounds the queries under way. maxWaiting bounds those that wait for their turn as well; more are dropped, as by a
// network that is overloaded.
const (
	maxQueries = 256
	maxWaiting = 4096
)

// A forwarder answers the sandboxes' DNS queries with the answers of the host's servers. It runs in the host's network
// namespace, so a server on loopback, such as systemd-resolved at 127.0.0.53, is as good as any.
type forwarder struct {
	port    uint16
	subnet  netip.Prefix
	udp     *dns.Server
	tcp     *dns.Server
	running sync.WaitGroup
	slots   chan struct{}   // held by queries under way
	waiting chan struct{}   // held by these and by those that wait
	ctx     context.Context //nolint:containedctx // ends queries when the forwarder is closed
	cancel  context.CancelFunc
	up      *Upstream
}

// startForwarder listens at addr, on a free port, for queries from subnet.
func startForwarder(addr netip.Addr, subnet netip.Prefix, resolvConf string) (*forwarder, error) {
	pc, ln, err := listenBoth(addr)
	if err != nil {
		return nil, fmt.Errorf("listening for DNS queries: %w", err)
	}
	f := &forwarder{
		port: uint16(ln.Addr().(*net.TCPAddr).Port), subnet: subnet, up: NewUpstream(resolvConf),
		slots: make(chan struct{}, maxQueries), waiting: make(chan struct{}, maxWaiting),
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
	case f.waiting <- struct{}{}:
		defer func() { <-f.waiting }()
	default:
		return
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-f.ctx.Done():
		return
	}
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	answer, err := f.up.Ask(f.ctx, q, overTCP, nil)
	if err != nil {
		answer = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	Fit(answer, q, overTCP)
	_ = w.WriteMsg(answer)
}
