package registry

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Work lives as long as somebody waits for it: it outlives the caller that began it, ends when the last one leaves, and
// is not joined after that.
func TestFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flight[string, int]
		started, cancelled := 0, 0
		work := func(ctx context.Context) (int, error) {
			started++
			n := started
			select {
			case <-time.After(10 * time.Second):
				return n, nil
			case <-ctx.Done():
				cancelled++
				time.Sleep(time.Second) // clean-up takes time
				return 0, ctx.Err()
			}
		}
		var wg sync.WaitGroup
		wait := func(key string, patience time.Duration, want error, value int) {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				got, err := f.do(ctx, key, work)
				if !errors.Is(err, want) || got != value {
					t.Errorf("%s, %v: got %d, %v; want %d, %v", key, patience, got, err, value, want)
				}
			})
		}
		wait("a", time.Second, context.DeadlineExceeded, 0)
		synctest.Wait()
		wait("a", time.Minute, nil, 1)
		wait("a", time.Minute, nil, 1)
		wg.Wait()
		if started != 1 || cancelled != 0 {
			t.Errorf("%d started, %d cancelled; want 1, 0", started, cancelled)
		}

		wait("b", time.Second, context.DeadlineExceeded, 0)
		wait("b", 2*time.Second, context.DeadlineExceeded, 0)
		time.Sleep(2*time.Second + time.Millisecond) // both have left, the work is cleaning up
		wait("b", time.Minute, nil, 3)
		wg.Wait()
		f.wait()
		if started != 3 || cancelled != 1 || len(f.calls) != 0 {
			t.Errorf("%d started, %d cancelled, %d left; want 3, 1, 0", started, cancelled, len(f.calls))
		}
	})
}
