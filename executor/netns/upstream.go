package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/boxbuild/boxbuild/executor/netns/resolvconf"
)

// upstreamTimeout is how long a server has for an answer before the next one is asked.
const upstreamTimeout = 2 * time.Second

// An Upstream asks the host's DNS servers, from the host's network namespace. It is safe for concurrent use.
type Upstream struct {
	path string

	mu     sync.Mutex
	conf   *resolvconf.Conf // guarded by mu
	mtime  time.Time        // guarded by mu; of the file that conf is from
	looked time.Time        // guarded by mu; when the file was looked at
}

// NewUpstream returns an Upstream whose servers are those of a resolv.conf(5).
func NewUpstream(resolvConf string) *Upstream { return &Upstream{path: resolvConf} }

// Fit cuts an answer to what whoever asked q can take.
func Fit(answer, q *dns.Msg, overTCP bool) {
	if overTCP {
		return
	}
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	answer.Truncate(size)
}

// Ask returns the first answer that a server gives: one of servers or, if that is empty, of the host's.
func (u *Upstream) Ask(ctx context.Context, q *dns.Msg, overTCP bool, servers []netip.Addr) (*dns.Msg, error) {
	client := &dns.Client{Net: "udp", Timeout: upstreamTimeout, UDPSize: dns.MaxMsgSize}
	if overTCP {
		client.Net = "tcp"
	}
	var refused *dns.Msg
	err := errors.New("no server")
	if len(servers) == 0 {
		servers = u.servers()
	}
	for _, s := range servers {
		// A new ID for each server: one that the sandbox does not know can't be guessed with its help.
		ask := q.Copy()
		ask.Id = dns.Id()
		var a *dns.Msg
		a, _, err = client.ExchangeContext(ctx, ask, net.JoinHostPort(s.String(), strconv.Itoa(53)))
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
func (u *Upstream) servers() []netip.Addr {
	u.mu.Lock()
	conf, mtime, fresh := u.conf, u.mtime, time.Since(u.looked) < time.Second
	u.mu.Unlock()
	if conf != nil && fresh {
		return orHere(conf.Servers)
	}
	var now time.Time
	if fi, err := os.Stat(u.path); err == nil {
		now = fi.ModTime()
	}
	if conf == nil || now != mtime {
		if c, err := resolvconf.Read(u.path); err == nil {
			conf = c
		}
	}
	if conf == nil {
		return nil
	}
	u.mu.Lock()
	u.conf, u.mtime, u.looked = conf, now, time.Now()
	u.mu.Unlock()
	return orHere(conf.Servers)
}

// orHere returns servers; without one, the one on this host is meant.
func orHere(servers []netip.Addr) []netip.Addr {
	if len(servers) > 0 {
		return servers
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
}
