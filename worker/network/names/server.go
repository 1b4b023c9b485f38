package names

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/miekg/dns"

	"github.com/boxbuild/boxbuild/worker/network/names/book"
)

const (
	// ttl is for how many seconds a container's address may be remembered.
	ttl = 600
	// maxQueries bounds the queries of a container that are under way.
	maxQueries = 100
)

// A Directory knows the names that a container can use. It is safe for concurrent use.
type Directory interface {
	// Addrs returns the addresses of a name without a dot at its end; known is false for one that is not a container's.
	Addrs(name string) (addrs []netip.Addr, known bool)
	// Name returns the name of the container that has an address, with its network's: "web.net"; "" if none has.
	Name(a netip.Addr) string
}

// An Asker asks other servers. It is safe for concurrent use.
type Asker func(ctx context.Context, q *dns.Msg, overTCP bool) (*dns.Msg, error)

// A Server answers the DNS queries of a container.
type Server struct {
	directory Directory
	ask       Asker // nil if the container is to reach nobody outside
	udp, tcp  *dns.Server
	files     []*os.File // the sockets, for whoever answers when the daemon does not
	slots     chan struct{}
	running   sync.WaitGroup
	ctx       context.Context //nolint:containedctx // ends queries when the server is closed
	cancel    context.CancelFunc
}

// Listen starts a server in a namespace: do runs a function on a thread that is in it, and fd is its descriptor.
func Listen(do func(func() error) error, fd int, d Directory, ask Asker) (*Server, error) {
	var pc net.PacketConn
	var ln net.Listener
	err := do(func() (err error) {
		pc, ln, err = listenBoth()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening for DNS queries: %w", err)
	}
	if err := redirect(fd, uint16(ln.Addr().(*net.TCPAddr).Port)); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for DNS queries: %w", err), pc.Close(), ln.Close())
	}
	s := &Server{directory: d, ask: ask, slots: make(chan struct{}, maxQueries)}
	if s.files, err = filesOf(pc, ln); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for DNS queries: %w", err), pc.Close(), ln.Close())
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.udp, s.tcp = &dns.Server{PacketConn: pc, Handler: s}, &dns.Server{Listener: ln, Handler: s, MaxTCPQueries: 128}
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		s.running.Go(func() { _ = srv.ActivateAndServe() })
		<-started // Shutdown of a server that has not started does nothing
	}
	return s, nil
}

// listenBoth listens on the same port for both protocols: not on 53, which a server in the container may want.
func listenBoth() (net.PacketConn, net.Listener, error) {
	var err error
	for range 16 {
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp4", netip.AddrPortFrom(Embedded, 0).String()); err != nil {
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

// filesOf returns the sockets once more.
func filesOf(pc net.PacketConn, ln net.Listener) ([]*os.File, error) {
	u, err := pc.(*net.UDPConn).File()
	if err != nil {
		return nil, err
	}
	t, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return []*os.File{u, t}, nil
}

// Files are the sockets for datagrams and for connections. They stay the Server's, until Close.
func (s *Server) Files() []*os.File { return s.files }

// Close ends all queries.
func (s *Server) Close() {
	for _, f := range s.files {
		_ = f.Close()
	}
	s.cancel()
	_ = s.udp.Shutdown()
	_ = s.tcp.Shutdown()
	s.running.Wait()
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	answer := s.answer(q)
	if answer == nil {
		answer = s.forward(q, overTCP)
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

// forward asks outside.
func (s *Server) forward(q *dns.Msg, overTCP bool) *dns.Msg {
	if s.ask == nil {
		return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return new(dns.Msg).SetRcode(q, dns.RcodeRefused)
	}
	answer, err := s.ask(s.ctx, q, overTCP)
	if err != nil {
		return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	return answer
}

// answer returns what the directory knows; nil if it knows nothing of the question.
func (s *Server) answer(q *dns.Msg) *dns.Msg {
	if len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		return nil
	}
	question := q.Question[0]
	out := new(dns.Msg).SetReply(q)
	out.RecursionAvailable = true
	head := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: ttl}
	if question.Qtype == dns.TypePTR {
		a, ok := book.ParseReverse(question.Name)
		if !ok {
			return nil
		}
		name := s.directory.Name(a)
		if name == "" {
			return nil
		}
		out.Answer = []dns.RR{&dns.PTR{Hdr: head, Ptr: dns.Fqdn(name)}}
		return out
	}
	addrs, known := s.directory.Addrs(trimDot(question.Name))
	if !known {
		return nil
	}
	for _, a := range addrs {
		switch {
		case question.Qtype == dns.TypeA && a.Is4():
			out.Answer = append(out.Answer, &dns.A{Hdr: head, A: a.AsSlice()})
		case question.Qtype == dns.TypeAAAA && a.Is6():
			out.Answer = append(out.Answer, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
	// Clients take the first, and so each of several containers of a name gets its part.
	rand.Shuffle(len(out.Answer), func(i, j int) { out.Answer[i], out.Answer[j] = out.Answer[j], out.Answer[i] })
	return out
}

func trimDot(name string) string {
	if n := len(name); n > 0 && name[n-1] == '.' {
		return name[:n-1]
	}
	return name
}
