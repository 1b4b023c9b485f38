package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// Start implements worker.Containers.
func (m *Manager) Start(ctx context.Context, ref string) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	switch c.status().Phase {
	case Paused:
		return worker.Conflictf("cannot start a paused container, try unpause instead")
	case Running:
		return notModified("container %s is running already", c.id)
	case Removing, Dead:
		return worker.Conflictf("container is marked for removal and cannot be started")
	case Gone:
		return noSuch(ref)
	case Created, Restarting, Exited:
	}
	return c.start(ctx)
}

// start runs the container, whose turn is held, on behalf of a user: what the policy has counted begins anew.
func (c *ctr) start(ctx context.Context) error {
	c.cancelRestart()
	c.change(func(rec *record) {
		rec.Want, rec.Stopped = WantRun, false
		rec.Status.Restarts, rec.Status.Backoff, rec.Status.Next = 0, 0, zeroTime
	})
	err := c.reach(ctx, WantRun)
	if err != nil && c.get().autoRemove() {
		c.m.warn("removing a container that did not start", c.reach(context.WithoutCancel(ctx), WantRemove))
	}
	return err
}

// reach takes the container to what is wanted. The turn is held.
func (c *ctr) reach(ctx context.Context, want Want) error {
	return Reach(ctx, c, c.status(), want, func(s Status) {
		set := func(rec *record) {
			if rec.Status = s; s.Alive() && c.run != nil && c.run.oom.Load() {
				rec.Status.OOMKilled = true // since the status was looked at
			}
		}
		if s.Phase == Gone {
			c.change(set) // there is no record any more
		} else {
			c.note(set)
		}
	})
}

// Start implements Controller.
func (c *ctr) Start(ctx context.Context, now Status) (Status, error) {
	begin := time.Now()
	r, err := c.launch(ctx)
	c.m.meter("start", begin, err)
	if err != nil {
		c.failPending(err)
		now.Error, now.ExitCode = err.Error(), startCode(err)
		if now.Phase == Restarting {
			now.Phase = Exited
		}
		c.change(func(rec *record) { rec.Want = WantAny })
		return now, err
	}
	now.Phase, now.Pid, now.StartedAt, now.Next = Running, r.box.Pid(""), c.m.now().UTC(), zeroTime
	now.Error, now.ExitCode, now.OOMKilled, now.Health = "", 0, false, nil
	c.mu.Lock()
	c.box, c.run = r.box, r
	c.mu.Unlock()
	c.change(func(rec *record) { rec.Status = now }) // before anybody is told
	// Who came while it was being started has not been connected yet, and finds the process now, unless it has ended.
	c.m.warn("attaching to a container", c.connectPending(ctx, r.box))
	c.publish(events.ActionStart, nil)
	now.Health = c.startHealth(r)
	c.watchMemory(r)
	c.m.goOn(func() { c.watch(r) })
	return now, nil
}

// launch makes everything that a run needs, and runs it. When it fails nothing is left.
func (c *ctr) launch(ctx context.Context) (_ *run, err error) {
	m, rec := c.m, c.get()
	if m.deps.Host == nil {
		return nil, worker.Errorf(errdefs.ErrNotImplemented, "this daemon's executor cannot run containers")
	}
	late := context.WithoutCancel(ctx)
	defer func() {
		if err != nil {
			c.release(late)
		}
	}()
	req, err := m.networkRequest(rec)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	net, err := m.deps.Network.Setup(ctx, req)
	if err != nil {
		return nil, err // it has docker's words
	}
	m.deps.Meter.NetworkAction("allocate", time.Since(begin))
	if err := c.writeFiles(rec, net); err != nil {
		return nil, err
	}
	root, err := c.openRoot(ctx, rec)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	mounts, err := c.openMounts(ctx, rec)
	defer closeMounts(mounts)
	if err != nil {
		return nil, err
	}
	makeTargets(root, mounts)
	spec, err := m.spec(rec, net)
	if err != nil {
		return nil, err
	}
	spec.Root = root
	spec.Mounts = append(spec.Mounts, mounts...)
	// Anew for each start: what is installed may have changed.
	done, err := m.requested(spec, rec.HostConfig.DeviceRequests)
	if err != nil {
		return nil, err
	}
	defer done()
	box, err := m.deps.Host.Create(ctx, c.dir(), spec, m.hostOptions(rec))
	if err != nil {
		return nil, startError(rec, err)
	}
	if err = c.connectPending(ctx, box); err == nil {
		err = box.Run(ctx, "")
	}
	if err != nil {
		return nil, errors.Join(startError(rec, err), box.Delete(late), box.Close())
	}
	return &run{box: box, done: make(chan struct{})}, nil
}

// openRoot mounts the writable layer on the image.
func (c *ctr) openRoot(ctx context.Context, rec *record) (*os.File, error) {
	// What nobody will see again after a crash need not be written out.
	mounts, err := c.m.keeper.Mounts(ctx, c.draft(), rec.autoRemove())
	if err != nil {
		return nil, err
	}
	return c.m.open(ctx, mounts)
}

// release gives back what a run had. It goes as far as it can.
func (c *ctr) release(ctx context.Context) {
	begin := time.Now()
	err := c.m.deps.Network.Teardown(ctx, c.id)
	if err == nil {
		c.m.deps.Meter.NetworkAction("release", time.Since(begin))
	}
	c.m.warn("giving back the network of a container", err)
	for _, p := range c.get().Mounts {
		if p.Name != "" {
			c.m.warn("giving back a volume", c.m.deps.Volumes.Unmount(ctx, p.Name, c.id))
		}
	}
}

// startError gives the error of a process that could not be executed docker's words.
func startError(rec *record, err error) error {
	var se *executor.StartError
	if !errors.As(err, &se) {
		return fmt.Errorf("failed to create task for container: %w", err)
	}
	path := se.Path
	if path == "" {
		path, _ = rec.command()
	}
	return &commandError{code: se.Code, text: "failed to create task for container: unable to start container process: exec: " +
		execText(path, se)}
}

// execText is how Go's os/exec, and so runc, says it; the client looks for these words.
func execText(path string, se *executor.StartError) string {
	why := "permission denied"
	switch {
	case se.Code == 127 && !strings.Contains(path, "/"):
		why = "executable file not found in $PATH"
	case se.Code == 127:
		why = "no such file or directory"
	case se.Err != nil && !errors.Is(se.Err, os.ErrPermission):
		why = se.Err.Error()
	}
	if strings.Contains(path, "/") {
		return fmt.Sprintf("%q: stat %s: %s", path, path, why)
	}
	return fmt.Sprintf("%q: %s", path, why)
}

// A commandError says that a command could not be executed. It is the user's error.
type commandError struct {
	code int
	text string
}

func (e *commandError) Error() string { return e.text }

// Unwrap returns the class.
func (e *commandError) Unwrap() error { return errdefs.ErrInvalidArgument }

// startCode is the exit code of a container that did not start, as docker has it.
func startCode(err error) int {
	var ce *commandError
	if errors.As(err, &ce) {
		return ce.code
	}
	return 128
}
