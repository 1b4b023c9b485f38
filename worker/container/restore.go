package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/boxbuild/boxbuild/executor"
)

// restoring is how many containers are looked for at once.
const restoring = 8

// Restore finds the containers again when the daemon starts, before anybody is served: which of them run on, how the
// others have ended, and which are to run. Those that their policy restarts are started in the background.
func (m *Manager) Restore(ctx context.Context) error {
	all := m.all()
	for _, c := range all {
		m.nameByID(c)
		for _, p := range c.get().Mounts {
			if p.Type == mount.TypeVolume {
				m.warn("holding a volume of a container", m.deps.Volumes.Hold(p.Name, c.id))
			}
		}
	}
	m.sweep(ctx)
	starts := make([]bool, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	slots := make(chan struct{}, restoring)
	for i, c := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := c.lock(ctx); err != nil {
				errs[i] = err
				return
			}
			defer c.unlock()
			starts[i] = c.restore(ctx)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("finding the containers again: %w", err)
	}
	m.warn("settling the networks", m.deps.Network.Settle(ctx))
	m.warn("settling the volumes", m.deps.Volumes.Settle(ctx))
	m.goOn(func() {
		for i, c := range all {
			if starts[i] {
				m.startAgain(c)
			}
		}
	})
	return nil
}

// sweep removes the directories of containers that are none, and the volumes that go with them.
func (m *Manager) sweep(ctx context.Context) {
	entries, err := os.ReadDir(m.deps.Dir)
	m.warn("looking for what is left of containers", err)
	for _, e := range entries {
		m.mu.Lock()
		c := m.byID[e.Name()]
		m.mu.Unlock()
		if c == nil {
			dir := filepath.Join(m.deps.Dir, e.Name())
			m.sweepVolumes(ctx, dir)
			m.warn("removing what is left of a container", os.RemoveAll(dir))
		}
	}
}

// startAgain starts a container whose policy wants it to run when the daemon starts.
func (m *Manager) startAgain(c *ctr) {
	if c.lock(m.life) != nil {
		return
	}
	defer c.unlock()
	if s := c.status(); s.Up() && s.Phase != Restarting || s.Phase == Gone || m.life.Err() != nil {
		return
	}
	if err := c.reach(m.life, WantRun); err != nil && m.life.Err() == nil {
		m.log.Error("starting a container with the daemon", "container", c.id, "error", err)
	}
}

// restore finds out how the container stands, and says whether it is to be started. The turn is held.
func (c *ctr) restore(ctx context.Context) (start bool) {
	rec := c.get()
	if p := rec.Status.Phase; p == Removing || p == Dead || rec.Want == WantRemove {
		return c.goOnRemoving(ctx)
	}
	if _, err := os.Stat(c.dir()); errors.Is(err, os.ErrNotExist) {
		if rec.autoRemove() { // it was being removed
			return c.goOnRemoving(ctx)
		}
		c.m.warn("making the directory of a container again", os.Mkdir(c.dir(), 0o710))
	}
	box, err := c.m.deps.Host.Open(ctx, c.dir())
	var gone *executor.GoneError
	switch {
	case errors.As(err, &gone):
		return c.found(ctx, nil, gone.Exit, gone)
	case err != nil:
		return c.unknown(err)
	}
	var exit executor.Exit
	switch err := box.Signal(ctx, "", 0); {
	case err == nil:
		c.adopt(ctx, box)
		return false
	case errors.Is(err, os.ErrProcessDone):
		exit, err = box.Wait(ctx, "")
		return c.found(ctx, box, exit, err)
	case errors.As(err, &gone):
		return c.found(ctx, box, executor.Exit{}, gone)
	case !errors.Is(err, executor.ErrNotRunning):
		return c.unknown(errors.Join(err, box.Close()))
	}
	// It was about to be run when the daemon was killed, and never has been.
	c.m.warn("removing the keeper of a container that never ran", errors.Join(box.Delete(ctx), box.Close()))
	c.release(ctx)
	return c.idle(ctx)
}

// unknown records that nobody can say how the container is. It may run: nothing of it is taken away, it does not remove itself,
// and is not run a second time.
func (c *ctr) unknown(err error) (start bool) {
	c.m.log.Error("finding a container again", "container", c.id, "error", err)
	if now := c.status(); now.Up() {
		exit := executor.Exit{Code: exitUnknown, At: c.m.now().UTC()}
		c.note(func(rec *record) { rec.Status = Ended(now, Ending{Exit: exit, Stopped: true}) })
	}
	return false
}

func (c *ctr) goOnRemoving(ctx context.Context) bool {
	// It runs if the daemon was killed between the two.
	if box, err := c.m.deps.Host.Open(ctx, c.dir()); err == nil {
		c.m.warn("ending a container that is to be removed", errors.Join(box.Delete(ctx), box.Close()))
		c.release(ctx)
	}
	c.change(func(rec *record) {
		if rec.Want = WantRemove; rec.Status.Alive() {
			rec.Status.Phase = Exited
		}
	})
	c.m.warn("removing a container", c.reach(ctx, WantRemove))
	return false
}

// adopt takes over a container that runs on.
func (c *ctr) adopt(ctx context.Context, box executor.Container) {
	rec := c.get()
	r := &run{box: box, done: make(chan struct{})}
	c.mu.Lock()
	c.box, c.run = box, r
	c.mu.Unlock()
	c.note(func(rec *record) {
		s := &rec.Status
		if !s.Alive() { // the daemon was killed before it had written down that it runs
			s.StartedAt, s.Error, s.ExitCode = c.m.now().UTC(), "", 0
			s.Phase = Running
		}
		s.Pid = box.Pid("")
		if rec.Want == WantAny {
			rec.Want = WantRun
		}
	})
	for _, p := range rec.Mounts {
		if p.Type == mount.TypeVolume {
			c.m.warn("taking over a volume of a container", c.m.deps.Volumes.InUse(ctx, p.Name, c.id))
		}
	}
	req, err := c.m.networkRequest(rec)
	if err == nil {
		_, err = c.m.deps.Network.Restore(ctx, req)
	}
	if err != nil {
		c.m.log.Error("taking over the network of a container", "container", c.id, "error", err)
	}
	c.endProbes(ctx, box)
	health := c.startHealth(r)
	c.change(func(rec *record) { rec.Status.Health = health })
	// Whether it is frozen cannot be seen, so it is made what it is to be. A commit that the daemon's end broke off has frozen it,
	// too, and nothing says so.
	if c.get().Want == WantPause {
		c.change(func(rec *record) { rec.Status.Phase = Running })
		c.m.warn("pausing a container again", c.reach(ctx, WantPause))
	} else if c.status().Phase == Paused {
		c.m.warn("resuming a container again", c.reach(ctx, WantRun))
	} else {
		c.m.warn("resuming a container", box.Resume(ctx))
	}
	r.oom.Store(c.status().OOMKilled)
	c.watchMemory(r)
	c.m.goOn(func() { c.watch(r) })
}

// found records how a container that does not run has ended, if that was not known, and says whether it is to be started.
func (c *ctr) found(ctx context.Context, box executor.Container, exit executor.Exit, err error) (start bool) {
	if box != nil {
		c.m.warn("removing the keeper of a container", errors.Join(box.Delete(ctx), box.Close()))
	}
	c.release(ctx)
	rec := c.get()
	now := rec.Status
	var gone *executor.GoneError
	known := err == nil || errors.As(err, &gone) && gone.Known
	news := known && exit.At.After(now.FinishedAt) && !exit.At.Before(now.StartedAt)
	if !now.Alive() && !news {
		if now.Phase == Restarting {
			c.note(func(rec *record) { rec.Status.Phase = Exited })
		}
		return c.idle(ctx)
	}
	if !known {
		exit = executor.Exit{Code: exitUnknown, At: c.m.now()}
	}
	exit.At = exit.At.UTC()
	next := Ended(now, Ending{Exit: exit, Stopped: true})
	c.note(func(rec *record) { rec.Status = next })
	return c.idle(ctx)
}

// idle has a container that does not run go if it is to remove itself, even if it never ran: who was to start it is gone
// with the daemon before. Else it says whether it is to be started.
func (c *ctr) idle(ctx context.Context) (start bool) {
	if c.get().autoRemove() {
		return c.goOnRemoving(ctx)
	}
	return c.wantsStart()
}

// wantsStart says whether the policy has the container, which does not run, started with the daemon.
func (c *ctr) wantsStart() bool {
	rec := c.get()
	if rec.Status.StartedAt.IsZero() && rec.Want != WantRun {
		return false // nobody has ever started it
	}
	switch p := rec.policy(); p.Name {
	case container.RestartPolicyAlways:
		return true
	case container.RestartPolicyUnlessStopped:
		return !rec.Stopped
	case container.RestartPolicyOnFailure:
		return !rec.Stopped && rec.Status.ExitCode != 0 && (p.MaximumRetryCount == 0 || rec.Status.Restarts < p.MaximumRetryCount)
	case container.RestartPolicyDisabled:
	}
	return false
}

// Running is how many containers run, or are about to.
func (m *Manager) Running() int {
	n := 0
	for _, c := range m.all() {
		if c.status().Up() {
			n++
		}
	}
	return n
}
