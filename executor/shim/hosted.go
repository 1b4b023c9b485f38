package shim

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A hosted is a container of a Host, over a connection to its keeper.
type hosted struct {
	h      *Host
	dir    string
	conn   *keeperConn
	cgroup string // empty if there is none, as the command can't be executed
	trace  map[string]int64
	work   sync.WaitGroup

	mu    sync.Mutex
	waits map[string]*awaited // guarded by mu; for each process that somebody waits for
}

// An awaited is a Wait that the keeper has been asked for, for however many want to know.
type awaited struct {
	done chan struct{} // closed when exit and err are set
	exit executor.Exit
	err  error
}

// do makes a call that has no answer but an error. The end of the connection is a GoneError.
func (c *hosted) do(ctx context.Context, call *wire.Call, files ...*os.File) error {
	_, err := c.ask(ctx, call, files...)
	return err
}

func (c *hosted) ask(ctx context.Context, call *wire.Call, files ...*os.File) (*wire.Answer, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	a, out, err := c.conn.call(ctx, call, files)
	wire.CloseAll(out)
	if errors.Is(err, io.EOF) {
		return nil, goneError(c.dir)
	}
	if err != nil {
		return nil, err
	}
	return a, a.Err.Err()
}

// Add implements executor.Container.
func (c *hosted) Add(ctx context.Context, id string, p *executor.Process, openStdin bool) error {
	return c.do(ctx, &wire.Call{Op: wire.Add, Proc: id, Process: p, OpenStdin: openStdin})
}

// Attach implements executor.Container.
func (c *hosted) Attach(ctx context.Context, id string, s executor.Streams) (executor.Attachment, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "attachment"), os.NewFile(uintptr(fds[1]), "attachment")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	if err := c.do(ctx, &wire.Call{Op: wire.Attach, Proc: id, Streams: s}, theirs); err != nil {
		conn.Close()
		return nil, err
	}
	return &attachment{conn.(*net.UnixConn)}, nil
}

// An attachment is this process's end of a socket pair.
type attachment struct{ *net.UnixConn }

// Read implements executor.Attachment. That the keeper has not read all of the input is no error of the output.
func (a *attachment) Read(p []byte) (int, error) {
	n, err := a.UnixConn.Read(p)
	if errors.Is(err, unix.ECONNRESET) {
		err = io.EOF
	}
	return n, err
}

// Run implements executor.Container.
func (c *hosted) Run(ctx context.Context, id string) error {
	if err := c.do(ctx, &wire.Call{Op: wire.Run, Proc: id}); err != nil || id != "" {
		return err
	}
	b, err := hooksOf(c.dir)
	if err == nil && b != nil {
		err = b.Started(ctx, c.Pid(""))
	}
	if err != nil {
		_ = c.Signal(context.WithoutCancel(ctx), "", syscall.SIGKILL)
	}
	return err
}

// Signal implements executor.Container.
func (c *hosted) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return c.do(ctx, &wire.Call{Op: wire.Send, Proc: id, Signal: sig})
}

// Resize implements executor.Container.
func (c *hosted) Resize(ctx context.Context, id string, rows, cols uint16) error {
	return c.do(ctx, &wire.Call{Op: wire.Resize, Proc: id, Rows: rows, Cols: cols})
}

// Wait implements executor.Container. The keeper is asked once: who gives up waiting leaves nothing behind there.
func (c *hosted) Wait(ctx context.Context, id string) (executor.Exit, error) {
	if err := ctx.Err(); err != nil {
		return executor.Exit{}, context.Cause(ctx)
	}
	c.mu.Lock()
	w := c.waits[id]
	if w == nil {
		w = &awaited{done: make(chan struct{})}
		if c.waits == nil {
			c.waits = make(map[string]*awaited)
		}
		c.waits[id] = w
		c.work.Go(func() { c.await(id, w) })
	}
	c.mu.Unlock()
	select {
	case <-w.done:
		return w.exit, w.err
	case <-ctx.Done():
		return executor.Exit{}, context.Cause(ctx)
	}
}

// await asks the keeper. It ends with the connection at the latest.
func (c *hosted) await(id string, w *awaited) {
	a, err := c.ask(context.Background(), &wire.Call{Op: wire.Wait, Proc: id})
	switch {
	case err != nil:
		w.err = err
	case a.Exit == nil:
		w.err = errors.New("waiting for a process: the keeper does not say how it ended")
	default:
		w.exit = *a.Exit
	}
	c.mu.Lock()
	delete(c.waits, id) // the ID may be used again
	c.mu.Unlock()
	close(w.done)
}

// Pid implements executor.Container.
func (c *hosted) Pid(id string) int {
	a, files, err := c.conn.call(context.Background(), &wire.Call{Op: wire.List}, nil)
	if err != nil {
		return 0
	}
	defer wire.CloseAll(files)
	for _, p := range a.Procs {
		if f := wire.Pick(files, p.PidFD); p.ID == id && f != nil {
			return wire.Number(f)
		}
	}
	return 0
}

// List implements executor.Lister.
func (c *hosted) List(ctx context.Context) ([]string, error) {
	a, files, err := c.conn.call(ctx, &wire.Call{Op: wire.List}, nil)
	if err != nil {
		return nil, err
	}
	wire.CloseAll(files)
	ids := make([]string, len(a.Procs))
	for i, p := range a.Procs {
		ids[i] = p.ID
	}
	return ids, nil
}

// Pids implements executor.Container.
func (c *hosted) Pids(ctx context.Context) ([]int, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if c.conn.over() {
		return nil, goneError(c.dir)
	}
	if c.cgroup == "" {
		return nil, nil
	}
	return c.h.cgroups.Processes(c.cgroup), nil
}

// Pause implements executor.Container.
func (c *hosted) Pause(ctx context.Context) error { return c.do(ctx, &wire.Call{Op: wire.Pause}) }

// Resume implements executor.Container.
func (c *hosted) Resume(ctx context.Context) error { return c.do(ctx, &wire.Call{Op: wire.Resume}) }

// Update implements executor.Container.
func (c *hosted) Update(ctx context.Context, l executor.Limits) error {
	out, err := c.h.numberedLimits(&l)
	if err != nil {
		return err
	}
	return c.do(ctx, &wire.Call{Op: wire.Update, Limits: out})
}

// Stats implements executor.Container.
func (c *hosted) Stats(ctx context.Context) (*executor.Stats, error) {
	a, err := c.ask(ctx, &wire.Call{Op: wire.Stats})
	if err != nil {
		return nil, err
	}
	return a.Stats, nil
}

// WatchOOM implements executor.OOMWatcher.
func (c *hosted) WatchOOM(told func()) (stop func(), err error) {
	if c.cgroup == "" {
		return func() {}, nil
	}
	return c.h.memory.Watch(c.cgroup, told)
}

// Delete implements executor.Container. It returns when no process of the container is left and its cgroup is gone. The
// keeper itself may still be busy with attachments that have not read all.
func (c *hosted) Delete(ctx context.Context) error {
	err := c.do(ctx, &wire.Call{Op: wire.Delete})
	if err != nil && !isGone(err) {
		return err
	}
	c.conn.close()
	c.work.Wait()
	c.h.clearAway(c.dir)
	return nil
}

// Close implements executor.Container.
func (c *hosted) Close() error {
	c.conn.close()
	c.work.Wait()
	return nil
}
