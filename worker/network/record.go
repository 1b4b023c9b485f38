package network

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/executor/netns"
	"github.com/boxbuild/boxbuild/worker/network/firewall"
	"github.com/boxbuild/boxbuild/worker/network/ipam"
	"github.com/boxbuild/boxbuild/worker/network/link"
)

// bucket has the records of networks, as JSON, by ID.
var bucket = []byte("networks.v1")

// EndpointSettings are what a container asks for of a network.
type EndpointSettings = network.EndpointSettings

// The names of the networks that are always there, and the drivers, which are docker's.
const (
	nameBridge, nameHost, nameNone       = network.NetworkBridge, network.NetworkHost, network.NetworkNone
	driverBridge, driverHost, driverNone = "bridge", "host", "null"
)

// The options of the bridge driver, which are docker's.
const (
	optName    = "com.docker.network.bridge.name"
	optICC     = "com.docker.network.bridge.enable_icc"
	optMasq    = "com.docker.network.bridge.enable_ip_masquerade"
	optHostIP  = "com.docker.network.bridge.host_binding_ipv4"
	optMTU     = "com.docker.network.driver.mtu"
	optDefault = "com.docker.network.bridge.default_bridge"
)

var bridgeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)

// A record is what is stored of a network: what inspect shows of it.
type record struct {
	network.Network
	// Chosen says that nobody asked for its subnets.
	Chosen bool
}

// A netw is a network while the daemon runs. record and what follows from it are never changed.
type netw struct {
	record
	subnets  []*ipam.Subnet // IPv4 before IPv6
	gateways []netip.Addr   // of subnets; of internal networks, the bridge's addresses all the same

	// What follows is guarded by Service.mu.
	bridge    int                  // index; 0 until it has been made
	endpoints map[string]*endpoint // by container
	gone      bool                 // it is being removed
}

func newID() string {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// loadNetworks reads the records, and makes those of the networks that are always there. Nothing is written, which takes
// time when a daemon starts, unless something is new.
func (s *Service) loadNetworks() error {
	err := s.opts.DB.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(id, raw []byte) error {
			var rec record
			if err := json.Unmarshal(raw, &rec); err != nil {
				return fmt.Errorf("the record of network %s: %w", id, err)
			}
			n, err := newNetw(rec)
			if err != nil {
				return fmt.Errorf("the record of network %s: %w", id, err)
			}
			s.networks[rec.ID] = n
			return nil
		})
	})
	if err != nil {
		return err
	}
	var changed []*record
	for _, driver := range [][2]string{{nameBridge, driverBridge}, {nameHost, driverHost}, {nameNone, driverNone}} {
		rec, err := s.predefine(driver[0], driver[1])
		if err != nil {
			return err
		}
		if rec != nil {
			changed = append(changed, rec)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return s.store(changed...)
}

// predefine sees to it that there is a network that is always there, as the options have it, and returns its record if that
// is not the one that is stored.
func (s *Service) predefine(name, driver string) (*record, error) {
	rec := record{Network: network.Network{
		Name: name, Driver: driver, Scope: "local", Created: s.now().UTC(), EnableIPv4: true,
		IPAM: network.IPAM{Driver: "default"}, Options: map[string]string{}, Labels: map[string]string{},
	}}
	old := s.byName(name)
	if old != nil {
		rec.ID, rec.Created = old.ID, old.Created
	} else {
		rec.ID = newID()
	}
	if driver == driverBridge {
		if err := s.defaultBridge(&rec, old); err != nil {
			return nil, err
		}
	}
	n, err := newNetw(rec)
	if err != nil {
		return nil, err
	}
	s.networks[rec.ID] = n
	if old != nil && sameJSON(old.record, rec) {
		return nil, nil
	}
	return &rec, nil
}

func sameJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// defaultBridge completes the record of the default network. Its subnet stays the same while it can: containers may run.
func (s *Service) defaultBridge(rec *record, old *netw) error {
	cfg := network.IPAMConfig{Subnet: s.opts.Subnet.Masked()}
	switch {
	case s.opts.Subnet.IsValid():
		if s.opts.Subnet.Addr() != cfg.Subnet.Addr() {
			cfg.Gateway = s.opts.Subnet.Addr()
		}
	case old != nil && old.Chosen && len(old.IPAM.Config) > 0 && (s.host.Has(s.opts.Bridge) || s.isFree(old)):
		cfg, rec.Chosen = old.IPAM.Config[0], true
	default:
		used, err := s.usedPrefixes()
		if err != nil {
			return err
		}
		if cfg.Subnet, err = ipam.Choose(s.opts.Pools, used); err != nil {
			return err
		}
		rec.Chosen = true
	}
	if !cfg.Gateway.IsValid() {
		cfg.Gateway = cfg.Subnet.Addr().Next()
	}
	rec.IPAM.Config = []network.IPAMConfig{cfg}
	rec.Options = map[string]string{
		optDefault: "true", optName: s.opts.Bridge, optICC: strconv.FormatBool(!s.opts.NoICC), optMasq: "true",
		optHostIP: "0.0.0.0", optMTU: strconv.Itoa(s.mtu),
	}
	return nil
}

// isFree says whether the host uses nothing of a network's subnet, while its bridge is not there.
func (s *Service) isFree(n *netw) bool {
	used, err := netns.UsedPrefixes(s.host.Handle())
	return err == nil && !ipam.Overlaps(n.IPAM.Config[0].Subnet, used)
}

// usedPrefixes are those of the host's routes and of all networks.
func (s *Service) usedPrefixes() ([]netip.Prefix, error) {
	used, err := netns.UsedPrefixes(s.host.Handle())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.networks {
		for _, sub := range n.subnets {
			used = append(used, sub.Prefix)
		}
	}
	return used, nil
}

// store writes records, all or none of them.
func (s *Service) store(list ...*record) error {
	err := s.opts.DB.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		for _, rec := range list {
			var raw []byte
			if err == nil {
				raw, err = json.Marshal(rec)
			}
			if err == nil {
				err = b.Put([]byte(rec.ID), raw)
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("storing network %s: %w", list[0].Name, err)
	}
	return nil
}

// newNetw makes the address tables of a network.
func newNetw(rec record) (*netw, error) {
	n := &netw{record: rec, endpoints: make(map[string]*endpoint)}
	if rec.Driver != driverBridge || rec.ConfigOnly {
		return n, nil
	}
	for _, want6 := range []bool{false, true} {
		for _, c := range rec.IPAM.Config {
			if c.Subnet.Addr().Is6() != want6 {
				continue
			}
			if !c.Subnet.IsValid() || !c.Subnet.Contains(c.Gateway) {
				return nil, errors.New("a subnet without a gateway")
			}
			reserved := []netip.Addr{c.Gateway}
			for _, a := range c.AuxAddress {
				reserved = append(reserved, a)
			}
			n.subnets = append(n.subnets, ipam.NewSubnet(c.Subnet, c.IPRange, reserved...))
			n.gateways = append(n.gateways, c.Gateway)
		}
	}
	if len(n.subnets) == 0 {
		return nil, errors.New("it has no subnet")
	}
	return n, nil
}

// bridgeName is the name of the network's bridge.
func (n *netw) bridgeName() string {
	if name := n.Options[optName]; name != "" {
		return name
	}
	return "br-" + n.ID[:12]
}

// userDefined says whether somebody has made the network.
func (n *netw) userDefined() bool { return container.NetworkMode(n.Name).IsUserDefined() }

// option returns an option that is on unless it is false.
func (n *netw) option(name string) bool {
	on, err := strconv.ParseBool(n.Options[name])
	return err != nil || on
}

func (s *Service) mtuOf(n *netw) int {
	if v, err := strconv.Atoi(n.Options[optMTU]); err == nil && v > 0 {
		return v
	}
	return s.mtu
}

// rules are what the firewall knows of the network.
func (n *netw) rules() firewall.Network {
	out := firewall.Network{
		Bridge: n.bridgeName(), Internal: n.Internal, Isolated: !n.option(optICC), Masquerade: n.option(optMasq),
	}
	for _, sub := range n.subnets {
		out.Subnets = append(out.Subnets, sub.Prefix)
	}
	return out
}

// bridgeOf describes the network's bridge.
func (s *Service) bridgeOf(n *netw) *link.Bridge {
	b := &link.Bridge{Name: n.bridgeName(), MTU: s.mtuOf(n)}
	for i, sub := range n.subnets {
		b.Addrs = append(b.Addrs, netip.PrefixFrom(n.gateways[i], sub.Prefix.Bits()))
	}
	return b
}

// byName returns the network of that name, nil if there is none. Service.mu is held, or nobody else is there.
func (s *Service) byName(name string) *netw {
	for _, n := range s.networks {
		if n.Name == name {
			return n
		}
	}
	return nil
}
