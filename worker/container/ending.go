package container

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/executor"
)

var zeroTime time.Time

// exitUnknown is the code of a container of whose end nobody knows, as docker has it.
const exitUnknown = 255

// watch waits for the end of a run and deals with it.
func (c *ctr) watch(r *run) {
	exit, err := r.box.Wait(c.m.life, "")
	if c.m.life.Err() != nil || c.lock(c.m.life) != nil {
		return // the next daemon finds it
	}
	defer c.unlock()
	c.settle(r, exit, err)
}

// watchMemory reports, while the container runs, that the kernel kills its processes for want of memory: those of an exec,
// or children of a process that goes on. The turn is held.
func (c *ctr) watchMemory(r *run) {
	w, ok := r.box.(executor.OOMWatcher)
	if !ok {
		return
	}
	deaf, err := w.WatchOOM(func() {
		r.oom.Store(true)
		c.note(func(rec *record) { rec.Status.OOMKilled = true })
		c.publish(events.ActionOOM, nil)
	})
	if err != nil {
		// As when it has ended already. Its end tells of it too.
		c.m.log.Debug("watching the memory of a container", "container", c.id, "error", err)
		return
	}
	r.deaf = deaf
}

// exitOf makes one of the two answers of Wait.
func (m *Manager) exitOf(exit executor.Exit, err error) executor.Exit {
	if err == nil {
		return exit
	}
	var gone *executor.GoneError
	if errors.As(err, &gone) && gone.Known {
		return gone.Exit
	}
	m.log.Error("a container has ended, and how is not known", "error", err)
	return executor.Exit{Code: exitUnknown, At: m.now()}
}

// settle deals with the end of a run, once. The turn is held.
func (c *ctr) settle(r *run, exit executor.Exit, err error) {
	if r.over {
		return
	}
	r.over = true
	ctx := context.Background() // what has begun to end is not left half way
	exit = c.m.exitOf(exit, err)
	if r.deaf != nil {
		r.deaf()
	}
	c.stopHealth()
	c.endExecs()
	c.release(ctx)
	c.m.warn("removing the keeper of a container", errors.Join(r.box.Delete(ctx), r.box.Close()))

	rec := c.get()
	now := rec.Status
	exit.At = exit.At.UTC()
	told := r.oom.Load()
	exit.OOMKilled = exit.OOMKilled || told
	next := Ended(now, Ending{Exit: exit, Policy: rec.policy(), Stopped: rec.Stopped || rec.Want == WantStop || rec.Want == WantRemove})
	if exit.Code == execFailed {
		next.Error = c.m.foreign(ctx, rec)
	}
	c.mu.Lock()
	c.box = nil
	c.mu.Unlock()
	c.note(func(rec *record) { rec.Status = next })
	if next.OOMKilled && !told { // it ended before anybody was told, or nobody watched
		c.publish(events.ActionOOM, nil)
	}
	c.publish(events.ActionDie, map[string]string{
		"exitCode":     strconv.Itoa(exit.Code),
		"execDuration": strconv.Itoa(int(exit.At.Sub(now.StartedAt).Seconds())),
	})
	c.tell(false)
	switch {
	case next.Phase == Restarting:
		c.scheduleRestart(r, next.Next)
	case rec.autoRemove() && !c.stays():
		c.m.warn("removing a container that has ended", c.reach(ctx, WantRemove))
	}
	close(r.done)
}

// scheduleRestart has the container run again at a time, unless something else is wanted before.
func (c *ctr) scheduleRestart(r *run, at time.Time) {
	ctx, cancel := context.WithCancel(c.m.life)
	r.cancel = cancel
	c.m.goOn(func() {
		defer cancel()
		timer := time.NewTimer(at.Sub(c.m.now()))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if c.lock(ctx) != nil {
			return
		}
		defer c.unlock()
		if ctx.Err() == nil && c.status().Phase == Restarting {
			c.again(r)
		}
	})
}

// again runs a container whose wait is over. One that cannot be run waits again, as after a run that failed.
func (c *ctr) again(r *run) {
	before := c.status()
	err := c.reach(c.m.life, WantRun)
	if err == nil || c.m.life.Err() != nil {
		return
	}
	c.m.log.Error("running a container again", "container", c.id, "error", err)
	rec := c.get()
	exit := executor.Exit{Code: rec.Status.ExitCode, At: c.m.now().UTC()}
	before.StartedAt = exit.At
	next := Ended(before, Ending{Exit: exit, Policy: rec.policy(), Stopped: rec.Stopped})
	next.StartedAt, next.Error = rec.Status.StartedAt, rec.Status.Error
	c.note(func(rec *record) {
		rec.Status = next
		if next.Phase == Restarting {
			rec.Want = WantRun
		}
	})
	c.tell(false) // who has begun to wait since the last end would miss that there is no other
	if next.Phase == Restarting {
		c.scheduleRestart(r, next.Next)
	}
}

// cancelRestart ends the wait for a restart. The turn is held.
func (c *ctr) cancelRestart() {
	c.mu.Lock()
	r := c.run
	c.mu.Unlock()
	if r != nil && r.cancel != nil {
		r.cancel()
		r.cancel = nil
	}
}

// Kill implements Controller.
func (c *ctr) Kill(ctx context.Context, _ Status) (Status, error) {
	c.mu.Lock()
	r := c.run
	c.mu.Unlock()
	exit, err := r.kill(ctx)
	if ctx.Err() != nil {
		return c.status(), context.Cause(ctx)
	}
	c.settle(r, exit, err)
	return c.status(), nil
}
