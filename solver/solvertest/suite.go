package solvertest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
)

// Key makes up a key, the same for the same n.
func Key(n int) solver.Key {
	var h solver.Hasher
	h.Int("n", int64(n))
	return h.Sum()
}

// TestCache is the suite that every solver.Cache passes. Each call of open returns an empty cache, which the suite does
// not close.
func TestCache(t *testing.T, open func() solver.Cache) {
	tests := []struct {
		name string
		run  func(*testing.T, solver.Cache)
	}{
		{"Miss", testMiss},
		{"PutGet", testPutGet},
		{"Replace", testReplace},
		{"Aliasing", testAliasing},
		{"Many", testMany},
		{"Concurrent", testConcurrent},
		{"Describe", testDescribe},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, open()) })
	}
}

// want checks that the cache has exactly out under k. Nil stands for a miss.
func want(t *testing.T, c solver.Cache, k solver.Key, out []solver.Result) {
	t.Helper()
	got, err := c.Get(t.Context(), k)
	switch {
	case out == nil:
		if !errors.Is(err, solver.ErrMiss) || got != nil {
			t.Errorf("Get(%s) = %v, %v, want a miss", k.Short(), got, err)
		}
	case err != nil || got == nil || !slices.Equal(got, out):
		t.Errorf("Get(%s) = %v, %v, want %q", k.Short(), got, err, out)
	}
}

func put(t *testing.T, c solver.Cache, k solver.Key, out []solver.Result) {
	t.Helper()
	if err := c.Put(t.Context(), k, out); err != nil {
		t.Errorf("Put(%s): %v", k.Short(), err)
	}
}

// What was never put is a miss, and asking does not change that.
func testMiss(t *testing.T, c solver.Cache) {
	want(t, c, Key(1), nil)
	want(t, c, Key(1), nil)
	want(t, c, solver.Key{}, nil)
	put(t, c, Key(2), []solver.Result{"x"})
	want(t, c, Key(1), nil)
}

// What was put is got, byte for byte and in order, at once and again; also nothing at all, which is not a miss.
func testPutGet(t *testing.T, c solver.Cache) {
	for i, out := range [][]solver.Result{
		{"a"},
		{"a", "b", "a"},
		{""},
		{"", ""},
		{},
		{"snapshot:\x00\xff\n\"'ü"},
		{solver.Result(strings.Repeat("long", 100_000))},
	} {
		put(t, c, Key(i), out)
		want(t, c, Key(i), out)
		want(t, c, Key(i), out)
	}
	put(t, c, solver.Key{}, []solver.Result{"the zero key is a key"})
	want(t, c, solver.Key{}, []solver.Result{"the zero key is a key"})
	put(t, c, Key(100), nil)
	want(t, c, Key(100), []solver.Result{})
}

// What is put later replaces what was there, and nothing else.
func testReplace(t *testing.T, c solver.Cache) {
	put(t, c, Key(1), []solver.Result{"old", "and more"})
	put(t, c, Key(2), []solver.Result{"other"})
	want(t, c, Key(1), []solver.Result{"old", "and more"})
	put(t, c, Key(1), []solver.Result{"new"})
	want(t, c, Key(1), []solver.Result{"new"})
	want(t, c, Key(2), []solver.Result{"other"})
}

// The cache shares no memory with its callers.
func testAliasing(t *testing.T, c solver.Cache) {
	out := []solver.Result{"a", "b"}
	put(t, c, Key(1), out)
	out[0] = "changed by the one who put it"
	want(t, c, Key(1), []solver.Result{"a", "b"})
	got, err := c.Get(t.Context(), Key(1))
	if err != nil {
		t.Fatal(err)
	}
	got[1] = "changed by one who got it"
	want(t, c, Key(1), []solver.Result{"a", "b"})
}

// Many records are kept apart, also those whose keys differ in one bit.
func testMany(t *testing.T, c solver.Cache) {
	const n = 2000
	key := func(i int) solver.Key {
		k := Key(0)
		binary.BigEndian.PutUint32(k[28:], binary.BigEndian.Uint32(k[28:])^uint32(i))
		return k
	}
	for i := range n {
		put(t, c, key(i), []solver.Result{solver.Result(fmt.Sprint(i))})
	}
	for i := range n {
		want(t, c, key(i), []solver.Result{solver.Result(fmt.Sprint(i))})
	}
	want(t, c, key(n), nil)
}

// Concurrent writers and readers of the same few keys see what somebody has put whole, and at last what was put last.
func testConcurrent(t *testing.T, c solver.Cache) {
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				r := solver.Result(fmt.Sprint(w, i))
				put(t, c, Key(i%5), []solver.Result{r, r})
				if d, ok := c.(solver.Describer); ok {
					d.Describe(t.Context(), Key(i%5), solver.Record{Name: string(r)})
				}
				got, err := c.Get(t.Context(), Key(i%5))
				if err != nil || len(got) != 2 || got[0] != got[1] {
					t.Errorf("got %v, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 5 {
		put(t, c, Key(i), []solver.Result{"last"})
		want(t, c, Key(i), []solver.Result{"last"})
	}
}

// Describing a record does not change it, and describing what was never put does not make it a record.
func testDescribe(t *testing.T, c solver.Cache) {
	d, ok := c.(solver.Describer)
	if !ok {
		t.Skip("not a solver.Describer")
	}
	put(t, c, Key(1), []solver.Result{"a"})
	d.Describe(t.Context(), Key(1), solver.Record{Document: "n=1\n", Name: "one"})
	want(t, c, Key(1), []solver.Result{"a"})
	d.Describe(t.Context(), Key(2), solver.Record{Document: "n=2\n", Name: "two"})
	want(t, c, Key(2), nil)
	put(t, c, Key(1), []solver.Result{"b"})
	want(t, c, Key(1), []solver.Result{"b"})
}
