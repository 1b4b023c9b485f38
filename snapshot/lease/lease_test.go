package lease

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/snapshottest"
)

// A world is stores of every class in memory. Like a snapshotter it refuses to remove what a Plain item refers to.
type world struct {
	mu    sync.Mutex
	items map[Item]Info
	// before is called in Remove before anything is removed, without the lock.
	before func(Item)
	err    error // what Remove returns
}

func newWorld(infos ...Info) *world {
	w := &world{items: make(map[Item]Info)}
	for _, i := range infos {
		w.items[i.Item] = i
	}
	return w
}

func (w *world) manager() *Manager {
	return New(w.source(Blob, Plain), w.source(Snapshot, Plain), w.source(Record, Cached), w.source(Image, Pinned))
}

func (w *world) source(kind Kind, class Class) Source {
	s := Source{
		Kind: kind, Class: class,
		List: func(context.Context) iter.Seq2[Info, error] {
			w.mu.Lock()
			var all []Info
			for _, i := range w.items {
				if i.Kind == kind {
					all = append(all, i)
				}
			}
			w.mu.Unlock()
			return func(yield func(Info, error) bool) {
				for _, i := range all {
					if !yield(i, nil) {
						return
					}
				}
			}
		},
		Stat: func(_ context.Context, name string) error {
			if !w.has(Item{kind, name}) {
				return snapshot.ErrNotFound
			}
			return nil
		},
	}
	if class != Pinned {
		s.Remove = func(_ context.Context, name string) error { return w.remove(Item{kind, name}) }
	}
	return s
}

func (w *world) has(i Item) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.items[i]
	return ok
}

func (w *world) put(i Info) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.items[i.Item] = i
}

func (w *world) remove(i Item) error {
	if w.before != nil {
		w.before(i)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	for _, o := range w.items {
		if o.Kind == Snapshot && slices.Contains(o.Refs, i) {
			return fmt.Errorf("%s refers to it: %w", o.Item, snapshot.ErrInUse)
		}
	}
	delete(w.items, i)
	return nil
}

// left returns the names of what is there, sorted.
func (w *world) left() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for i := range w.items {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return names
}

func item(kind Kind, name string, size int64, refs ...Item) Info {
	return Info{Item: Item{kind, name}, Size: size, Refs: refs}
}

func sn(name string) Item { return Item{Snapshot, name} }

// small is a chain a–b–c–d of which an image has b and a record c, a lone snapshot and two blobs, one of an image's.
func small() *world {
	return newWorld(
		item(Snapshot, "a", 1), item(Snapshot, "b", 2, sn("a")), item(Snapshot, "c", 4, sn("b")), item(Snapshot, "d", 8, sn("c")),
		item(Snapshot, "lone", 16),
		item(Blob, "x", 32), item(Blob, "y", 64),
		item(Image, "image", 0, sn("b"), Item{Blob, "x"}),
		item(Record, "record", 0, sn("c")),
	)
}

func check(t *testing.T, w *world, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := w.left(); !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

func collect(t *testing.T, m *Manager, p Policy) Report {
	t.Helper()
	r, err := m.Collect(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What nothing refers to goes, with what only it referred to; what an image or a record refers to stays, with all
// below. The report has the sum.
func TestCollect(t *testing.T) {
	w := small()
	m := w.manager()
	for _, dry := range []bool{true, false, false} {
		before := w.left()
		r := collect(t, m, Policy{DryRun: dry})
		switch {
		case dry:
			check(t, w, before...)
			fallthrough
		case len(before) == 9:
			if len(r.Removed) != 3 || r.Freed != 8+16+64 || r.Left != 1+2+4+32 {
				t.Errorf("dry %v: got %+v", dry, r)
			}
		case len(r.Removed) != 0 || r.Freed != 0 || r.Left != 1+2+4+32:
			t.Errorf("the second time: got %+v", r)
		}
	}
	check(t, w, "a", "b", "c", "image", "record", "x")
}

// A lease keeps what it holds and everything that refers to, until it is released.
func TestHoldKeeps(t *testing.T) {
	w := small()
	m := w.manager()
	l, other := m.Acquire("one"), m.Acquire("two")
	for _, i := range []Item{sn("d"), sn("lone"), sn("lone")} {
		if err := l.Hold(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Hold(t.Context(), sn("lone")); err != nil {
		t.Fatal(err)
	}
	if got, want := m.Leases(), []string{"one", "two"}; !slices.Equal(got, want) {
		t.Errorf("leases %v, want %v", got, want)
	}
	collect(t, m, Policy{})
	check(t, w, "a", "b", "c", "d", "image", "lone", "record", "x")
	l.Release()
	l.Release()
	collect(t, m, Policy{})
	check(t, w, "a", "b", "c", "image", "lone", "record", "x")
	other.Release()
	collect(t, m, Policy{})
	check(t, w, "a", "b", "c", "image", "record", "x")
	if n := len(m.held) + len(m.leases) + len(m.dying); n != 0 {
		t.Errorf("%d things are remembered of released leases", n)
	}
}

// Holding what is not there fails and keeps nothing; so does a released lease.
func TestHoldErrors(t *testing.T) {
	m := small().manager()
	l := m.Acquire("one")
	if err := l.Hold(t.Context(), sn("missing")); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if len(m.held) != 0 {
		t.Errorf("held are %v", m.held)
	}
	l.Release()
	if err := l.Hold(t.Context(), sn("a")); !errors.Is(err, ErrReleased) {
		t.Errorf("got %v, want ErrReleased", err)
	}
	if err := l.Reserve(t.Context(), sn("a")); !errors.Is(err, ErrReleased) {
		t.Errorf("got %v, want ErrReleased", err)
	}
}

// What is reserved before it exists survives a collection that sees it without any reference.
func TestReserve(t *testing.T) {
	w := newWorld()
	m := w.manager()
	l := m.Acquire("one")
	if err := l.Reserve(t.Context(), sn("new")); err != nil {
		t.Fatal(err)
	}
	w.put(item(Snapshot, "new", 1))
	collect(t, m, Policy{})
	check(t, w, "new")
	l.Release()
	collect(t, m, Policy{})
	check(t, w)
}

// Whoever wants to hold what is being removed waits for the outcome: gone, or still there. A reservation waits too, so
// that what is made under the name is not what is removed.
func TestHoldWhileDying(t *testing.T) {
	w := newWorld(item(Snapshot, "x", 1), item(Snapshot, "y", 1))
	m := w.manager()
	l := m.Acquire("one")
	results := make(chan error, 2)
	w.before = func(i Item) {
		started := make(chan struct{})
		go func() {
			close(started)
			if i.Name == "x" {
				results <- l.Hold(context.Background(), i)
			} else {
				results <- l.Reserve(context.Background(), i)
			}
		}()
		<-started
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("enough"))
		if err := l.Hold(ctx, i); err == nil || err.Error() != "holding "+i.String()+": enough" {
			t.Errorf("a waiting Hold that is cancelled: %v", err)
		}
	}
	collect(t, m, Policy{})
	check(t, w)
	a, b := <-results, <-results
	if (a == nil) == (b == nil) {
		t.Errorf("got %v and %v, want one ErrNotFound", a, b)
	}
	for _, err := range []error{a, b} {
		if err != nil && !errors.Is(err, snapshot.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	}
}

// What was held at some time during a collection is not removed by it: a reference may have been made that it did not
// see.
func TestReleasedDuringCollection(t *testing.T) {
	w := newWorld(item(Snapshot, "x", 1), item(Snapshot, "y", 1))
	m := w.manager()
	var once sync.Once
	w.before = func(i Item) {
		once.Do(func() {
			other := sn("x")
			if i == other {
				other = sn("y")
			}
			l := m.Acquire("short")
			if err := l.Hold(context.Background(), other); err != nil {
				t.Error(err)
			}
			w.put(item(Image, "new", 0, other))
			l.Release()
		})
	}
	collect(t, m, Policy{})
	if got := w.left(); len(got) != 2 {
		t.Errorf("left are %v, want the image and what it refers to", got)
	}
	collect(t, m, Policy{})
	if got := w.left(); len(got) != 2 {
		t.Errorf("after another collection: %v", got)
	}
}

// Young items and those that a policy spares stay, with what they refer to.
func TestGraceAndSpare(t *testing.T) {
	now := time.Now()
	young := item(Snapshot, "young", 1, sn("old"))
	young.Created = now.Add(-time.Minute)
	old := item(Snapshot, "old", 1)
	old.Created = now.Add(-time.Hour)
	gone := item(Snapshot, "gone", 1)
	gone.Created = now.Add(-time.Hour)
	w := newWorld(young, old, gone, item(Snapshot, "spared", 1, sn("base")), item(Snapshot, "base", 1))
	m := w.manager()
	m.now = func() time.Time { return now }
	collect(t, m, Policy{Grace: 10 * time.Minute, Spare: func(i Info) bool { return i.Name == "spared" }})
	check(t, w, "base", "old", "spared", "young")
	now = now.Add(time.Hour)
	collect(t, m, Policy{Grace: 10 * time.Minute})
	check(t, w)
}

// Records that refer to what is not there go; so does what only they kept.
func TestBrokenRecords(t *testing.T) {
	w := newWorld(
		item(Record, "broken", 0, sn("missing"), sn("a")), item(Snapshot, "a", 1),
		item(Record, "foreign", 0, Item{"other", "x"}), item(Record, "whole", 0, sn("b")), item(Snapshot, "b", 1),
	)
	collect(t, w.manager(), Policy{})
	check(t, w, "b", "foreign", "whole")
}

// Errors of removal are returned with the item, and others are removed nevertheless; being in use is no error.
func TestRemoveErrors(t *testing.T) {
	w := newWorld(item(Snapshot, "x", 1), item(Snapshot, "y", 2))
	m := w.manager()
	boom := errors.New("boom")
	w.before = func(i Item) {
		w.err = nil
		if i.Name == "x" {
			w.err = boom
		}
	}
	r, err := m.Collect(t.Context(), Policy{})
	if !errors.Is(err, boom) || r.Freed != 2 || r.Left != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
	check(t, w, "x")
	w.before, w.err = nil, fmt.Errorf("busy: %w", snapshot.ErrInUse)
	if r, err := m.Collect(t.Context(), Policy{}); err != nil || len(r.Removed) != 0 {
		t.Errorf("in use: got %+v, %v", r, err)
	}
}

// Those that refer are listed before what they refer to, in whatever order the sources are given: a record that is
// seen had its result before.
func TestListOrder(t *testing.T) {
	w := small()
	var order []Kind
	logged := func(s Source) Source {
		list := s.List
		s.List = func(ctx context.Context) iter.Seq2[Info, error] {
			order = append(order, s.Kind)
			return list(ctx)
		}
		return s
	}
	m := New(logged(w.source(Snapshot, Plain)), logged(w.source(Record, Cached)), logged(w.source(Image, Pinned)))
	collect(t, m, Policy{})
	if want := []Kind{Image, Record, Snapshot}; !slices.Equal(order, want) {
		t.Errorf("listed %v, want %v", order, want)
	}
}

// A source that cannot list stops the collection before anything is removed; cancelling stops it in between.
func TestListErrorAndCancel(t *testing.T) {
	w := newWorld(item(Snapshot, "x", 1), item(Snapshot, "y", 1))
	boom := errors.New("boom")
	bad := Source{Kind: Image, Class: Pinned, List: func(context.Context) iter.Seq2[Info, error] {
		return func(yield func(Info, error) bool) { yield(Info{}, boom) }
	}}
	m := New(w.source(Snapshot, Plain), bad)
	if _, err := m.Collect(t.Context(), Policy{}); !errors.Is(err, boom) {
		t.Errorf("got %v, want the source's error", err)
	}
	check(t, w, "x", "y")
	ctx, cancel := context.WithCancel(t.Context())
	w.before = func(Item) { cancel() }
	if r, err := w.manager().Collect(ctx, Policy{}); !errors.Is(err, context.Canceled) || len(r.Removed) != 1 {
		t.Errorf("got %+v, %v, want one removed and Canceled", r, err)
	}
}

// A lease travels in a context; without one there is none.
func TestContext(t *testing.T) {
	if From(t.Context()) != nil {
		t.Error("an empty context has a lease")
	}
	l := small().manager().Acquire("one")
	if got := From(With(t.Context(), l)); got != l || got.Name() != "one" {
		t.Errorf("got %v", got)
	}
}

// The source made from a Snapshotter keeps parents, and holds what it says.
func TestSnapshots(t *testing.T) {
	ctx := t.Context()
	s := snapshottest.NewMemory(t.TempDir())
	for _, p := range [][2]snapshot.ID{{"a", ""}, {"b", "a"}, {"c", "b"}, {"d", "a"}} {
		if _, err := s.Prepare(ctx, "x", p[1]); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx, "x", p[0]); err != nil {
			t.Fatal(err)
		}
	}
	m := New(Snapshots(s))
	l := m.Acquire("one")
	if err := l.Hold(ctx, ID("b")); err != nil {
		t.Fatal(err)
	}
	if err := l.Hold(ctx, ID("missing")); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	collect(t, m, Policy{})
	got := map[snapshot.ID]bool{}
	for i, err := range s.All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got[i.ID] = true
	}
	if want := map[snapshot.ID]bool{"a": true, "b": true}; !maps.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

// What was reserved for a short time goes when nobody holds it any more, and no sooner; nothing else goes with it. What
// cannot be removed is left to a collection, and what was never made is no error.
func TestSweep(t *testing.T) {
	w := newWorld(item(Snapshot, "base", 1))
	m := w.manager()
	ctx := t.Context()
	sweep := func(want ...string) {
		t.Helper()
		if err := m.Sweep(ctx); err != nil {
			t.Error(err)
		}
		check(t, w, want...)
	}
	first, second := m.Acquire("first"), m.Acquire("second")
	for _, name := range []string{"short", "used", "unmade"} {
		if err := first.ReserveShort(ctx, sn(name)); err != nil {
			t.Fatal(err)
		}
	}
	w.put(item(Snapshot, "short", 1, sn("base")))
	w.put(item(Snapshot, "used", 1))
	w.put(item(Snapshot, "user", 1, sn("used")))
	sweep("base", "short", "used", "user")
	if err := second.Hold(ctx, sn("short")); err != nil {
		t.Fatal(err)
	}
	first.Release()
	sweep("base", "short", "used", "user") // a lease has one, the other is in use
	second.Release()
	sweep("base", "used", "user")
	if err := m.Acquire("late").Hold(ctx, sn("short")); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("what is gone is held: %v", err)
	}
	if first.ReserveShort(ctx, sn("x")) == nil {
		t.Error("a lease that is released reserves")
	}
	// Who wants to hold what is being removed waits, and does not get it.
	l := m.Acquire("again")
	if err := l.ReserveShort(ctx, sn("slow")); err != nil {
		t.Fatal(err)
	}
	w.put(item(Snapshot, "slow", 1))
	got := make(chan error, 1)
	w.before = func(Item) { go func() { got <- m.Acquire("waiting").Hold(ctx, sn("slow")) }() }
	l.Release()
	sweep("base", "used", "user")
	if err := <-got; !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("what was being removed is held: %v", err)
	}
	w.before = nil
	collect(t, m, Policy{})
	check(t, w)
}
