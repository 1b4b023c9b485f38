package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A Container is a sandbox that processes are started in one by one, and whose files are thrown away. It ends with Close.
//
// Locks: mu guards what follows it; starting guards the making of the sandbox, during which mu is not held.
type Container struct {
	r      *Runner
	e      *op.Exec
	mounts *execMounts
	step   *solver.Step

	starting sync.Mutex // held while the sandbox is made
	mu       sync.Mutex // guards what follows
	sandbox  executor.Sandbox
	release  []func()
	closed   bool
}

// ErrContainerClosed says that a container has been closed.
var ErrContainerClosed = errors.New("the container has been released")

// NewContainer prepares the mounts of e, whose inputs are given, with everything that can be written to as a draft. ctx
// is the build's: what e mounts is kept by its lease, and its client is asked for secrets. Of e.Meta only the host's name
// and its further hosts count.
func (r *Runner) NewContainer(ctx context.Context, e *op.Exec, inputs []solver.Result) (*Container, error) {
	v := solver.NewVertex(e, nil, solver.Meta{Name: "container"})
	step := &solver.Step{
		Vertex: v, Inputs: inputs,
		Log: func(solver.Stream, []byte) {}, Status: func(solver.Status) {}, Warn: func(solver.Warning) {},
	}
	m, err := r.mountExec(ctx, step, e)
	if err != nil {
		m.close(ctx)
		var lost *solver.LostError
		if errors.As(err, &lost) {
			err = solver.ErrMiss
		}
		return nil, err
	}
	return &Container{r: r, e: e, mounts: m, step: step}, nil
}

// A ContainerProcess is a process to start in a container.
type ContainerProcess struct {
	Meta     op.ExecMeta // the process; the rest does not count
	Secrets  []op.SecretEnv
	Security op.Security
	Terminal bool
	IO       executor.IO
}

// Start starts a process. The first one makes the sandbox, and ends all others with it. ctx bounds the start only.
func (c *Container) Start(ctx context.Context, p *ContainerProcess) (executor.Running, error) {
	c.starting.Lock()
	defer c.starting.Unlock()
	c.mu.Lock()
	sandbox, closed := c.sandbox, c.closed
	c.mu.Unlock()
	if closed {
		return nil, ErrContainerClosed
	}
	if sandbox == nil {
		return c.first(ctx, p)
	}
	spawner, ok := sandbox.(executor.Spawner)
	if !ok {
		return nil, errors.New("the executor starts one process in a sandbox only")
	}
	if err := checkSecurity(p.Security); err != nil {
		return nil, err
	}
	secrets, err := c.mounts.secrets.env(ctx, p.Secrets)
	if err != nil {
		return nil, err
	}
	return spawner.Spawn(ctx, &executor.Process{
		Args: p.Meta.Args, Env: slices.Concat(p.Meta.Env, proxyEnv(p.Meta.Proxy), secrets),
		Cwd: p.Meta.Cwd, User: p.Meta.User, Terminal: p.Terminal, Privileged: p.Security == op.SecurityInsecure,
		Ambient: p.Security == op.SecurityInsecure,
	}, p.IO)
}

// first makes the sandbox with its first process.
func (c *Container) first(ctx context.Context, p *ContainerProcess) (executor.Running, error) {
	e := *c.e
	e.Meta = p.Meta
	e.Meta.Hostname, e.Meta.ExtraHosts = c.e.Meta.Hostname, c.e.Meta.ExtraHosts
	e.Secrets, e.Security = p.Secrets, p.Security
	spec, err := c.r.spec(ctx, &e, c.mounts)
	if err != nil {
		return nil, err
	}
	spec.Process.Terminal = p.Terminal
	release, err := c.r.emulate(ctx, &e, spec)
	if err != nil {
		return nil, err
	}
	done, err := c.r.addDevices(c.step, &e, spec)
	if err != nil {
		release()
		return nil, err
	}
	s, err := c.r.deps.Executor.Start(ctx, spec, p.IO)
	if err != nil {
		done()
		release()
		return nil, err
	}
	running, ok := s.(executor.Running)
	c.mu.Lock()
	closed := c.closed
	if !closed && ok {
		c.sandbox, c.release = s, []func(){done, release}
	}
	c.mu.Unlock()
	switch {
	case !ok:
		err = errors.New("the executor has no handles for processes")
	case closed:
		err = ErrContainerClosed
	default:
		return running, nil
	}
	err = errors.Join(err, s.Close())
	done()
	release()
	return nil, err
}

// Mount opens the file system of the mount of that index in op.Exec.Mounts, as the container sees it at this moment. What
// the executor makes itself (a tmpfs, a secret) cannot be had from outside. The caller closes it.
func (c *Container) Mount(i int) (*os.Root, error) {
	if i < 0 || i >= len(c.e.Mounts) {
		return nil, fmt.Errorf("mount index %d is out of bounds (%d available)", i, len(c.e.Mounts))
	}
	x := absolute(&c.e.Mounts[i], c.e.Meta.Cwd)
	var f *os.File
	if path.Clean(x.Dest) == "/" {
		f = c.mounts.root
	}
	for _, m := range c.mounts.mounts {
		if path.Clean(m.Target) == path.Clean(x.Dest) {
			f = m.Source
		}
	}
	if f == nil {
		return nil, fmt.Errorf("mountable %d not found", i)
	}
	c.mu.Lock()
	defer c.mu.Unlock() // so that it is not closed meanwhile
	if c.closed {
		return nil, ErrContainerClosed
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("opening mount %d at %s: %w", i, x.Dest, err)
	}
	return root, nil
}

// Close ends what runs and gives everything back. ctx is the build's. It is idempotent, and waits for a start that is
// under way.
func (c *Container) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.starting.Lock()
	defer c.starting.Unlock()
	var err error
	if c.sandbox != nil {
		err = c.sandbox.Close()
	}
	for _, f := range c.release {
		f()
	}
	c.mounts.close(ctx)
	return err
}
