package lease

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
)

// A Policy says what a collection removes. The zero value removes what nothing refers to or holds.
type Policy struct {
	// DryRun has the report made and nothing removed.
	DryRun bool
	// Grace keeps Plain items that are younger, with what they refer to: their maker may not have come to hold them or
	// to refer to them.
	Grace time.Duration
	// Spare says of a Plain item that nothing keeps whether to leave it nevertheless. nil spares none.
	Spare func(Info) bool
	// Evict says of a unit whether it may be evicted. nil allows no eviction at all, and what follows means nothing.
	Evict func(Unit) bool
	// Target is to how many bytes of Plain items to get down by eviction; at 0 all that may be is evicted.
	Target int64
	// Value orders eviction: the unit of least value goes first. nil means by the time of last use. It is meant to be
	// seconds to rebuild × chance of use ÷ bytes.
	Value func(Unit) float64
}

// A Unit is what is evicted as one: a Plain item that only Cached ones refer to, and those. A Cached item that refers
// to nothing is a unit without Item.
type Unit struct {
	Item    Info
	Records []Info
}

// Used returns when anything of the unit was last used or made.
func (u Unit) Used() time.Time {
	t := latest(u.Item.Created, u.Item.Used)
	for _, r := range u.Records {
		t = latest(t, latest(r.Created, r.Used))
	}
	return t
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// A Removed is an item that a collection has removed.
type Removed struct {
	Info
	Evicted bool // by the policy; otherwise nothing kept it any more
}

// A Report says what a collection has done, or would have.
type Report struct {
	Removed []Removed // in order; what refers goes before what it refers to
	Freed   int64     // bytes of the Plain items among them
	Left    int64     // bytes of the Plain items that are left
}

// Collect removes what the policy says. The report tells what has been removed also if there is an error; one in
// removing an item does not keep Collect from going on with others.
//
// The report counts the sizes that the sources state. When the space is free is up to them.
func (m *Manager) Collect(ctx context.Context, p Policy) (Report, error) {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return Report{}, context.Cause(ctx)
	}
	defer func() { <-m.turn }()
	m.mu.Lock()
	m.touched = make(map[Item]struct{}, len(m.held))
	for item := range m.held {
		m.touched[item] = struct{}{}
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.touched = nil
		m.mu.Unlock()
	}()

	g, err := m.list(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("collecting: %w", err)
	}
	c := &collection{m: m, policy: p, now: m.now()}
	for _, n := range g.nodes {
		if n.class == Plain {
			c.report.Left += n.bytes()
		}
	}
	c.garbage(ctx, g)
	if p.Evict != nil {
		c.evict(ctx, g)
	}
	if ctx.Err() != nil {
		c.errs = append(c.errs, context.Cause(ctx))
	}
	if err := errors.Join(c.errs...); err != nil {
		return c.report, fmt.Errorf("collecting: %w", err)
	}
	return c.report, nil
}

// A collection is one run of Collect.
type collection struct {
	m      *Manager
	policy Policy
	now    time.Time
	report Report
	errs   []error
	queue  units // candidates for eviction
	evicts bool  // what is removed now is removed by eviction
}

// garbage removes what nothing keeps, and records that refer to what is not there.
func (c *collection) garbage(ctx context.Context, g *graph) {
	for _, n := range g.nodes {
		if n.class == Cached && n.broken {
			c.remove(ctx, n)
		}
	}
	for _, n := range g.nodes {
		c.sweep(ctx, n)
	}
}

// sweep removes n if nothing keeps it, and then what only n kept.
func (c *collection) sweep(ctx context.Context, n *node) {
	for todo := []*node{n}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n.class == Plain && n.users == 0 && !c.spared(n) && c.remove(ctx, n) {
			todo = append(todo, n.refs...)
		}
	}
}

func (c *collection) spared(n *node) bool {
	return n.gone || c.young(n) || !c.evicts && c.policy.Spare != nil && c.policy.Spare(n.Info)
}

func (c *collection) young(n *node) bool {
	return c.policy.Grace > 0 && c.now.Sub(n.Created) < c.policy.Grace
}

// remove removes n unless somebody holds it, or did so lately. It says whether n is gone, and if so counts it and its
// references no more. Callers go on with what n referred to.
func (c *collection) remove(ctx context.Context, n *node) bool {
	if n.gone || ctx.Err() != nil || !c.m.beginRemoval(n.Item) {
		return false
	}
	var err error
	if !c.policy.DryRun {
		err = c.m.kinds[n.Kind].Remove(ctx, n.Name)
	}
	c.m.endRemoval(n.Item)
	if err != nil {
		// In use: something that was made since the listing refers to it.
		if !errors.Is(err, snapshot.ErrInUse) {
			c.errs = append(c.errs, fmt.Errorf("removing %s: %w", n.Item, err))
		}
		return false
	}
	n.gone = true
	for _, r := range n.refs {
		r.users--
	}
	c.report.Removed = append(c.report.Removed, Removed{n.Info, c.evicts})
	if n.class == Plain {
		c.report.Freed += n.bytes()
		c.report.Left -= n.bytes()
	}
	return true
}

// beginRemoval makes whoever wants to hold item wait, unless it is or was held since the collection began.
func (m *Manager) beginRemoval(item Item) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.touched[item]; ok || m.dying[item] != nil {
		return false // the latter is Sweep's
	}
	m.dying[item] = make(chan struct{})
	return true
}

func (m *Manager) endRemoval(item Item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.dying[item])
	delete(m.dying, item)
}

// evict removes units, the least valuable first, until the target is reached.
func (c *collection) evict(ctx context.Context, g *graph) {
	c.evicts = true
	for _, n := range g.nodes {
		c.consider(n)
	}
	for len(c.queue) > 0 && (c.policy.Target == 0 || c.report.Left > c.policy.Target) {
		n := heap.Pop(&c.queue).(*candidate).n
		n.queued = false
		if n.class == Cached {
			c.remove(ctx, n)
			continue
		}
		users := n.cachedUsers()
		if c.m.anyTouched(append(users, n)) {
			continue // what is left of the unit would be of no use
		}
		// Something is queued only because something else was removed, so the loop ends.
		for _, r := range users {
			if c.remove(ctx, r) {
				for _, t := range r.refs {
					c.reconsider(ctx, t)
				}
			}
		}
	}
}

// reconsider sweeps or considers a node that something referred to which was removed, and what it kept in turn.
func (c *collection) reconsider(ctx context.Context, n *node) {
	for todo := []*node{n}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !n.gone {
			c.sweep(ctx, n)
		}
		if n.gone {
			todo = append(todo, n.refs...)
			continue
		}
		c.consider(n)
	}
}

// consider makes n a candidate, if it is one.
func (c *collection) consider(n *node) {
	if n.gone || n.queued {
		return
	}
	unit := Unit{}
	switch n.class {
	case Plain:
		users := n.cachedUsers()
		if len(users) == 0 || len(users) != n.users || c.young(n) {
			return
		}
		unit.Item = n.Info
		for _, u := range users {
			unit.Records = append(unit.Records, u.Info)
		}
	case Cached:
		if len(n.refs) > 0 {
			return
		}
		unit.Records = []Info{n.Info}
	default:
		return
	}
	if !c.policy.Evict(unit) {
		return
	}
	value := float64(unit.Used().UnixNano())
	if c.policy.Value != nil {
		value = c.policy.Value(unit)
	}
	n.queued = true
	heap.Push(&c.queue, &candidate{n, value})
}

// anyTouched says whether one of nodes was held since the collection began.
func (m *Manager) anyTouched(nodes []*node) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(nodes, func(n *node) bool {
		_, ok := m.touched[n.Item]
		return ok
	})
}

// A candidate is a node that may be evicted.
type candidate struct {
	n     *node
	value float64
}

// units is a heap of candidates, the least valuable first; equal ones in the order of their names, so that a dry run
// foretells.
type units []*candidate

func (u units) Len() int { return len(u) }

func (u units) Less(i, j int) bool {
	return cmp.Or(
		cmp.Compare(u[i].value, u[j].value), cmp.Compare(u[i].n.Kind, u[j].n.Kind), cmp.Compare(u[i].n.Name, u[j].n.Name),
	) < 0
}

func (u units) Swap(i, j int) { u[i], u[j] = u[j], u[i] }

// Push implements heap.Interface.
func (u *units) Push(x any) { *u = append(*u, x.(*candidate)) }

// Pop implements heap.Interface.
func (u *units) Pop() any {
	old := *u
	x := old[len(old)-1]
	*u = old[:len(old)-1]
	return x
}
