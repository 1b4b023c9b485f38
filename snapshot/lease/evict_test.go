package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
)

func always(Unit) bool { return true }

// names returns what a report has removed, in order.
func names(r Report) []string {
	var all []string
	for _, x := range r.Removed {
		all = append(all, x.Name)
	}
	return all
}

// chain is a–b–c, each with a record, as a cached build of three steps leaves it; the image is of another chain.
func chain() *world {
	return newWorld(
		item(Snapshot, "a", 10), item(Snapshot, "b", 10, sn("a")), item(Snapshot, "c", 10, sn("b")),
		item(Record, "ra", 0, sn("a")), item(Record, "rb", 0, sn("b")), item(Record, "rc", 0, sn("c")), item(Record, "rc2", 0, sn("c")),
		item(Snapshot, "i", 10), item(Image, "image", 0, sn("i")), item(Record, "ri", 0, sn("i")),
		item(Record, "nothing", 0),
	)
}

// Eviction goes from the ends of chains, stops at the target, and takes all records of what it takes. What an image
// has does not count as something that could be evicted.
func TestEvict(t *testing.T) {
	for target, want := range map[int64][]string{
		40: {"a", "b", "c", "i", "image", "nothing", "ra", "rb", "rc", "rc2", "ri"},
		39: {"a", "b", "i", "image", "nothing", "ra", "rb", "ri"},
		25: {"a", "i", "image", "nothing", "ra", "ri"},
		1:  {"i", "image", "ri"},
		0:  {"i", "image", "ri"},
	} {
		w := chain()
		value := func(u Unit) float64 {
			if u.Item.Name == "" {
				return 1 // the record without a result goes last
			}
			return 0
		}
		r := collect(t, w.manager(), Policy{Target: target, Evict: always, Value: value})
		check(t, w, want...)
		if r.Left+r.Freed != 40 {
			t.Errorf("target %d: freed %d and left %d, want 40 in all", target, r.Freed, r.Left)
		}
		for _, x := range r.Removed {
			if !x.Evicted {
				t.Errorf("target %d: %s is called garbage", target, x.Name)
			}
		}
	}
}

// The value says what goes first, the time of the last use does if there is none, and a dry run foretells both.
func TestEvictOrder(t *testing.T) {
	at := func(i Info, sec int64) Info { i.Used = time.Unix(sec, 0); return i }
	make := func() *world {
		return newWorld(
			at(item(Snapshot, "x", 1), 30), item(Snapshot, "y", 1), at(item(Snapshot, "z", 1), 10),
			item(Record, "rx", 0, sn("x")), at(item(Record, "ry", 0, sn("y")), 20), item(Record, "rz", 0, sn("z")),
		)
	}
	values := map[string]float64{"x": 2, "y": 3, "z": 1}
	for name, c := range map[string]struct {
		value func(Unit) float64
		want  []string
	}{
		"least recently used": {nil, []string{"rz", "z", "ry", "y", "rx", "x"}},
		"value":               {func(u Unit) float64 { return values[u.Item.Name] }, []string{"rz", "z", "rx", "x", "ry", "y"}},
	} {
		for _, dry := range []bool{true, false} {
			r := collect(t, make().manager(), Policy{DryRun: dry, Evict: always, Value: c.value})
			if got := names(r); !slices.Equal(got, c.want) {
				t.Errorf("%s, dry %v: removed %v, want %v", name, dry, got, c.want)
			}
		}
	}
}

// What the filter refuses stays, with what it stands on.
func TestEvictFilter(t *testing.T) {
	w := chain()
	collect(t, w.manager(), Policy{Evict: func(u Unit) bool { return u.Item.Name != "b" }})
	check(t, w, "a", "b", "i", "image", "ra", "rb", "ri")
}

// Neither what is held, nor its records, nor what it stands on is evicted, nor a held record with its result.
func TestEvictHeld(t *testing.T) {
	w := chain()
	m := w.manager()
	l := m.Acquire("one")
	defer l.Release()
	if err := l.Hold(t.Context(), sn("b")); err != nil {
		t.Fatal(err)
	}
	collect(t, m, Policy{Evict: always})
	check(t, w, "a", "b", "i", "image", "ra", "rb", "ri")

	w = chain()
	m = w.manager()
	l = m.Acquire("one")
	if err := l.Hold(t.Context(), Item{Record, "rb"}); err != nil {
		t.Fatal(err)
	}
	collect(t, m, Policy{Evict: always})
	check(t, w, "a", "b", "i", "image", "ra", "rb", "ri")
}

// What somebody comes to hold while a collection weighs it stays whole, with its records.
func TestEvictHeldMeanwhile(t *testing.T) {
	w := newWorld(
		item(Snapshot, "x", 1), item(Snapshot, "y", 1), item(Record, "rx", 0, sn("x")), item(Record, "ry", 0, sn("y")),
	)
	m := w.manager()
	var seen []string
	value := func(u Unit) float64 {
		if seen = append(seen, u.Item.Name); len(seen) == 2 {
			// The first one is in the queue already.
			l := m.Acquire("one")
			defer l.Release()
			if err := l.Hold(t.Context(), sn(seen[0])); err != nil {
				t.Error(err)
			}
		}
		return 0
	}
	collect(t, m, Policy{Evict: always, Value: value})
	check(t, w, seen[0], "r"+seen[0])
}

// An error in removing a record keeps its result, and does not end the collection.
func TestEvictError(t *testing.T) {
	w := chain()
	m := w.manager()
	boom := errors.New("boom")
	w.before = func(i Item) {
		w.err = nil
		if i.Name == "rc" {
			w.err = boom
		}
	}
	if _, err := m.Collect(t.Context(), Policy{Evict: always}); !errors.Is(err, boom) {
		t.Errorf("got %v, want the error", err)
	}
	check(t, w, "a", "b", "c", "i", "image", "ra", "rb", "rc", "ri")
}

// A record with several results is one record: with it the others lose theirs.
func TestEvictManyResults(t *testing.T) {
	w := newWorld(
		item(Snapshot, "x", 10), item(Snapshot, "y", 10), item(Snapshot, "z", 10),
		item(Record, "xy", 0, sn("x"), sn("y")), item(Record, "z", 0, sn("z")), item(Record, "y", 0, sn("y")),
	)
	value := func(u Unit) float64 { return map[string]float64{"x": 1, "z": 2, "y": 3}[u.Item.Name] }
	collect(t, w.manager(), Policy{Evict: always, Target: 20, Value: value})
	check(t, w, "y", "y", "z", "z")
}

// Usage says who uses what: images and leases make it in use, two that keep it make it shared.
func TestUsage(t *testing.T) {
	w := small()
	w.put(item(Record, "second", 0, sn("b")))
	m := w.manager()
	l := m.Acquire("one")
	defer l.Release()
	if err := l.Hold(t.Context(), sn("lone")); err != nil {
		t.Fatal(err)
	}
	uses, err := m.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type use struct{ inUse, shared bool }
	got := map[string]use{}
	place := map[Item]int{}
	for i, u := range uses {
		got[u.Name] = use{u.InUse, u.Shared}
		place[u.Item] = i
	}
	want := map[string]use{
		"a": {true, true}, "b": {true, true}, "c": {false, false}, "d": {false, false}, "lone": {true, false},
		"x": {true, false}, "y": {false, false}, "record": {false, false}, "second": {false, false},
	}
	for name, w := range want {
		if g, ok := got[name]; !ok || g != w {
			t.Errorf("%s: got %+v (%v), want %+v", name, g, ok, w)
		}
	}
	if len(got) != len(want) || place[sn("d")] > place[sn("c")] || place[sn("b")] > place[sn("a")] {
		t.Errorf("got %v", uses)
	}
}

// randomWorld has snapshots with parents, blobs with references among each other, records and images.
func randomWorld(r *rand.Rand) *world {
	w := newWorld()
	n := 1 + r.IntN(40)
	pick := func(kind Kind, below int) Item { return Item{kind, fmt.Sprint(r.IntN(below))} }
	for i := range n {
		s, b := item(Snapshot, fmt.Sprint(i), int64(r.IntN(100)-2)), item(Blob, fmt.Sprint(i), int64(r.IntN(100)))
		if i > 0 && r.IntN(4) > 0 {
			s.Refs = append(s.Refs, pick(Snapshot, i))
		}
		for range r.IntN(min(i+1, 3)) {
			b.Refs = append(b.Refs, pick(Blob, i))
		}
		w.put(s)
		w.put(b)
	}
	for i := range r.IntN(n + 1) {
		rec := item(Record, fmt.Sprint(i), 0)
		for range r.IntN(4) {
			rec.Refs = append(rec.Refs, pick([]Kind{Snapshot, Blob}[r.IntN(2)], n))
		}
		w.put(rec)
	}
	for i := range r.IntN(4) {
		w.put(item(Image, fmt.Sprint(i), 0, pick(Snapshot, n), pick(Blob, n), pick(Blob, n)))
	}
	return w
}

// reach returns all that roots refer to, directly or not, and themselves.
func (w *world) reach(roots ...Item) map[Item]bool {
	seen := map[Item]bool{}
	for len(roots) > 0 {
		i := roots[len(roots)-1]
		roots = roots[:len(roots)-1]
		if !seen[i] {
			seen[i] = true
			roots = append(roots, w.items[i].Refs...)
		}
	}
	return seen
}

// Of any graph exactly that is left which an image, a record or a lease reaches, and a dry run says the same before.
func TestCollectRandom(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(1, seed))
		w := randomWorld(r)
		m := w.manager()
		l := m.Acquire("random")
		var roots []Item
		for i := range w.items {
			hold := (i.Kind == Snapshot || i.Kind == Blob) && r.IntN(20) == 0
			if hold {
				if err := l.Hold(t.Context(), i); err != nil {
					t.Fatal(err)
				}
			}
			if hold || i.Kind == Record || i.Kind == Image {
				roots = append(roots, i)
			}
		}
		want, total := w.reach(roots...), w.total()
		dry := collect(t, m, Policy{DryRun: true})
		real := collect(t, m, Policy{})
		for i := range w.items {
			if !want[i] {
				t.Errorf("seed %d: %s is left", seed, i)
			}
			delete(want, i)
		}
		if len(want) > 0 {
			t.Errorf("seed %d: missing are %v", seed, want)
		}
		if dry.Freed != real.Freed || dry.Left != real.Left || len(dry.Removed) != len(real.Removed) {
			t.Errorf("seed %d: dry %+v, real %+v", seed, dry, real)
		}
		if real.Freed+real.Left != total || real.Left != w.total() {
			t.Errorf("seed %d: freed %d and left %d of %d; there are %d", seed, real.Freed, real.Left, total, w.total())
		}
		if t.Failed() {
			return
		}
	}
}

// total is the bytes of all Plain items.
func (w *world) total() (n int64) {
	for _, i := range w.items {
		if i.Kind == Snapshot || i.Kind == Blob {
			n += max(i.Size, 0)
		}
	}
	return n
}

// Eviction reaches its target or leaves nothing that it may evict, never touches what an image or a lease reaches, and
// leaves no record that refers to what is gone.
func TestEvictRandom(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(2, seed))
		w := randomWorld(r)
		m := w.manager()
		l := m.Acquire("random")
		var kept []Item
		for i := range w.items {
			if i.Kind != Image && r.IntN(30) == 0 {
				if err := l.Hold(t.Context(), i); err != nil {
					t.Fatal(err)
				}
				kept = append(kept, i)
			}
			if i.Kind == Image {
				kept = append(kept, i)
			}
		}
		want := w.reach(kept...)
		target := int64(r.IntN(1500))
		report := collect(t, m, Policy{Target: target, Evict: always, Value: func(Unit) float64 { return r.Float64() }})
		for i := range want {
			if _, ok := w.items[i]; !ok {
				t.Errorf("seed %d: %s was evicted", seed, i)
			}
		}
		for i := range w.items {
			for _, ref := range w.items[i].Refs {
				if _, ok := w.items[ref]; !ok {
					t.Errorf("seed %d: %s refers to %s, which is gone", seed, i, ref)
				}
			}
			if report.Left > target && !want[i] && (i.Kind == Snapshot || i.Kind == Blob) {
				t.Errorf("seed %d: %d bytes are left, more than %d, and %s is one", seed, report.Left, target, i)
			}
		}
		if report.Left != w.total() {
			t.Errorf("seed %d: %d bytes reported left, there are %d", seed, report.Left, w.total())
		}
		if t.Failed() {
			return
		}
	}
}

// While collections run, whoever holds something has it until the release, and whoever makes a reference under the
// rules finds what it refers to.
func TestConcurrent(t *testing.T) {
	w := newWorld()
	m := w.manager()
	ctx := t.Context()
	stop := make(chan struct{})
	var collector, workers sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := m.Collect(ctx, Policy{Evict: always, Target: 5}); err != nil {
				t.Error(err)
			}
			if _, err := m.Usage(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	for g := range 4 {
		workers.Go(func() { work(t, w, m, rand.New(rand.NewPCG(3, uint64(g)))) })
	}
	workers.Wait()
	close(stop)
	collector.Wait()
	// References that were made by the rules lead somewhere.
	for _, i := range w.items {
		for _, ref := range i.Refs {
			if !w.has(ref) {
				t.Errorf("%s refers to %s, which is gone", i.Item, ref)
			}
		}
	}
}

// work does what a build does: it holds a result or makes it, and refers to it by a record.
func work(t *testing.T, w *world, m *Manager, r *rand.Rand) {
	ctx := t.Context()
	for range 500 {
		l := m.Acquire("worker")
		name := fmt.Sprint(r.IntN(20))
		err := l.Hold(ctx, sn(name))
		if err != nil {
			if !errors.Is(err, snapshot.ErrNotFound) {
				t.Error(err)
			}
			if err := l.Reserve(ctx, sn(name)); err != nil {
				t.Error(err)
			}
			w.put(item(Snapshot, name, 1))
		}
		if !w.has(sn(name)) {
			t.Errorf("%s is held and gone", name)
		}
		rec := Item{Record, name}
		if err := l.Reserve(ctx, rec); err != nil {
			t.Error(err)
		}
		w.put(item(Record, name, 0, sn(name)))
		if !w.has(sn(name)) {
			t.Errorf("%s is held, referred to and gone", name)
		}
		l.Release()
	}
}

// BenchmarkCollect collects where there is nothing to remove: 5,000 snapshots in chains of 50, each with a record.
func BenchmarkCollect(b *testing.B) {
	w := newWorld()
	for i := range 5000 {
		s := item(Snapshot, fmt.Sprint(i), 1)
		if i%50 > 0 {
			s.Refs = []Item{sn(fmt.Sprint(i - 1))}
		}
		w.put(s)
		w.put(item(Record, fmt.Sprint(i), 0, s.Item))
	}
	m := w.manager()
	for b.Loop() {
		if r, err := m.Collect(context.Background(), Policy{}); err != nil || len(r.Removed) > 0 {
			b.Fatal(r, err)
		}
	}
}

// BenchmarkHold holds what is held already, as every step of a warm build does.
func BenchmarkHold(b *testing.B) {
	w := small()
	m := w.manager()
	for b.Loop() {
		l := m.Acquire("one")
		if err := l.Hold(context.Background(), sn("a")); err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
}
