package carry

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/boxbuild/boxbuild/worker/network/names/away"
)

// Names has the process answer the DNS queries that come to two sockets, one for datagrams and one that listens, from the
// time on that no daemon is connected until Drop, or until others come for the same ID. It starts the process if there is
// none. The files stay the caller's.
func (c *Client) Names(id string, cfg away.Config, files []*os.File) error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.ids[id] = true
	if err := c.ask(&call{Op: opNames, ID: id, Names: &cfg}, files, true); err != nil {
		return fmt.Errorf("having the names of a container answered later: %w", err)
	}
	return nil
}

// names are the DNS sockets of a container.
type names struct {
	cfg away.Config
	pc  net.PacketConn
	ln  net.Listener

	mu     sync.Mutex
	server *away.Server // guarded by mu; nil while the daemon answers
	closed bool         // guarded by mu
}

// answerLater keeps the sockets of a container for leave. Those it had are closed: what is asked comes to the new ones.
func (t *Table) answerLater(id string, cfg away.Config, udp, tcp *os.File) error {
	pc, err := net.FilePacketConn(udp)
	if err != nil {
		return err
	}
	ln, err := net.FileListener(tcp)
	if err != nil {
		return errors.Join(err, pc.Close())
	}
	n := &names{cfg: cfg, pc: pc, ln: ln}
	t.mu.Lock()
	old, closed := t.names[id], t.closed
	if !closed {
		t.names[id] = n
	}
	t.mu.Unlock()
	if old != nil {
		old.close()
	}
	if closed {
		n.close()
		return net.ErrClosed
	}
	return nil
}

// leave answers for all containers for which nobody does: no daemon is there.
func (t *Table) leave() {
	t.mu.Lock()
	list := make([]*names, 0, len(t.names))
	for _, n := range t.names {
		list = append(list, n)
	}
	t.mu.Unlock()
	for _, n := range list {
		n.serve()
	}
}

func (n *names) serve() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server == nil && !n.closed {
		n.server = away.Serve(n.cfg, n.pc, n.ln)
	}
}

func (n *names) close() {
	n.mu.Lock()
	s := n.server
	n.closed = true
	n.mu.Unlock()
	if s != nil {
		s.Close()
		return
	}
	_ = n.pc.Close()
	_ = n.ln.Close()
}
