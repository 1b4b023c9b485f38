package container

import (
	"context"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// A waiter is one call of Wait.
type waiter struct {
	removed bool // it waits for the container to be gone, not for its end
	answer  chan container.WaitResponse
}

// Wait implements worker.Containers.
func (m *Manager) Wait(ctx context.Context, ref string, cond container.WaitCondition) (<-chan container.WaitResponse, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	w := &waiter{answer: make(chan container.WaitResponse, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	status := c.rec.Status
	switch cond {
	case "", container.WaitConditionNotRunning:
		if !status.Up() {
			w.answer <- container.WaitResponse{StatusCode: int64(status.ExitCode)}
			return w.answer, nil
		}
	case container.WaitConditionNextExit:
	case container.WaitConditionRemoved:
		w.removed = true
	default:
		return nil, worker.Invalidf("invalid condition: %q", cond)
	}
	if status.Phase == Gone {
		w.answer <- container.WaitResponse{StatusCode: int64(status.ExitCode)}
		return w.answer, nil
	}
	c.waiters = append(c.waiters, w)
	context.AfterFunc(ctx, func() { c.unwait(w) })
	return w.answer, nil
}

// unwait forgets a waiter.
func (c *ctr) unwait(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.waiters {
		if c.waiters[i] == w {
			c.waiters = append(c.waiters[:i:i], c.waiters[i+1:]...)
			return
		}
	}
}

// tell answers those who wait for the end of the container or, when it is gone, all.
func (c *ctr) tell(gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := c.waiters[:0:0]
	for _, w := range c.waiters {
		if w.removed && !gone {
			left = append(left, w)
			continue
		}
		w.answer <- container.WaitResponse{StatusCode: int64(c.rec.Status.ExitCode)}
	}
	c.waiters = left
}
