package solver

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What comes out of an ordered queue is sorted, and equals come out in the order in which they went in.
func TestOrdered(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var q ordered[int]
		var want [][2]int
		for i := range rng.IntN(100) {
			order := rng.IntN(20)
			q.push(order, i)
			want = append(want, [2]int{order, i})
		}
		slices.SortStableFunc(want, func(a, b [2]int) int { return a[0] - b[0] })
		var got [][2]int
		for q.len() > 0 {
			order, i := q.pop()
			got = append(got, [2]int{order, i})
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

// A pool runs no more jobs at once than it may, serves lanes in turn, and each lane in order.
func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pool{limit: 1}
		var mu sync.Mutex
		var got []int
		job := func(n int) func() {
			return func() {
				time.Sleep(time.Second)
				mu.Lock()
				got = append(got, n)
				mu.Unlock()
			}
		}
		var a, b lane
		p.submit(&a, 0, job(0)) // is being run when the others come
		synctest.Wait()
		for _, n := range []int{5, 3, 4} {
			p.submit(&a, n, job(n))
		}
		for _, n := range []int{12, 11} {
			p.submit(&b, n, job(n))
		}
		start := time.Now()
		time.Sleep(time.Minute)
		p.mu.Lock()
		mu.Lock()
		if want := []int{0, 3, 11, 4, 12, 5}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if p.busy != 0 || len(p.turn) != 0 || time.Since(start) != time.Minute {
			t.Error("the pool is not empty")
		}
		p.limit = 3
		got = nil
		p.mu.Unlock()
		mu.Unlock()
		start = time.Now()
		var last time.Duration
		for n := range 9 {
			p.submit(&a, n, func() {
				job(n)()
				mu.Lock()
				last = time.Since(start)
				mu.Unlock()
			})
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(got) != 9 || last != 3*time.Second {
			t.Errorf("9 jobs, 3 at a time, took %v", last)
		}
	})
}
