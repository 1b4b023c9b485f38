//go:build cgo

package libcontainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/hook"
)

// hooks are those of one sandbox. The library is told of one only, which asks the daemon: it calls that in this process, at the
// moment at which createRuntime hooks are due, while the new process waits with all of its mounts in place. Nothing
// is in what is sent to that process.
type hooks struct {
	bundle  string
	list    []executor.Hook
	process *specs.Process
	err     error // why the sandbox must not run
}

// failed returns why the sandbox must not run; of no hooks nil.
func (h *hooks) failed() error {
	if h == nil {
		return nil
	}
	return h.err
}

// useHooks has the hooks of o run when they are due.
func (c *Container) useHooks(o *Options, config *configs.Config) {
	if len(o.Hooks) == 0 {
		return
	}
	p := *o.Spec.Process
	p.Terminal, p.ConsoleSize, p.Cwd = false, nil, "/"
	c.hooks = &hooks{list: executor.HooksOf(o.Hooks, executor.StartContainer), process: &p, bundle: o.Bundle}
	config.Hooks = configs.Hooks{configs.CreateRuntime: {configs.NewFunctionHook(func(s *specs.State) error {
		c.hooks.err = o.AskHooks(s.Pid)
		return c.hooks.err
	})}}
}

// runStartHooks runs the hooks of StartContainer: as further processes of the sandbox, with the rights of its first, so that
// they can do nothing that the command could not.
func (c *Container) runStartHooks() error {
	if c.hooks == nil {
		return nil
	}
	if len(c.hooks.list) == 0 {
		return nil
	}
	pid, err := c.ownPid()
	if err != nil {
		return err
	}
	for i := range c.hooks.list {
		h := &c.hooks.list[i]
		state, err := hook.State(c.id, executor.StartContainer, pid, c.hooks.bundle)
		if err == nil {
			err = c.runStartHook(h, state)
		}
		if err != nil {
			c.hooks.err = err
			return err
		}
	}
	return nil
}

// ownPid returns the number of the first process in its own pid namespace.
func (c *Container) ownPid() (int, error) {
	fd, err := unix.PidfdOpen(c.Pid(), 0)
	if err != nil {
		return 0, fmt.Errorf("finding the sandbox's process: %w", err)
	}
	f := os.NewFile(uintptr(fd), "process")
	defer f.Close()
	return hook.OwnPid(f)
}

func (c *Container) runStartHook(h *executor.Hook, state []byte) error {
	in, err := statePipe(state)
	if err != nil {
		return err
	}
	defer in.Close()
	out, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer out.Close()
	p := *c.hooks.process
	p.Args, p.Env = append([]string{h.Path}, hook.Args(h)[1:]...), hook.Env(h)
	e, _, err := c.Exec(&p, [3]*os.File{in, nil, theirs})
	theirs.Close()
	var se *executor.StartError
	if errors.As(err, &se) {
		err = se.Err // it is not the command that can't be executed
	}
	if err != nil {
		return hook.Failed(h, err, "")
	}
	var said []byte
	var reading sync.WaitGroup
	reading.Go(func() {
		said, _ = io.ReadAll(io.LimitReader(out, 4<<10))
		_, _ = io.Copy(io.Discard, out)
	})
	var late atomic.Bool
	if h.Timeout > 0 {
		timer := time.AfterFunc(h.Timeout, func() {
			late.Store(true)
			_ = e.Signal(syscall.SIGKILL)
		})
		defer timer.Stop()
	}
	exit := e.Wait()
	_ = out.SetReadDeadline(time.Now().Add(time.Second)) // for what it left running
	reading.Wait()
	switch {
	case late.Load() && exit.Signal != 0:
		err = context.DeadlineExceeded
	case exit.Signal != 0:
		err = fmt.Errorf("killed by signal %d (%s)", int(exit.Signal), exit.Signal)
	case exit.Code != 0:
		err = fmt.Errorf("exit code: %d", exit.Code)
	default:
		return nil
	}
	return hook.Failed(h, err, string(said))
}

// statePipe is what a hook reads.
func statePipe(state []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer w.Close()
	// A pipe has room for all of it.
	if _, err := w.Write(state); err != nil {
		r.Close()
		return nil, fmt.Errorf("writing the state: %w", err)
	}
	return r, nil
}

// end ends a sandbox whose command was not let run.
func (c *Container) end() {
	if err := c.lc.Signal(syscall.SIGKILL); err == nil || errors.Is(err, os.ErrProcessDone) {
		_, _ = c.init.Wait()
	}
}
