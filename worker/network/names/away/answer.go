package away

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/boxbuild/boxbuild/executor/netns/resolvconf"
	"github.com/boxbuild/boxbuild/worker/network/names/book"
)

const (
	// ttl is for how many seconds a container's address may be remembered.
	ttl = 600
	// askFor is how long a server outside has for an answer before the next one is asked.
	askFor = 2 * time.Second
	// minSize is what everybody can take, in bytes, who asks by datagram.
	minSize = 512
)

// answer returns what is to be said to a query; nil for what is none.
func (s *Server) answer(query []byte, overTCP bool) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil
	}
	questions, err := p.AllQuestions()
	if err != nil {
		return reply(head, nil, dnsmessage.RCodeFormatError, nil)
	}
	size := sizeFor(&p)
	if overTCP {
		size = 64<<10 - 1
	}
	if len(questions) == 1 && questions[0].Class == dnsmessage.ClassINET {
		if found, ok := s.look(questions[0]); ok {
			a := reply(head, questions, dnsmessage.RCodeSuccess, found)
			if len(a) > size {
				head.Truncated = true
				a = reply(head, questions, dnsmessage.RCodeSuccess, nil)
			}
			return a
		}
	}
	if s.cfg.Ask {
		if a, err := s.forward(query, overTCP); err == nil {
			if len(a) > size {
				head.Truncated = true
				return reply(head, questions, dnsmessage.RCodeSuccess, nil)
			}
			return a
		}
	}
	return reply(head, questions, dnsmessage.RCodeServerFailure, nil)
}

// sizeFor returns how long an answer by datagram may be, in bytes. The questions have been read.
func sizeFor(p *dnsmessage.Parser) int {
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return minSize
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return minSize
		}
		if h.Type == dnsmessage.TypeOPT {
			return max(minSize, int(h.Class))
		}
		if p.SkipAdditional() != nil {
			return minSize
		}
	}
}

// look returns what the book knows; ok is false if it knows nothing of the question.
func (s *Server) look(q dnsmessage.Question) (found []dnsmessage.ResourceBody, ok bool) {
	name := q.Name.String()
	if q.Type == dnsmessage.TypePTR {
		a, ok := book.ParseReverse(name)
		if !ok {
			return nil, false
		}
		host, err := dnsmessage.NewName(s.book.Name(a) + ".")
		if err != nil || host.String() == "." {
			return nil, false
		}
		return []dnsmessage.ResourceBody{&dnsmessage.PTRResource{PTR: host}}, true
	}
	addrs, known := s.book.Addrs(strings.TrimSuffix(name, "."))
	for _, a := range addrs {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			found = append(found, &dnsmessage.AResource{A: a.As4()})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			found = append(found, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	// Clients take the first, and so each of several containers of a name gets its part.
	mathrand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	return found, known
}

// reply makes an answer to the query with that header; nil if it cannot be written.
func reply(q dnsmessage.Header, questions []dnsmessage.Question, code dnsmessage.RCode, found []dnsmessage.ResourceBody) []byte {
	m := dnsmessage.Message{Questions: questions, Header: dnsmessage.Header{
		ID: q.ID, Response: true, OpCode: q.OpCode, RecursionDesired: q.RecursionDesired, RecursionAvailable: true,
		CheckingDisabled: q.CheckingDisabled, Truncated: q.Truncated, RCode: code,
	}}
	for _, body := range found {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: questions[0].Name, Class: dnsmessage.ClassINET, TTL: ttl}, Body: body,
		})
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// forward returns the first answer that a server outside gives.
func (s *Server) forward(query []byte, overTCP bool) (refused []byte, err error) {
	servers := s.cfg.Servers
	if len(servers) == 0 {
		conf, err := resolvconf.Read(s.cfg.ResolvConf)
		if err != nil {
			return nil, err
		}
		if servers = conf.Servers; len(servers) == 0 {
			servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
		}
	}
	for _, server := range servers {
		a, aerr := s.exchange(query, netip.AddrPortFrom(server, 53).String(), overTCP)
		if aerr != nil {
			err = aerr
			continue
		}
		if code := dnsmessage.RCode(a[3] & 0xf); code != dnsmessage.RCodeServerFailure && code != dnsmessage.RCodeRefused {
			return a, nil
		}
		refused = a
	}
	if refused != nil {
		return refused, nil
	}
	return nil, err
}

var errForeign = errors.New("an answer to another question")

// exchange asks a server. The ID is a new one: one that the container does not know can't be guessed with its help.
func (s *Server) exchange(query []byte, server string, overTCP bool) ([]byte, error) {
	proto := "udp"
	if overTCP {
		proto = "tcp"
	}
	d := net.Dialer{Timeout: askFor}
	c, err := d.DialContext(s.ctx, proto, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(askFor))
	ask := append([]byte(nil), query...)
	_, _ = rand.Read(ask[:2]) // never fails
	if overTCP {
		err = writeMessage(c, ask)
	} else {
		_, err = c.Write(ask)
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		a := buf
		if overTCP {
			a, err = readMessage(c)
		} else {
			var n int
			n, err = c.Read(buf)
			a = buf[:n]
		}
		if err != nil {
			return nil, err
		}
		if len(a) >= 12 && a[2]&0x80 != 0 && binary.BigEndian.Uint16(a) == binary.BigEndian.Uint16(ask) {
			a = append([]byte(nil), a...)
			copy(a, query[:2])
			return a, nil
		}
		if overTCP {
			return nil, errForeign
		}
	}
}
