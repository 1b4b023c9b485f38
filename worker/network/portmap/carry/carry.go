// Package carry carries connections to containers that the packet filter cannot lead there: those from ::1, and those to IPv6
// addresses of containers that have none. The container sees the bridge's address as the client's, never a loopback one
// (CVE-2021-20199).
//
// It is done by a Table, in whatever process: in that of the daemon, or in one that goes on when the daemon ends, which is
// "boxshim ports", so that published ports work, and connections last, while no daemon is there. Client talks to that
// process, which it starts when it is first needed and finds again by a socket in the daemon's directory; Serve is the
// process. One process carries for all containers of a daemon. It ends when it has no socket and no daemon is connected.
//
// The process also answers for the DNS servers of containers while no daemon is connected, with copies of their sockets:
// package names/away.
//
// Locks: Table.mu guards the tables, a lease's mu its connections, a names' mu its server, Client.mu the connection to the
// process. They are leaves, and are held for no I/O. A server's mu comes before those of its table. Client.turn is held for a
// call.
package carry

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
)

// A Socket is one that a port is published by.
type Socket struct {
	File *os.File // listens, or is bound for datagrams
	Port uint16   // the container's
}

// A Carrier carries for containers, which it knows by IDs. It is safe for concurrent use.
type Carrier interface {
	// Carry adds sockets to those of id, and has what comes to any of them carried to the address from now on. The files
	// stay the caller's.
	Carry(id string, to netip.Addr, sockets []Socket) error
	// Drop closes the sockets of id and the connections that came by them. It has been done when Drop returns. That there
	// are none is no error.
	Drop(id string) error
	// Keep drops all but those of ids.
	Keep(ids []string) error
}

// A Table is a Carrier that does it itself, until Close.
type Table struct {
	mu     sync.Mutex
	leases map[string]*lease // guarded by mu
	names  map[string]*names // guarded by mu
	closed bool              // guarded by mu
}

var _ Carrier = (*Table)(nil)

// NewTable returns an empty Table.
func NewTable() *Table {
	return &Table{leases: make(map[string]*lease), names: make(map[string]*names)}
}

// Carry implements Carrier.
func (t *Table) Carry(id string, to netip.Addr, sockets []Socket) error {
	t.mu.Lock()
	l := t.leases[id]
	if l == nil && !t.closed {
		l = newLease()
		t.leases[id] = l
	}
	t.mu.Unlock()
	if l == nil {
		return net.ErrClosed
	}
	l.to.Store(&to)
	for _, s := range sockets {
		if err := l.serve(s); err != nil {
			return fmt.Errorf("carrying connections to port %d of a container: %w", s.Port, err)
		}
	}
	return nil
}

// Drop implements Carrier.
func (t *Table) Drop(id string) error {
	t.mu.Lock()
	l, n := t.leases[id], t.names[id]
	delete(t.leases, id)
	delete(t.names, id)
	t.mu.Unlock()
	if l != nil {
		l.close()
	}
	if n != nil {
		n.close()
	}
	return nil
}

// Keep implements Carrier.
func (t *Table) Keep(ids []string) error {
	keep := make(map[string]bool, len(ids))
	for _, id := range ids {
		keep[id] = true
	}
	t.mu.Lock()
	var gone []string
	for id := range t.leases {
		if !keep[id] {
			gone = append(gone, id)
		}
	}
	for id := range t.names {
		if !keep[id] {
			gone = append(gone, id)
		}
	}
	t.mu.Unlock()
	for _, id := range gone {
		_ = t.Drop(id)
	}
	return nil
}

// empty says whether there is nothing to carry.
func (t *Table) empty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.leases) == 0 && len(t.names) == 0
}

// Close drops all. Nothing can be carried any more.
func (t *Table) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	_ = t.Keep(nil)
}
