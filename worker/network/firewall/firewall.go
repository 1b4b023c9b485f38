// Package firewall keeps the packet filter rules of container networks, in one nftables table that is the daemon's own.
// Being its own, neither Docker's, podman's and firewalld's rules nor their reloading touch it, and it touches none of
// theirs.
//
// The rules never change; what there is to say of a network or a published port is an element of a set or map, so that the
// cost of a packet does not grow with the number of containers, and publishing is one small transaction. Make replaces the
// whole table by what a State says, in one transaction: connections never meet a table that is half made.
//
// What the rules say:
//   - Packets of containers leave with the host's address (Network.Masquerade).
//   - A published port of a container is one of the host's, for others, for the host itself, also at 127.0.0.1, and for
//     containers, that one included. The container sees the client's address, except for packets from 127.0.0.1 and from
//     containers, which come from the bridge's.
//   - What has not been published cannot be reached from beyond the bridge, also not by who routes packets to a container's
//     address. What is published at 127.0.0.1 cannot be reached by packets to 127.0.0.1 that come from elsewhere.
//   - Networks cannot reach each other. Internal ones reach and are reached by nothing but the host.
package firewall

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// A Network is what the rules know of a network.
type Network struct {
	Bridge     string
	Subnets    []netip.Prefix
	Internal   bool
	Isolated   bool // containers of it cannot reach each other
	Masquerade bool
}

// A Publication is a port of the host's that leads to a container's.
type Publication struct {
	Proto uint8 // IPPROTO_TCP, …
	// Host is where the port is the host's. An unspecified address means all of its family.
	Host netip.AddrPort
	To   netip.AddrPort // of the same family
}

// A State is all that a table holds.
type State struct {
	Networks     []Network
	Publications []Publication
}

// A Table is the daemon's. It is safe for concurrent use.
type Table struct {
	name string
	// turn is held from the first message of a transaction to the kernel's last answer: the connection gathers the messages of
	// all who use it, and an answer goes to whoever reads first.
	turn chan struct{}
	conn *nftables.Conn
	t    *nftables.Table
	sets map[string]*nftables.Set
}

// Name is what the table of the daemon of that ID is called.
func Name(id string) string { return "boxbuild_" + id + "_run" }

// Open returns the table of the daemon of that ID. It does not make it. The caller closes it.
func Open(id string) (*Table, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	t := &Table{
		name: Name(id), turn: make(chan struct{}, 1), conn: c,
		t: &nftables.Table{Family: nftables.TableFamilyINet, Name: Name(id)},
	}
	t.sets = t.declare()
	return t, nil
}

// take takes the turn, until what it returns is called.
func (t *Table) take() func() {
	t.turn <- struct{}{}
	return func() { <-t.turn }
}

// Close closes the connection to the kernel. The table stays.
func (t *Table) Close() error { return t.conn.CloseLasting() }

// The names of sets and maps. Those that end in 4 or 6 are there for each family.
const (
	bridges  = "bridges"  // all bridges
	internal = "internal" // bridges of internal networks
	talking  = "talking"  // bridge and bridge: packets that may pass
	subnets  = "subnets"
	outward  = "outward" // subnets whose packets leave with the host's address
	ports    = "ports"   // protocol, address and port, to address and port
	anywhere = "anywhere"
)

// declare describes the sets.
func (t *Table) declare() map[string]*nftables.Set {
	out := make(map[string]*nftables.Set)
	add := func(s *nftables.Set) {
		s.Table = t.t
		out[s.Name] = s
	}
	name := nftables.TypeIFName
	add(&nftables.Set{Name: bridges, KeyType: name})
	add(&nftables.Set{Name: internal, KeyType: name})
	add(&nftables.Set{Name: talking, KeyType: nftables.MustConcatSetType(name, name), Concatenation: true})
	for family, addr := range map[string]nftables.SetDatatype{"4": nftables.TypeIPAddr, "6": nftables.TypeIP6Addr} {
		proto, port := nftables.TypeInetProto, nftables.TypeInetService
		add(&nftables.Set{Name: subnets + family, KeyType: addr, Interval: true})
		add(&nftables.Set{Name: outward + family, KeyType: addr, Interval: true})
		to := nftables.MustConcatSetType(addr, port)
		add(&nftables.Set{
			Name: ports + family, KeyType: nftables.MustConcatSetType(proto, addr, port), DataType: to, IsMap: true, Concatenation: true,
		})
		add(&nftables.Set{
			Name: anywhere + family, KeyType: nftables.MustConcatSetType(proto, port), DataType: to, IsMap: true, Concatenation: true,
		})
	}
	return out
}

// Make replaces the table by one that holds s.
func (t *Table) Make(s *State) error {
	defer t.take()()
	c := t.conn
	t.t = c.AddTable(t.t) // so that there is one to delete
	c.DelTable(t.t)
	c.AddTable(t.t)
	for _, set := range t.sets {
		set.ID = 0
		if err := c.AddSet(set, nil); err != nil {
			return fmt.Errorf("making nftables set %s: %w", set.Name, err)
		}
	}
	t.rules()
	var all []element
	for i := range s.Networks {
		all = append(all, networkElements(&s.Networks[i])...)
	}
	for _, p := range s.Publications {
		all = append(all, publicationElements(p)...)
	}
	all = grouped(all)
	first := min(len(all), maxMessages)
	if err := t.change(c.SetAddElements, all[:first]); err != nil {
		return err
	}
	if err := t.flush("making"); err != nil {
		return err
	}
	return t.commit(c.SetAddElements, all[first:], "making")
}

const (
	// maxElements is how many elements a message has at most: the length of its parts is a number of 16 bits.
	maxElements = 256
	// maxMessages is how many messages with elements are sent at a time: the kernel answers each, and answers for which the
	// socket has no room are lost. Transactions of more than maxElements times as many elements are several.
	maxMessages = 64
)

// grouped puts elements of the same set together.
func grouped(list []element) []element {
	var out []element
	last := make(map[string]int) // where elements of a set are added
	for _, e := range list {
		i, ok := last[e.set]
		if !ok || len(out[i].list)+len(e.list) > maxElements {
			i = len(out)
			last[e.set] = i
			out = append(out, element{set: e.set})
		}
		out[i].list = append(out[i].list, e.list...)
	}
	return out
}

// commit changes sets by what is grouped.
func (t *Table) commit(f func(*nftables.Set, []nftables.SetElement) error, list []element, doing string) error {
	for len(list) > 0 {
		n := min(len(list), maxMessages)
		if err := t.change(f, list[:n]); err != nil {
			return err
		}
		if err := t.flush(doing); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

func (t *Table) flush(doing string) error {
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("%s nftables table %s: %w", doing, t.name, err)
	}
	return nil
}

// Remove removes the table. That there is none is no error.
func (t *Table) Remove() error {
	defer t.take()()
	there, err := t.isThere()
	if err != nil || !there {
		return err
	}
	t.conn.DelTable(t.t)
	if err := t.flush("removing"); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// There says whether the table exists. The rules of one that does are complete, as it is made in one transaction; who
// removes single chains of it is on their own.
func (t *Table) There() (bool, error) {
	defer t.take()()
	return t.isThere()
}

func (t *Table) isThere() (bool, error) {
	_, err := t.conn.ListTableOfFamily(t.name, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for nftables table %s: %w", t.name, err)
	}
	return true, nil
}

// AddNetwork adds a network.
func (t *Table) AddNetwork(n *Network) error {
	defer t.take()()
	return t.commit(t.conn.SetAddElements, networkElements(n), "adding a network to")
}

// RemoveNetwork removes a network.
func (t *Table) RemoveNetwork(n *Network) error {
	defer t.take()()
	return t.remove(networkElements(n))
}

// Publish adds ports, all or none of them; of more than some thousand, some may stay when there is an error.
func (t *Table) Publish(list []Publication) error {
	defer t.take()()
	return t.publishAll(list)
}

func (t *Table) publishAll(list []Publication) error {
	var all []element
	for _, p := range list {
		all = append(all, publicationElements(p)...)
	}
	return t.commit(t.conn.SetAddElements, grouped(all), "publishing ports in")
}

// Replace makes ports that may be published already lead elsewhere.
func (t *Table) Replace(list []Publication) error {
	if len(list) == 0 {
		return nil
	}
	defer t.take()()
	if err := t.withdrawAll(list); err != nil {
		return err
	}
	return t.publishAll(list)
}

// Withdraw removes ports. Connections that there are go on.
func (t *Table) Withdraw(list []Publication) error {
	defer t.take()()
	return t.withdrawAll(list)
}

func (t *Table) withdrawAll(list []Publication) error {
	var all []element
	for _, p := range list {
		for _, e := range publicationElements(p) {
			e.list[0].Val = nil // wherever it leads
			all = append(all, e)
		}
	}
	return t.remove(all)
}

// remove removes elements, of which some may not be there any more.
func (t *Table) remove(list []element) error {
	err := t.commit(t.conn.SetDeleteElements, grouped(list), "changing")
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	// One is not there, and so none was removed; or there is no table.
	for _, e := range list {
		if err := t.change(t.conn.SetDeleteElements, []element{e}); err != nil {
			return err
		}
		if err := t.flush("changing"); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// An element is one of a set or map; the elements of an interval are one.
type element struct {
	set  string
	list []nftables.SetElement
}

func (t *Table) change(f func(*nftables.Set, []nftables.SetElement) error, list []element) error {
	for _, e := range list {
		if err := f(t.sets[e.set], e.list); err != nil {
			return fmt.Errorf("changing nftables set %s: %w", e.set, err)
		}
	}
	return nil
}

func networkElements(n *Network) []element {
	br := ifNameBytes(n.Bridge)
	one := func(set string, key []byte) element { return element{set, []nftables.SetElement{{Key: key}}} }
	out := []element{one(bridges, br)}
	if n.Internal {
		out = append(out, one(internal, br))
	}
	if !n.Isolated {
		out = append(out, one(talking, append(append([]byte(nil), br...), br...)))
	}
	for _, s := range n.Subnets {
		e := element{subnets + family(s.Addr()), interval(s)}
		out = append(out, e)
		if n.Masquerade && !n.Internal {
			out = append(out, element{outward + family(s.Addr()), e.list})
		}
	}
	return out
}

func publicationElements(p Publication) []element {
	key, set := padded([]byte{p.Proto}), anywhere
	if !p.Host.Addr().IsUnspecified() {
		key, set = append(key, p.Host.Addr().AsSlice()...), ports
	}
	key = append(key, padded(binaryutil.BigEndian.PutUint16(p.Host.Port()))...)
	to := append(p.To.Addr().AsSlice(), padded(binaryutil.BigEndian.PutUint16(p.To.Port()))...)
	return []element{{set + family(p.To.Addr()), []nftables.SetElement{{Key: key, Val: to}}}}
}

// padded fills a part of a concatenation to a multiple of four bytes, as the kernel wants it.
func padded(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }

func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}
