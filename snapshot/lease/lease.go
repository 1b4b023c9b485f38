// Package lease knows what keeps things alive, and removes what nothing does.
//
// # Things
//
// An Item is anything that has a name and takes space or refers to what does: a snapshot, a blob, an image, a cache
// record, a container. Sources say which items of a kind there are and what they refer to: a snapshot to its parent and to
// what it is a copy of, an image to its snapshots and blobs, a record to its result. A source's Class says what keeps its
// items:
//
//	Pinned  always kept: what a user has named (images, containers). Removed by others only.
//	Cached  kept until evicted to make room (cache records)
//	Plain   kept while something refers to it (snapshots, blobs)
//
// References form no rings: parents are older, and content addresses cannot be circular. A ring would keep itself.
//
// # Leases
//
// What is in use or being made has no reference yet. A Lease keeps it: whoever works takes a lease with Acquire, holds
// what it uses, and releases the lease when what it made is referred to by something else. Leases are in memory: with
// the process ends all use.
//
// The rule for those who make a Pinned or Cached item is: hold everything that it refers to, make it, then release. For
// what does not exist yet there is Reserve, before it is made.
//
// # Collection
//
// Collect removes what nothing keeps. It may run while everything else goes on. A Hold either succeeds, and the thing
// stays until the release, or fails with snapshot.ErrNotFound; there is nothing between. Collect does not remove what
// was held at any moment since it began, as a reference may have been made meanwhile that it has not seen; for the
// same reason it asks Pinned and Cached sources before the others.
//
// # Locks
//
// Manager.mu guards who holds what and what is being removed. It is a leaf and never held during I/O. Manager.turn, a
// semaphore, lets one collection run at a time and is taken before it.
package lease

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
)

// A Kind is a kind of items. Others than those below may be used too.
type Kind string

// Kinds of items.
const (
	Snapshot  Kind = "snapshot"
	Blob      Kind = "blob"
	Image     Kind = "image"
	Container Kind = "container"
	Record    Kind = "record"
	Build     Kind = "build" // a record of the history
)

// An Item names something that can be kept alive.
type Item struct {
	Kind Kind
	Name string
}

func (i Item) String() string { return string(i.Kind) + " " + i.Name }

// ID returns the item of a snapshot.
func ID(id snapshot.ID) Item { return Item{Snapshot, string(id)} }

// Info is what a source knows of an item.
type Info struct {
	Item
	// Refs are the items that this one keeps. Those of kinds without a source are ignored.
	Refs    []Item
	Size    int64 // bytes; negative means not known yet, and counts as 0
	Created time.Time
	Used    time.Time // last used; a hint
}

// A Class says what keeps the items of a source, see the package comment.
type Class int

// The classes.
const (
	Plain  Class = iota // kept while something refers to it
	Cached              // kept until evicted
	Pinned              // kept
)

// A Source says what items of a kind there are.
type Source struct {
	Kind  Kind
	Class Class
	// List yields the items. One that is made or removed during the iteration may be in it or not.
	List func(ctx context.Context) iter.Seq2[Info, error]
	// Stat returns an error that wraps snapshot.ErrNotFound if there is no such item. nil stands for a func that
	// always returns nil.
	Stat func(ctx context.Context, name string) error
	// Remove removes an item. One that is gone is no error; snapshot.ErrInUse means that it has to stay. A Pinned
	// source has none.
	Remove func(ctx context.Context, name string) error
}

// ErrReleased is returned by Hold and Reserve of a lease that has been released.
var ErrReleased = errors.New("lease has been released")

// A Manager keeps the leases of a process. It is safe for concurrent use.
type Manager struct {
	sources []Source
	kinds   map[Kind]Source
	turn    chan struct{} // held by the collection that runs
	now     func() time.Time

	mu     sync.Mutex // guards what follows, and the fields of every Lease
	leases map[*Lease]struct{}
	held   map[Item]int           // by how many holds
	dying  map[Item]chan struct{} // being removed; closed afterwards
	// touched are the items that were held at some time since the collection that runs began; nil while none does.
	touched map[Item]struct{}
	// short are the items that Sweep removes once nothing holds them.
	short map[Item]struct{}
}

// New returns a manager of what sources have. Each kind may have one source; it panics if one has more, or if a source
// that is not Pinned cannot remove.
func New(sources ...Source) *Manager {
	m := &Manager{
		sources: slices.Clone(sources),
		kinds:   make(map[Kind]Source),
		turn:    make(chan struct{}, 1),
		now:     time.Now,
		leases:  make(map[*Lease]struct{}),
		held:    make(map[Item]int),
		dying:   make(map[Item]chan struct{}),
		short:   make(map[Item]struct{}),
	}
	// Those that refer are asked before those that are referred to.
	slices.SortStableFunc(m.sources, func(a, b Source) int { return int(b.Class) - int(a.Class) })
	for _, s := range sources {
		if _, twice := m.kinds[s.Kind]; twice || (s.Remove == nil) != (s.Class == Pinned) {
			panic(fmt.Sprintf("lease: bad source of kind %q", s.Kind))
		}
		m.kinds[s.Kind] = s
	}
	return m
}

// A Lease keeps what it holds until it is released. It is safe for concurrent use.
type Lease struct {
	m    *Manager
	name string
	at   time.Time

	released bool           // guarded by Manager.mu
	holds    map[Item]*hold // likewise
}

// A hold is one lease's hold on one item.
type hold struct {
	n    int  // calls of Hold and Reserve that are under way or have succeeded
	sure bool // the item is known to exist
}

// Acquire returns a lease that holds nothing. name says, for people, who it is for. The caller releases it.
func (m *Manager) Acquire(name string) *Lease {
	l := &Lease{m: m, name: name, at: m.now(), holds: make(map[Item]*hold)}
	m.mu.Lock()
	m.leases[l] = struct{}{}
	m.mu.Unlock()
	return l
}

// Name returns the name that the lease was acquired with.
func (l *Lease) Name() string { return l.name }

// Hold keeps item alive until l is released. If there is no such item, or not any more, the error wraps
// snapshot.ErrNotFound. Holding what l holds already costs nothing.
func (l *Lease) Hold(ctx context.Context, item Item) error {
	sure, err := l.add(ctx, item)
	if err != nil {
		return fmt.Errorf("holding %s: %w", item, err)
	}
	if sure {
		return nil
	}
	if s := l.m.kinds[item.Kind]; s.Stat != nil {
		err = s.Stat(ctx, item.Name)
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	h := l.holds[item]
	switch {
	case h == nil: // released meanwhile
		return fmt.Errorf("holding %s: %w", item, ErrReleased)
	case err == nil:
		h.sure = true
		return nil
	}
	if h.n--; h.n == 0 {
		delete(l.holds, item)
		l.m.dropLocked(item)
	}
	return fmt.Errorf("holding %s: %w", item, err)
}

// Reserve keeps an item that is about to be made, from the moment that it exists. It waits if an earlier item of that
// name is just being removed.
func (l *Lease) Reserve(ctx context.Context, item Item) error {
	if _, err := l.add(ctx, item); err != nil {
		return fmt.Errorf("reserving %s: %w", item, err)
	}
	return nil
}

// ReserveShort is Reserve for an item that nothing will refer to: it is of no use once nobody holds it, see Sweep.
func (l *Lease) ReserveShort(ctx context.Context, item Item) error {
	if err := l.Reserve(ctx, item); err != nil {
		return err
	}
	l.m.mu.Lock()
	l.m.short[item] = struct{}{}
	l.m.mu.Unlock()
	return nil
}

// Sweep removes the items that were reserved with ReserveShort and that nobody holds any more. It costs nothing if there
// are none. What cannot be removed is left to Collect.
func (m *Manager) Sweep(ctx context.Context) error {
	var errs []error
	for _, item := range m.beginSweep() {
		err := m.kinds[item.Kind].Remove(ctx, item.Name)
		m.endRemoval(item)
		if err != nil && !errors.Is(err, snapshot.ErrInUse) {
			errs = append(errs, fmt.Errorf("removing %s: %w", item, err))
		}
	}
	return errors.Join(errs...)
}

// beginSweep makes whoever wants to hold what Sweep removes wait.
func (m *Manager) beginSweep() []Item {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Item
	for item := range m.short {
		if m.held[item] > 0 {
			continue
		}
		delete(m.short, item)
		if m.dying[item] == nil { // else a collection is at it
			m.dying[item] = make(chan struct{})
			out = append(out, item)
		}
	}
	return out
}

// add counts a hold of item and says whether it is known to exist.
func (l *Lease) add(ctx context.Context, item Item) (sure bool, err error) {
	for {
		l.m.mu.Lock()
		if l.released {
			l.m.mu.Unlock()
			return false, ErrReleased
		}
		if dying := l.m.dying[item]; dying != nil {
			l.m.mu.Unlock()
			// Removal is short. Its outcome is not certain yet: it fails for what is in use.
			select {
			case <-dying:
				continue
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
		}
		h := l.holds[item]
		if h == nil {
			h = new(hold)
			l.holds[item] = h
			l.m.held[item]++
			if l.m.touched != nil {
				l.m.touched[item] = struct{}{}
			}
		}
		h.n++
		sure = h.sure
		l.m.mu.Unlock()
		return sure, nil
	}
}

func (m *Manager) dropLocked(item Item) {
	if m.held[item]--; m.held[item] == 0 {
		delete(m.held, item)
	}
}

// Release ends the lease. It is idempotent.
func (l *Lease) Release() {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.released {
		return
	}
	l.released = true
	for item := range l.holds {
		l.m.dropLocked(item)
	}
	l.holds = nil
	delete(l.m.leases, l)
}

// Leases returns the names of the leases that are not released, the oldest first.
func (m *Manager) Leases() []string {
	m.mu.Lock()
	all := make([]*Lease, 0, len(m.leases))
	for l := range m.leases {
		all = append(all, l)
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b *Lease) int { return a.at.Compare(b.at) })
	names := make([]string, len(all))
	for i, l := range all {
		names[i] = l.name
	}
	return names
}

type contextKey struct{}

// With returns a context that carries l to those who work on its owner's behalf.
func With(ctx context.Context, l *Lease) context.Context {
	return context.WithValue(ctx, contextKey{}, l)
}

// From returns the lease that ctx carries, or nil.
func From(ctx context.Context) *Lease {
	l, _ := ctx.Value(contextKey{}).(*Lease)
	return l
}

// Snapshots returns the source of the snapshots of s.
func Snapshots(s snapshot.Snapshotter) Source {
	return Source{
		Kind:  Snapshot,
		Class: Plain,
		List: func(ctx context.Context) iter.Seq2[Info, error] {
			return func(yield func(Info, error) bool) {
				for i, err := range s.All(ctx) {
					info := Info{Item: ID(i.ID), Size: i.Size, Created: i.Created, Used: i.Used}
					if i.Parent != "" {
						info.Refs = []Item{ID(i.Parent)}
					}
					for _, of := range []snapshot.ID{i.Delta.Lower, i.Delta.Upper} {
						if of != "" {
							info.Refs = append(info.Refs, ID(of))
						}
					}
					if !yield(info, err) {
						return
					}
				}
			}
		},
		Stat: func(ctx context.Context, name string) error {
			_, err := s.Stat(ctx, snapshot.ID(name))
			return err
		},
		Remove: func(ctx context.Context, name string) error { return s.Remove(ctx, snapshot.ID(name)) },
	}
}
