package lease

import (
	"context"
	"fmt"
)

// A graph is what the sources have listed, and who refers to whom.
type graph struct {
	nodes []*node // in the order of listing: those that refer first, by class
	by    map[Item]*node
}

// A node is an item of a graph. What is counted follows the removals of the collection.
type node struct {
	Info
	class  Class
	refs   []*node // each once
	users  int     // nodes that refer to this one and have not been removed
	cached []*node // those of them that are Cached, the removed ones too
	broken bool    // it refers to something that does not exist
	last   *node   // the last that was found to refer to it
	gone   bool    // removed
	queued bool    // a candidate for eviction
}

func (n *node) bytes() int64 { return max(n.Size, 0) }

// cachedUsers returns the Cached nodes that refer to n and have not been removed.
func (n *node) cachedUsers() []*node {
	var users []*node
	for _, u := range n.cached {
		if !u.gone {
			users = append(users, u)
		}
	}
	return users
}

// list makes a graph of what there is.
func (m *Manager) list(ctx context.Context) (*graph, error) {
	g := &graph{by: make(map[Item]*node)}
	for _, s := range m.sources {
		for info, err := range s.List(ctx) {
			if err != nil {
				return nil, fmt.Errorf("listing items of kind %s: %w", s.Kind, err)
			}
			if g.by[info.Item] != nil {
				continue // it was replaced while the source was listing
			}
			n := &node{Info: info, class: s.Class}
			g.by[info.Item] = n
			g.nodes = append(g.nodes, n)
		}
	}
	for _, n := range g.nodes {
		for _, ref := range n.Refs {
			r := g.by[ref]
			if r == nil {
				_, known := m.kinds[ref.Kind]
				n.broken = n.broken || known
				continue
			}
			if r.last == n {
				continue // named twice
			}
			r.last = n
			n.refs = append(n.refs, r)
			r.users++
			if n.class == Cached {
				r.cached = append(r.cached, n)
			}
		}
	}
	return g, nil
}

// sorted returns the nodes so that each comes after all that refer to it. Nodes of rings are left out.
func (g *graph) sorted() []*node {
	left := make(map[*node]int, len(g.nodes))
	var order []*node
	for _, n := range g.nodes {
		if n.users == 0 {
			order = append(order, n)
		} else {
			left[n] = n.users
		}
	}
	for i := 0; i < len(order); i++ {
		for _, r := range order[i].refs {
			if left[r]--; left[r] == 0 {
				order = append(order, r)
			}
		}
	}
	return order
}
