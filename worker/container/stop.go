package container

import (
	"context"
	"errors"
	"math"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/sys/signal"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// stopTimeout is how long a container has to end after its stop signal, in seconds, if it does not say so itself.
const stopTimeout = 10

// Stop implements worker.Containers.
func (m *Manager) Stop(ctx context.Context, ref string, opt worker.StopOptions) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	if !c.status().Up() {
		return notModified("container %s is not running", c.id)
	}
	return c.stop(ctx, opt)
}

// stop ends the container as a user wants it, also when the client does not wait for that. One that has ended meanwhile is
// no error.
func (c *ctr) stop(ctx context.Context, opt worker.StopOptions) error {
	ctx = context.WithoutCancel(ctx)
	sig, err := c.stopSignal(opt.Signal)
	if err != nil {
		return err
	}
	r, err := c.askToStop(ctx, sig)
	if err != nil || r == nil {
		return err
	}
	if !r.endsWithin(c.stopTimeout(opt.Timeout)) {
		if err := c.lock(ctx); err != nil {
			return err
		}
		if !r.over {
			c.publish(events.ActionKill, map[string]string{"signal": strconv.Itoa(int(syscall.SIGKILL))})
			err = c.reach(ctx, WantStop)
		}
		c.unlock()
		if err != nil {
			return err
		}
	}
	c.publish(events.ActionStop, nil)
	return nil
}

// askToStop notes that the container is to stop, and sends it the signal. It returns the run whose end is to be waited for,
// or nil if there is none.
func (c *ctr) askToStop(ctx context.Context, sig syscall.Signal) (*run, error) {
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	if !c.status().Up() {
		return nil, nil
	}
	if err := c.save(func(rec *record) { rec.Want, rec.Stopped = WantStop, true }); err != nil {
		return nil, err
	}
	c.cancelRestart()
	if !c.status().Alive() {
		if err := c.reach(ctx, WantStop); err != nil {
			return nil, err
		}
		c.tell(false)
		c.publish(events.ActionStop, nil)
		return nil, nil
	}
	c.mu.Lock()
	r, paused := c.run, c.rec.Status.Phase == Paused
	c.mu.Unlock()
	if err := c.send(ctx, r.box, sig); err != nil {
		return nil, err
	}
	if paused { // it takes the signal when it goes on
		s, err := c.Resume(ctx, c.status())
		c.note(func(rec *record) { rec.Status = s })
		c.m.warn("resuming a container that is to stop", err)
	}
	return r, nil
}

// send sends a signal to the first process; one that has ended has nothing to be told.
func (c *ctr) send(ctx context.Context, box executor.Container, sig syscall.Signal) error {
	err := box.Signal(ctx, "", sig)
	var gone *executor.GoneError
	if errors.Is(err, os.ErrProcessDone) || errors.As(err, &gone) {
		return nil
	}
	if err == nil {
		c.publish(events.ActionKill, map[string]string{"signal": strconv.Itoa(int(sig))})
	}
	return err
}

// endsWithin waits until the end of the run has been dealt with, as long as timeout; negative means for ever.
func (r *run) endsWithin(timeout time.Duration) bool {
	var late <-chan time.Time
	if timeout >= 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-r.done:
		return true
	case <-late:
		return false
	}
}

// kill ends the processes and waits for that. It does not deal with the end.
func (r *run) kill(ctx context.Context) (executor.Exit, error) {
	var gone *executor.GoneError
	err := r.box.Signal(ctx, "", syscall.SIGKILL)
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.As(err, &gone) {
		return executor.Exit{}, err
	}
	return r.box.Wait(ctx, "")
}

func (c *ctr) stopSignal(name string) (syscall.Signal, error) {
	if name == "" {
		name = c.get().Config.StopSignal
	}
	if name == "" {
		return syscall.SIGTERM, nil
	}
	return parseSignal(name)
}

func parseSignal(name string) (syscall.Signal, error) {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 0, worker.Invalidf("invalid signal: %s", name)
	}
	return sig, nil
}

// stopTimeout is how long the container has to end; negative means for ever.
func (c *ctr) stopTimeout(asked *int) time.Duration {
	seconds := stopTimeout
	if own := c.get().Config.StopTimeout; own != nil {
		seconds = *own
	}
	if asked != nil {
		seconds = *asked
	}
	if seconds > math.MaxInt64/int(time.Second) {
		return -1 // longer than there are numbers for
	}
	return time.Duration(seconds) * time.Second
}

// Kill implements worker.Containers.
func (m *Manager) Kill(ctx context.Context, ref, name string) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	sig := syscall.SIGKILL
	if name != "" {
		if sig, err = parseSignal(name); err != nil {
			return err
		}
	}
	r, err := c.signal(ctx, ref, sig)
	if err != nil || sig != syscall.SIGKILL || r == nil {
		return err
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// signal sends a signal as a user wants it. One that is meant to end the container also ends its being restarted. The run
// is nil if none was going on.
func (c *ctr) signal(ctx context.Context, ref string, sig syscall.Signal) (*run, error) {
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	status := c.status()
	if !status.Up() {
		return nil, worker.Conflictf("cannot kill container: %s: container %s is not running", ref, c.id)
	}
	stop, err := c.stopSignal("")
	if err != nil {
		stop = syscall.SIGTERM
	}
	if sig == syscall.SIGKILL || sig == stop {
		if err := c.save(func(rec *record) { rec.Stopped = true }); err != nil {
			return nil, err
		}
		c.cancelRestart()
	}
	if status.Phase == Restarting {
		err := c.reach(ctx, WantStop)
		c.tell(false)
		return nil, err
	}
	c.mu.Lock()
	r := c.run
	c.mu.Unlock()
	return r, c.send(ctx, r.box, sig)
}

// Restart implements worker.Containers.
func (m *Manager) Restart(ctx context.Context, ref string, opt worker.StopOptions) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	if c.status().Up() {
		c.restart(1)
		err := c.stop(ctx, opt)
		c.restart(-1)
		if err != nil {
			return err
		}
	}
	if err := m.Start(ctx, c.id); err != nil && !errdefs.IsNotModified(err) { // somebody else has started it
		return err
	}
	c.publish(events.ActionRestart, nil)
	return nil
}

// Pause implements worker.Containers.
func (m *Manager) Pause(ctx context.Context, ref string) error {
	return m.freeze(ctx, ref, WantPause)
}

// Unpause implements worker.Containers.
func (m *Manager) Unpause(ctx context.Context, ref string) error {
	return m.freeze(ctx, ref, WantRun)
}

func (m *Manager) freeze(ctx context.Context, ref string, want Want) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	switch phase := c.status().Phase; {
	case want == WantRun && phase != Paused:
		return worker.Conflictf("Container %s is not paused", c.id)
	case phase == Paused && want == WantPause:
		return worker.Conflictf("container %s is already paused", c.id)
	case phase == Restarting:
		return isRestarting(c.id)
	case phase != Running && want == WantPause:
		return notRunning(c.id)
	}
	// A daemon that finds the container again cannot see whether it is frozen, and makes it as it is wanted.
	if err := c.save(func(rec *record) { rec.Want = want }); err != nil {
		return err
	}
	return c.reach(ctx, want)
}

// Pause implements Controller.
func (c *ctr) Pause(ctx context.Context, now Status) (Status, error) {
	box, err := c.running()
	if err != nil {
		return now, err
	}
	c.stopHealth() // a check would hang, and fail
	if err := box.Pause(ctx); err != nil {
		c.resumeHealth()
		return now, err
	}
	now = c.status() // with the last result
	now.Phase = Paused
	c.change(func(rec *record) { rec.Status = now }) // before anybody is told
	c.publish(events.ActionPause, nil)
	return now, nil
}

// Resume implements Controller.
func (c *ctr) Resume(ctx context.Context, now Status) (Status, error) {
	box, err := c.running()
	if err == nil {
		err = box.Resume(ctx)
	}
	if err != nil {
		return now, err
	}
	now.Phase = Running
	c.change(func(rec *record) { rec.Status = now })
	c.resumeHealth()
	c.publish(events.ActionUnPause, nil)
	return now, nil
}
