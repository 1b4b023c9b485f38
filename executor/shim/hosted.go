package shim

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
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
	return c.do(ctx, &wire.Call{Op: wire.Run, Proc: id})
}

// Signal implements executor.Container.
func (c *hosted) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return c.do(ctx, &wire.Call{Op: wire.Signal, Proc: id, Signal: sig})
}

// Resize implements executor.Container.
func (c *hosted) Resize(ctx context.Context, id string, rows, cols uint16) error {
	return c.do(ctx, &wire.Call{Op: wire.Resize, Proc: id, Rows: rows, Cols: cols})
}

// Wait implements executor.Container.
func (c *hosted) Wait(ctx context.Context, id string) (executor.Exit, error) {
	a, err := c.ask(ctx, &wire.Call{Op: wire.Wait, Proc: id})
	if err != nil {
		return executor.Exit{}, err
	}
	if a.Exit == nil {
		return executor.Exit{}, errors.New("waiting for a process: the keeper does not say how it ended")
	}
	return *a.Exit, nil
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
	out, err := numberedLimits(&l)
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

// Delete implements executor.Container. It returns when no process of the container is left and its cgroup is gone. The
// keeper itself may still be busy with attachments that have not read all.
func (c *hosted) Delete(ctx context.Context) error {
	err := c.do(ctx, &wire.Call{Op: wire.Delete})
	if err != nil && !isGone(err) {
		return err
	}
	c.conn.close()
	c.h.clearAway(c.dir)
	return nil
}

// Close implements executor.Container.
func (c *hosted) Close() error {
	c.conn.close()
	return nil
}
