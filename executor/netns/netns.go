// Package netns gives sandboxes their networks: network namespaces, joined by veth pairs to one bridge for each daemon,
// with source NAT to the outside and a DNS forwarder at the bridge's address.
//
// Life cycle: New removes what a killed daemon with the same ID left, and makes nothing. The first call of Bridge or
// ResolvConf makes the bridge, the nftables table and the forwarder; Isolated needs none of them. From then on a few
// namespaces are kept ready, and one goroutine makes new ones as they are taken. A namespace is used by one sandbox and
// then closed, soon, never used again, so that nothing (connections in TIME_WAIT, neighbours, counters) passes from one to the
// next; the kernel takes its devices down in the background. Close ends everything.
//
// Namespaces are held by file descriptors only: when the daemon is killed they vanish with it, and with them the veth
// pairs. What remains, the bridge and the table, has names made of the ID, and is removed by the next New with that ID.
//
// What a sandbox can reach: the outside, through NAT; port 53 of the bridge's address, where the forwarder answers; and
// nothing else. Packets to any other port or address of the host are rejected, whatever listens there (CVE-2025-9074);
// sandboxes can't reach each other, as their bridge ports are isolated; nobody can reach a sandbox. There is no IPv6 on
// the bridge: router advertisements are ignored and IPv6 is off on eth0, while lo has ::1 (CVE-2020-13401,
// CVE-2024-32473).
//
// Locks: Pool.setup is held while the network is made, and may be held for long; Pool.mu guards the rest of the fields
// and is never held during I/O.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"sync"

	"github.com/boxbuild/boxbuild/executor/netns/resolvconf"
	"github.com/boxbuild/boxbuild/executor/netns/stock"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the network is closed")

// Options say how to make the network.
type Options struct {
	// ID is the daemon's: 8 lower-case hexadecimal digits that no other daemon on this machine has.
	ID string
	// Range is where the daemon's own subnet is taken from; the default is 10.192.0.0/10. A subnet is a /20, and is
	// chosen so that it overlaps no route of the host's.
	Range netip.Prefix
	// Warm is how many namespaces of each kind are kept ready, once one has been asked for; eight times as many are when
	// none has been asked for lately. The default is 4.
	Warm int
	// ResolvConf is the host's file with the addresses of DNS servers; the default is /etc/resolv.conf.
	ResolvConf string
	// HostAccess lets sandboxes reach whatever listens on the host, as they can in Docker.
	HostAccess bool
}

var idPattern = regexp.MustCompile(`^[0-9a-f]{8}$`)

func (o *Options) setDefaults() error {
	if !idPattern.MatchString(o.ID) {
		return fmt.Errorf("netns: id %q: want 8 hexadecimal digits", o.ID)
	}
	if !o.Range.IsValid() {
		o.Range = netip.MustParsePrefix("10.192.0.0/10")
	}
	if !o.Range.Addr().Is4() || o.Range.Bits() > subnetBits {
		return fmt.Errorf("netns: range %s: want an IPv4 prefix of at most %d bits", o.Range, subnetBits)
	}
	o.Range = o.Range.Masked()
	if o.Warm == 0 {
		o.Warm = 4
	}
	if o.Warm < 0 || o.Warm > 1000 {
		return fmt.Errorf("netns: %d ready namespaces: want 1 to 1000", o.Warm)
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	return nil
}

// reserved is a stock that is filled from when it is first asked.
type reserved struct {
	*stock.Stock[*namespace]
	started sync.Once
}

// A Pool hands out network namespaces. It is safe for concurrent use.
type Pool struct {
	opts Options

	setup sync.Mutex // held while net is made
	mu    sync.Mutex
	net   *network // guarded by mu; nil until it is needed
	done  bool     // guarded by mu; Close has been called

	bridged, isolated *reserved
	grave             grave
	stop              context.CancelFunc
	stopped           context.Context //nolint:containedctx // it ends with the pool, as the work in the background does
	work              sync.WaitGroup
}

// New returns a Pool. Nothing is made yet, but what is left of a daemon with the same ID is removed.
func New(opts Options) (*Pool, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	if err := removeNetwork(opts.ID); err != nil {
		return nil, err
	}
	p := &Pool{opts: opts}
	p.stopped, p.stop = context.WithCancel(context.Background())
	ready := stock.Options{Low: opts.Warm, High: opts.Warm * reserve}
	p.bridged = &reserved{Stock: stock.New(ready, p.makeBridged)}
	p.isolated = &reserved{Stock: stock.New(ready, makeIsolated)}
	return p, nil
}

// Bridge returns a namespace that is joined to the bridge. release closes it; the caller must not use the file after
// that, and no process may be in it any more.
func (p *Pool) Bridge(ctx context.Context) (ns *os.File, release func(), err error) {
	if _, err := p.network(); err != nil {
		return nil, nil, err
	}
	return p.take(ctx, p.bridged)
}

// Isolated returns a namespace with nothing but lo, which is up. release is as for Bridge.
func (p *Pool) Isolated(ctx context.Context) (ns *os.File, release func(), err error) {
	return p.take(ctx, p.isolated)
}

func (p *Pool) take(ctx context.Context, s *reserved) (*os.File, func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, context.Cause(ctx)
	}
	p.mu.Lock()
	if p.done {
		p.mu.Unlock()
		return nil, nil, ErrClosed
	}
	s.started.Do(func() { p.work.Go(func() { s.Fill(p.stopped) }) })
	p.mu.Unlock()
	n, err := s.Take()
	if err != nil {
		return nil, nil, err
	}
	return n.file, func() { p.grave.add(n) }, nil
}

// network makes the network if there is none yet.
func (p *Pool) network() (*network, error) {
	p.setup.Lock()
	defer p.setup.Unlock()
	p.mu.Lock()
	n, done := p.net, p.done
	p.mu.Unlock()
	if done {
		return nil, ErrClosed
	}
	if n != nil {
		return n, nil
	}
	n, err := makeNetwork(&p.opts)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.net = n
	p.mu.Unlock()
	return n, nil
}

func (p *Pool) makeBridged() (*namespace, error) {
	p.mu.Lock()
	n := p.net
	p.mu.Unlock()
	if n == nil {
		return nil, ErrClosed // since the caller looked
	}
	return n.makeNamespace()
}

// ResolvConf returns what /etc/resolv.conf of a sandbox on the bridge is to contain: the forwarder's address, and the
// search list and options of the host's file.
func (p *Pool) ResolvConf() ([]byte, error) {
	n, err := p.network()
	if err != nil {
		return nil, err
	}
	conf, err := resolvconf.Read(p.opts.ResolvConf)
	if err != nil {
		return nil, err
	}
	return conf.Asking(n.gateway).File(), nil
}

// Gateway returns the bridge's address, and the subnet that it is in.
func (p *Pool) Gateway() (netip.Prefix, error) {
	n, err := p.network()
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(n.gateway, subnetBits), nil
}

// Close removes everything. No sandbox may be in a namespace of the pool any more. It is idempotent.
func (p *Pool) Close() error {
	p.setup.Lock()
	defer p.setup.Unlock()
	p.mu.Lock()
	p.done = true
	n := p.net
	p.net = nil
	p.mu.Unlock()
	p.stop()
	p.work.Wait()
	p.grave.empty()
	p.bridged.Close((*namespace).close)
	p.isolated.Close((*namespace).close)
	if n == nil {
		return nil
	}
	return n.close()
}
