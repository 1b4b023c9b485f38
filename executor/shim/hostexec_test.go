package shim_test

import (
	"context"
	bin "encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/executortest"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// both runs a test with sandboxes of the pool and with containers, which are to be isolated in the same way.
func both(t *testing.T, test func(*testing.T, executor.Executor)) {
	t.Helper()
	needsRoot(t)
	t.Run("Sandbox", func(t *testing.T) { test(t, newExecutor(t)) })
	t.Run("Container", func(t *testing.T) { test(t, hostExecutor{t, newHost(t)}) })
}

// A hostExecutor is an Executor that makes a container for each sandbox.
type hostExecutor struct {
	t *testing.T
	h *shim.Host
}

// TestHostAsExecutor checks that containers do all that sandboxes do.
func TestHostAsExecutor(t *testing.T) {
	needsRoot(t)
	executortest.Run(t, func(t *testing.T) (executor.Executor, *os.File) {
		root, _ := newRoot(t)
		return &uniqueIDs{hostExecutor: hostExecutor{t, newHost(t)}, ids: make(map[string]bool)}, root
	})
}

// uniqueIDs refuses an ID that is in use, as an Executor does; containers have directories for that.
type uniqueIDs struct {
	hostExecutor
	mu  sync.Mutex
	ids map[string]bool
}

func (u *uniqueIDs) Start(ctx context.Context, spec *executor.Spec, rw executor.IO) (executor.Sandbox, error) {
	u.mu.Lock()
	taken := u.ids[spec.ID]
	u.ids[spec.ID] = true
	u.mu.Unlock()
	if taken {
		return nil, errors.New("in use")
	}
	free := func() {
		u.mu.Lock()
		delete(u.ids, spec.ID)
		u.mu.Unlock()
	}
	b, err := u.hostExecutor.Start(ctx, spec, rw)
	if err != nil {
		free()
		return nil, err
	}
	b.(*hostBox).closed = free
	return b, nil
}

// Unordered says that a container's streams are told apart to the end, as docker does.
func (hostExecutor) Unordered() {}

type hostBox struct {
	hostRun
	execs  atomic.Int64
	closed func()
}

// A hostRun is one process of a container.
type hostRun struct {
	c    executor.Container
	id   string
	out  sync.WaitGroup
	exit chan struct{} // closed when exit and err are set
	how  executor.Exit
	err  error
}

func (e hostExecutor) Start(ctx context.Context, spec *executor.Spec, rw executor.IO) (executor.Sandbox, error) {
	c, err := e.h.Create(ctx, e.t.TempDir(), spec, executor.HostOptions{OpenStdin: rw.Stdin != nil, StdinOnce: true})
	if err != nil {
		return nil, err
	}
	b := &hostBox{hostRun: hostRun{c: c, exit: make(chan struct{})}}
	if err := b.begin(ctx, spec.Process.Terminal, rw); err != nil {
		return nil, errors.Join(err, c.Delete(context.Background()))
	}
	return b, nil
}

// begin attaches rw to the process and runs it.
func (r *hostRun) begin(ctx context.Context, terminal bool, rw executor.IO) error {
	a, err := r.c.Attach(ctx, r.id, executor.Streams{Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	r.out.Go(func() {
		copyFrames(a, terminal, rw)
		a.Close()
	})
	if err := r.c.Run(ctx, r.id); err != nil {
		a.Close()
		r.out.Wait()
		return err
	}
	if rw.Stdin != nil {
		go func() {
			_, _ = io.Copy(a, rw.Stdin)
			_ = a.CloseWrite()
		}()
	}
	go func() {
		defer close(r.exit)
		r.how, r.err = r.c.Wait(context.Background(), r.id)
		r.out.Wait()
	}()
	return nil
}

func copyFrames(r io.Reader, terminal bool, rw executor.IO) {
	writers := map[byte]io.Writer{1: rw.Stdout, 2: rw.Stderr}
	for n, w := range writers {
		if w == nil {
			writers[n] = io.Discard
		}
	}
	if terminal {
		_, _ = io.Copy(writers[1], r)
		return
	}
	head := make([]byte, 8)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		n := int64(bin.BigEndian.Uint32(head[4:]))
		if _, err := io.CopyN(writers[head[0]], r, n); err != nil {
			// The writer has failed; what comes is still to be read.
			writers[head[0]] = io.Discard
		}
	}
}

func (r *hostRun) Signal(sig syscall.Signal) error {
	return r.c.Signal(context.Background(), r.id, sig)
}

func (r *hostRun) Resize(rows, cols uint16) error {
	return r.c.Resize(context.Background(), r.id, rows, cols)
}

func (r *hostRun) Wait(ctx context.Context) (executor.Exit, error) {
	select {
	case <-r.exit:
		return r.how, r.err
	case <-ctx.Done():
		return executor.Exit{}, context.Cause(ctx)
	}
}

func (b *hostBox) Close() error {
	err := b.Signal(syscall.SIGKILL)
	var gone *executor.GoneError
	if errors.Is(err, os.ErrProcessDone) || errors.As(err, &gone) {
		err = nil
	}
	<-b.exit
	if b.closed != nil {
		defer b.closed()
	}
	return errors.Join(err, b.c.Delete(context.Background()))
}

func (b *hostBox) Spawn(ctx context.Context, p *executor.Process, rw executor.IO) (executor.Running, error) {
	r := &hostRun{c: b.c, id: fmt.Sprintf("exec-%d", b.execs.Add(1)), exit: make(chan struct{})}
	if err := b.c.Add(ctx, r.id, p, rw.Stdin != nil); err != nil {
		return nil, err
	}
	if err := r.begin(ctx, p.Terminal, rw); err != nil {
		return nil, err
	}
	return r, nil
}

func (b *hostBox) Exec(ctx context.Context, p *executor.Process, rw executor.IO) (executor.Exit, error) {
	r, err := b.Spawn(ctx, p, rw)
	if err != nil {
		return executor.Exit{}, err
	}
	exit, err := r.Wait(ctx)
	if ctx.Err() != nil {
		_ = r.(*hostRun).Signal(syscall.SIGKILL)
		<-r.(*hostRun).exit
	}
	return exit, err
}
