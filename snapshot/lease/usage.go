package lease

import (
	"context"
	"fmt"
)

// A Use is an item and who uses it.
type Use struct {
	Info
	Class Class
	// InUse means that the item is held, or kept by something that is held or Pinned. It cannot be evicted.
	InUse bool
	// Shared means that more than one Pinned or Cached item keeps it.
	Shared bool
	// Owner is one Pinned or Cached item that keeps the item, if there is any.
	Owner Item
}

// Usage returns all items of Plain and Cached sources, each after those that refer to it. It is what a listing of the
// disk's usage is made from. The sizes of Plain items add up to what the store takes; what can be freed is the sum of
// those not in use.
func (m *Manager) Usage(ctx context.Context) ([]Use, error) {
	g, err := m.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("accounting usage: %w", err)
	}
	held := make(map[Item]struct{})
	m.mu.Lock()
	for item := range m.held {
		held[item] = struct{}{}
	}
	m.mu.Unlock()

	// What is known of a node flows down to what it refers to.
	type state struct {
		inUse bool
		owner *node // one Pinned or Cached item that keeps it
		more  bool  // there is another one
	}
	states := make(map[*node]*state, len(g.nodes))
	at := func(n *node) *state {
		s := states[n]
		if s == nil {
			s = new(state)
			states[n] = s
		}
		return s
	}
	var uses []Use
	for _, n := range g.sorted() {
		s := at(n)
		if _, ok := held[n.Item]; ok || n.class == Pinned {
			s.inUse = true
		}
		if n.class != Pinned {
			u := Use{Info: n.Info, Class: n.class, InUse: s.inUse, Shared: s.more}
			if s.owner != nil {
				u.Owner = s.owner.Item
			}
			uses = append(uses, u)
		}
		owner := s.owner
		if n.class != Plain {
			owner = n
		}
		for _, r := range n.refs {
			rs := at(r)
			rs.inUse = rs.inUse || s.inUse
			rs.more = rs.more || s.more || rs.owner != nil && owner != nil && rs.owner != owner
			if rs.owner == nil {
				rs.owner = owner
			}
		}
	}
	return uses, nil
}
