package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A call is a process that the shim was asked for.
type call struct {
	id      uint64
	started chan struct{} // closed with the first reply
	ended   chan struct{} // closed when the process has ended, or has not started
	gone    chan struct{} // closed with the last reply; of a sandbox, else nil

	// Set before started is closed.
	terminal *os.File
	trace    map[string]int64
	err      error // why it did not start
	// Set before ended is closed.
	exit    executor.Exit
	lostErr error // why the end was not seen

	once sync.Once // of started

	// hooks, of a sandbox that has any, runs those of before its start, and returns at once.
	hooks func(w *wire.HooksWait, pidfd *os.File)
}

func newCall() *call {
	return &call{started: make(chan struct{}), ended: make(chan struct{})}
}

// isLast says whether r is the last reply to c.
func (c *call) isLast(r *wire.Reply) bool {
	return r.Op == wire.Failed || r.Op == wire.Gone || r.Op == wire.Exited && c.gone == nil
}

// reply takes a reply of the shim's. Only the receiving goroutine calls it.
func (c *call) reply(r *wire.Reply, files []*os.File) {
	switch r.Op {
	case wire.Started:
		if len(files) > 0 {
			c.terminal, files = files[0], files[1:]
		}
		c.trace = r.Trace
		c.once.Do(func() { close(c.started) })
	case wire.Failed:
		c.err = startError(r.Err)
		c.once.Do(func() { close(c.started) })
		close(c.ended)
	case wire.Exited:
		if r.Exit != nil {
			c.exit = *r.Exit
		}
		close(c.ended)
	case wire.Hooks:
		if c.hooks != nil && r.Wait != nil && len(files) == 1 {
			c.hooks(r.Wait, files[0])
			files = nil
		}
	case wire.Gone: // below
	case wire.Start, wire.Exec, wire.Signal, wire.Kill, wire.Hooked: // requests; the shim sends none
	}
	if c.gone != nil && c.isLast(r) {
		close(c.gone)
	}
	wire.CloseAll(files)
}

// fail ends a call whose last reply will not come.
func (c *call) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.started)
	})
	select {
	case <-c.ended:
	default:
		c.lostErr = err
		close(c.ended)
	}
	if c.gone != nil {
		close(c.gone)
	}
}

func startError(e *wire.Error) error {
	switch {
	case e == nil:
		return errors.New("the shim gave no reason")
	case e.Code != 0:
		return &executor.StartError{Path: e.Path, Code: e.Code, Err: errors.New(e.Msg)}
	}
	return errors.New(e.Msg)
}

// begin sends req with its files, and waits until the process runs. If ctx ends first it has the process killed, and
// returns when nothing of it is left.
func (e *Executor) begin(ctx context.Context, c *call, req *wire.Request, files []*os.File) error {
	if err := e.add(c); err != nil {
		return err
	}
	req.ID = c.id
	if err := e.conn.Send(req, files); err != nil {
		e.forget(c)
		return err
	}
	select {
	case <-c.started:
		return c.err
	case <-ctx.Done():
	}
	e.kill(c)
	<-c.ended
	<-c.started
	if c.gone != nil {
		<-c.gone
	}
	if c.terminal != nil {
		c.terminal.Close()
	}
	return context.Cause(ctx)
}

// kill asks for the end of c's process, or process tree. An error means that the shim has ended, and so has the process.
func (e *Executor) kill(c *call) {
	_ = e.conn.Send(&wire.Request{Op: wire.Kill, ID: c.id}, nil)
}

// signal sends a signal to c's process.
func (e *Executor) signal(c *call, sig syscall.Signal) error {
	select {
	case <-c.ended:
		return os.ErrProcessDone
	default:
	}
	if err := e.conn.Send(&wire.Request{Op: wire.Signal, ID: c.id, Signal: int(sig)}, nil); err != nil {
		return fmt.Errorf("sending signal %d: %w", sig, err)
	}
	return nil
}
