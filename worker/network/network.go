// Package network gives containers their networks: the default bridge, networks that users make, the host's, none, or that
// of another container; with addresses, names, and ports that are published on the host.
//
// # Life cycle
//
//	Open ──> Restore, for each container that runs ──> Settle ──> Setup, Teardown, … ──> Close
//
// A network exists when meta.db has its record; its bridge is made when a container first needs it. What a running
// container has is described by a file in Options.Dir, which is written before anything is made and removed after
// everything has been taken away, and so are the paths of network namespaces. These, the veth pairs, the bridges and the
// nftables table outlive the daemon: containers keep their addresses, their connections and their published ports while it
// is away. The next one reads the files, and Settle gives back what belongs to containers that have ended, and what a
// killed daemon had begun to make. All names are made of the daemon's ID or marked with it, and nothing else is removed.
// The files are not synced, as nothing that they describe is there after a boot.
//
// Connections to published ports that the packet filter cannot lead, those to IPv6 addresses of containers without one and
// to ::1, are carried by a process that goes on, too: see package portmap/carry. While no daemon is there it answers at
// 127.0.0.11 as well, from the same files: see package names/away.
//
// # Locks
//
// A turn, one for each container and each network, is held while that is changed, I/O included; a container's is taken
// before networks', and after the lock of whoever runs the container, which is held for each call that is about one:
// Connect and Disconnect take it by Containers.EditEndpoint. Service.mu guards the tables and all fields of what is in them,
// and is held for no I/O.
package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/executor/netns"
	"github.com/boxbuild/boxbuild/executor/netns/stock"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/network/firewall"
	"github.com/boxbuild/boxbuild/worker/network/ipam"
	"github.com/boxbuild/boxbuild/worker/network/link"
	"github.com/boxbuild/boxbuild/worker/network/names"
	"github.com/boxbuild/boxbuild/worker/network/portmap"
	"github.com/boxbuild/boxbuild/worker/network/portmap/carry"
)

// Options say how to make networks.
type Options struct {
	// ID is the daemon's: 8 lower-case hexadecimal digits that no other daemon on this machine has.
	ID string
	// Dir is where namespaces and the descriptions of what containers have are: <root>/netns.
	Dir string
	// DB has the records of networks. Its transactions are synced.
	DB *bbolt.DB
	// Bridge is the name of the default network's bridge. The default is made of the ID.
	Bridge string
	// Subnet is the default network's; by default it is chosen from Pools when the daemon first runs. The address in it is
	// the bridge's, if it is not that of the network itself.
	Subnet netip.Prefix
	// Pools are where subnets come from; the default is docker's.
	Pools []ipam.Pool
	// MTU is that of networks for which nothing else is asked; by default that of the way out.
	MTU int
	// NoICC keeps containers on the default network from reaching each other.
	NoICC bool
	// ResolvConf is the host's file with the addresses of DNS servers; the default is /etc/resolv.conf.
	ResolvConf string
	// HostGateway is what host-gateway stands for; by default the default bridge's address.
	HostGateway []netip.Addr
	// Warm is how many namespaces are kept ready, once a container has been started. The default is 8.
	Warm int
	// PortsCommand makes the command of a process that carries connections to published ports while no daemon is there: it
	// calls carry.Serve. Without it they are carried by the daemon itself.
	PortsCommand func() *exec.Cmd
	// Connected counts a container that was joined to a network, which took so long. It does not block, and may be nil.
	Connected func(took time.Duration)
	// Events are told of networks; it may be nil.
	Events worker.Events
	// Log is told of what could not be given back; nil means slog.Default().
	Log *slog.Logger
}

var idPattern = regexp.MustCompile(`^[0-9a-f]{8}$`)

func (o *Options) setDefaults() error {
	if !idPattern.MatchString(o.ID) {
		return fmt.Errorf("id %q: want 8 hexadecimal digits", o.ID)
	}
	if o.Bridge == "" {
		o.Bridge = "bx0-" + o.ID
	}
	if !bridgeName.MatchString(o.Bridge) {
		return fmt.Errorf("bridge %q: want a name of at most 15 letters and digits", o.Bridge)
	}
	if o.Pools == nil {
		o.Pools = ipam.DefaultPools()
	}
	for _, p := range o.Pools {
		if err := p.Validate(); err != nil {
			return err
		}
	}
	if o.MTU != 0 && (o.MTU < 68 || o.MTU > 65535) {
		return fmt.Errorf("mtu %d: want 68 to 65535", o.MTU)
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Warm == 0 {
		o.Warm = 8
	}
	if o.Warm < 0 || o.Warm > 1000 {
		return fmt.Errorf("%d ready namespaces: want 1 to 1000", o.Warm)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return nil
}

// A Service gives containers their networks. It is safe for concurrent use.
type Service struct {
	opts     Options
	log      *slog.Logger
	now      func() time.Time
	host     *link.Host
	table    *firewall.Table
	ports    *portmap.Ports
	carrier  interface{ Close() }
	away     *carry.Client // answers for DNS servers while no daemon is there; nil if nobody does
	stock    *stock.Stock[*link.Namespace]
	stocking sync.Once // begins to fill it
	turns    turns
	grave    *grave
	upstream *netns.Upstream
	mtu      int // of networks for which nothing else is asked

	life context.Context //nolint:containedctx // the Service's own, whose goroutines it waits for
	end  context.CancelFunc
	work sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	ready      bool // the table has been made
	networks   map[string]*netw
	sandboxes  map[string]*sandbox // by container
	containers Containers          // may be nil

	// What an earlier daemon has left: veth pairs and files. They are not changed after Open.
	oldVeths, oldFiles []string
}

var _ worker.Networks = (*Service)(nil)

// Containers are what a Service needs of the containers, to connect them.
type Containers interface {
	// EditEndpoint calls f with what a container wants, found by name, ID or prefix of the ID, and stores what f returns for
	// a network: nil if it is not to be connected to it any more. Whoever starts and ends containers calls Setup and Teardown
	// with the same lock held, so that f has to take its own after that. With an error of f nothing is stored.
	EditEndpoint(ctx context.Context, ref, network string, f func(*worker.NetworkRequest) (*EndpointSettings, error)) error
}

// SetContainers is called once, before any request.
func (s *Service) SetContainers(c Containers) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers = c
}

// Open opens the networks whose records are in the database. It changes nothing on the host.
func Open(opts Options) (_ *Service, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening the networks: %w", err)
		}
	}()
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o711); err != nil {
		return nil, err
	}
	s := &Service{
		opts: opts, log: opts.Log, now: time.Now,
		networks: make(map[string]*netw), sandboxes: make(map[string]*sandbox),
		upstream: netns.NewUpstream(opts.ResolvConf),
	}
	s.openPorts()
	if s.host, err = link.Open(opts.ID); err != nil {
		return nil, err
	}
	if s.table, err = firewall.Open(opts.ID); err != nil {
		s.host.Close()
		return nil, err
	}
	s.mtu = opts.MTU
	if s.mtu == 0 {
		s.mtu = netns.OutsideMTU(s.host.Handle())
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.grave = newGrave(s.host, func(err error) { s.log.Warn("giving back the network of a container", "error", err) })
	s.goOn(func() { s.grave.dig(s.life) })
	s.stock = stock.New(stock.Options{Low: lowStock, High: opts.Warm}, func() (*link.Namespace, error) { return s.host.NewNamespace(s.mtu) })
	if err := errors.Join(s.loadNetworks(), s.loadSandboxes()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if _, s.oldVeths, err = s.host.Devices(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openPorts chooses who carries connections to published ports.
func (s *Service) openPorts() {
	if s.opts.PortsCommand == nil {
		t := carry.NewTable()
		s.carrier, s.ports = t, portmap.New(t)
		return
	}
	c := carry.NewClient(carry.ClientOptions{
		Dir: s.opts.Dir, Command: s.opts.PortsCommand, Lost: func(ctx context.Context) {
			s.log.Warn("the process for published ports has ended; it is started again")
			if err := s.ports.Again(); err != nil && ctx.Err() == nil {
				s.log.Error("carrying connections to published ports again", "error", err)
			}
			s.handAll()
		},
	})
	s.carrier, s.away, s.ports = c, c, portmap.New(c)
}

// Close ends what works in the background. Containers keep what they have; where none runs, nothing is left on the host.
func (s *Service) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	var leases []*portmap.Lease
	var servers []*names.Server
	for _, sb := range s.sandboxes {
		if sb.lease != nil {
			leases = append(leases, sb.lease)
		}
		if sb.dns != nil {
			servers = append(servers, sb.dns)
		}
	}
	idle := len(s.sandboxes) == 0
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.end()
	for _, l := range leases {
		l.Leave()
	}
	s.carrier.Close()
	for _, d := range servers {
		d.Close()
	}
	s.work.Wait()
	s.stock.Close((*link.Namespace).Close)
	for _, d := range s.grave.take() {
		s.grave.unpin(d)
		s.grave.removeVeths(d.veths)
	}
	var err error
	if idle {
		err = s.removeAll()
	}
	err = errors.Join(err, s.table.Close())
	s.host.Close()
	return err
}

// removeAll removes what there is on the host for no container in particular.
func (s *Service) removeAll() error {
	bridges, veths, err := s.host.Devices()
	errs := []error{err, s.table.Remove()}
	for _, v := range veths {
		errs = append(errs, s.host.RemoveVeth(v))
	}
	for _, b := range bridges {
		errs = append(errs, s.passage(b).Close(), s.host.RemoveBridge(b))
	}
	return errors.Join(errs...)
}

// passage is the way of a bridge's packets through other firewalls.
func (s *Service) passage(bridge string) netns.Passage {
	return netns.Passage{Tag: firewall.Name(s.opts.ID), Bridge: bridge, Published: true}
}

// goOn runs f in a goroutine that Close waits for, unless it has been called.
func (s *Service) goOn(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.work.Go(f)
}

// writeFile writes a file as a whole or not at all, if the daemon is killed. It is not synced.
func writeFile(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func (s *Service) path(name string) string { return filepath.Join(s.opts.Dir, name) }

// turns are locks that can be waited for with a context, by name.
type turns struct {
	mu    sync.Mutex
	locks map[string]*turn
}

type turn struct {
	slot chan struct{}
	refs int
}

// take takes the lock of that name. The caller calls the function that it returns.
func (t *turns) take(ctx context.Context, name string) (func(), error) {
	t.mu.Lock()
	if t.locks == nil {
		t.locks = make(map[string]*turn)
	}
	l := t.locks[name]
	if l == nil {
		l = &turn{slot: make(chan struct{}, 1)}
		t.locks[name] = l
	}
	l.refs++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if l.refs--; l.refs == 0 {
			delete(t.locks, name)
		}
	}
	select {
	case l.slot <- struct{}{}:
		return func() { <-l.slot; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
