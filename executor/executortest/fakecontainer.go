package executortest

import (
	"context"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/boxbuild/boxbuild/executor"
)

// A fakeContainer is a fakeBin that somebody has opened.
type fakeContainer struct{ b *fakeBin }

func (c *fakeContainer) Add(_ context.Context, id string, p *executor.Process, openStdin bool) error {
	if err := c.b.goneError(); err != nil {
		return err
	}
	return c.b.add(id, p, openStdin, true)
}

func (c *fakeContainer) Attach(_ context.Context, id string, s executor.Streams) (executor.Attachment, error) {
	if err := c.b.goneError(); err != nil {
		return nil, err
	}
	ours, theirs := pipePair()
	if err := c.b.k.Attach(id, s, theirs); err != nil {
		return nil, err
	}
	return ours, nil
}

func (c *fakeContainer) Run(_ context.Context, id string) error {
	if err := c.b.goneError(); err != nil {
		return err
	}
	return c.b.k.Run(id)
}

func (c *fakeContainer) Signal(_ context.Context, id string, sig syscall.Signal) error {
	if err := c.b.goneError(); err != nil {
		return err
	}
	return c.b.k.Signal(id, sig)
}

func (c *fakeContainer) Resize(_ context.Context, id string, rows, cols uint16) error {
	if err := c.b.goneError(); err != nil {
		return err
	}
	return c.b.k.Resize(id, rows, cols)
}

// Wait implements executor.Container. What was known before the keeper went is still known to who waits.
func (c *fakeContainer) Wait(ctx context.Context, id string) (executor.Exit, error) {
	exit, err := c.b.k.Wait(ctx, id)
	if gone := c.b.goneError(); gone != nil && ctx.Err() == nil {
		return executor.Exit{}, gone
	}
	return exit, err
}

func (c *fakeContainer) Pid(id string) int {
	if c.b.isGone() {
		return 0
	}
	return c.b.k.Pid(id)
}

func (c *fakeContainer) Pids(context.Context) ([]int, error) {
	if err := c.b.goneError(); err != nil {
		return nil, err
	}
	var out []int
	for _, s := range c.b.k.List() {
		if s.Pid != 0 {
			out = append(out, s.Pid)
		}
	}
	return out, nil
}

// List implements executor.Lister.
func (c *fakeContainer) List(context.Context) ([]string, error) {
	if err := c.b.goneError(); err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range c.b.k.List() {
		if !s.Ended {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}

func (c *fakeContainer) needRunning() error {
	if err := c.b.goneError(); err != nil {
		return err
	}
	if c.b.k.Pid("") == 0 {
		return executor.ErrNotRunning
	}
	return nil
}

func (c *fakeContainer) Pause(context.Context) error {
	if err := c.needRunning(); err != nil {
		return err
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.paused = true
	return nil
}

func (c *fakeContainer) Resume(context.Context) error {
	if err := c.needRunning(); err != nil {
		return err
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.paused = false
	return nil
}

func (c *fakeContainer) Update(_ context.Context, l executor.Limits) error {
	if err := c.needRunning(); err != nil {
		return err
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.limits = l
	return nil
}

func (c *fakeContainer) Stats(ctx context.Context) (*executor.Stats, error) {
	if err := c.needRunning(); err != nil {
		return nil, err
	}
	pids, err := c.Pids(ctx)
	if err != nil {
		return nil, err
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	return &executor.Stats{
		Read: time.Now(), Memory: 1 << 20, MemoryLimit: uint64(c.b.limits.Memory), Pids: uint64(len(pids)), PidsLimit: uint64(c.b.limits.Pids),
	}, nil
}

func (c *fakeContainer) Delete(context.Context) error {
	c.b.end()
	return nil
}

func (c *fakeContainer) Close() error { return nil }

// pipePair returns the two ends of a connection in memory.
func pipePair() (*pipeEnd, *pipeEnd) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	a, b := &pipeEnd{r: ar, w: aw, gone: make(chan struct{})}, &pipeEnd{r: br, w: bw, gone: make(chan struct{})}
	a.peer, b.peer = b, a
	return a, b
}

// A pipeEnd is an executor.Attachment and, at the other end, a keep.Conn.
type pipeEnd struct {
	r    *io.PipeReader
	w    *io.PipeWriter
	peer *pipeEnd
	once sync.Once
	gone chan struct{} // closed by Close
}

func (e *pipeEnd) Read(p []byte) (int, error)  { return e.r.Read(p) }
func (e *pipeEnd) Write(p []byte) (int, error) { return e.w.Write(p) }
func (e *pipeEnd) CloseWrite() error           { return e.w.Close() }

func (e *pipeEnd) Open() bool {
	select {
	case <-e.peer.gone:
		return false
	default:
		return true
	}
}

func (e *pipeEnd) Close() error {
	e.once.Do(func() {
		close(e.gone)
		e.w.Close()
		e.r.Close()
	})
	return nil
}
