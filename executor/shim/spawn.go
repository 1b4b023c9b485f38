package shim

import (
	"context"
	"syscall"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A spawned is a process that was started in a sandbox which runs already.
type spawned struct {
	e    *Executor
	c    *call
	s    *streams
	done chan struct{} // closed when the process has ended and its output has been handed on
}

// Spawn implements executor.Spawner.
func (b *box) Spawn(ctx context.Context, p *executor.Process, rw executor.IO) (executor.Running, error) {
	sp, err := b.spawn(ctx, p, rw)
	if err != nil {
		return nil, err
	}
	return sp, nil
}

func (b *box) spawn(ctx context.Context, p *executor.Process, rw executor.IO) (*spawned, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	req := &wire.Request{Op: wire.Exec, Of: b.c.id, Proc: p}
	s, err := processStreams(p, rw)
	if err != nil {
		return nil, err
	}
	files := s.files(nil, &req.Files)
	sp := &spawned{e: b.e, c: newCall(), s: s, done: make(chan struct{})}
	if err := b.e.begin(ctx, sp.c, req, files); err != nil {
		s.close()
		return nil, err
	}
	if err := s.run(sp.c.terminal); err != nil {
		b.e.kill(sp.c)
		<-sp.c.ended
		s.close()
		return nil, err
	}
	b.e.work.Go(func() {
		<-sp.c.ended
		s.drain()
		close(sp.done)
	})
	return sp, nil
}

// Wait implements executor.Running.
func (sp *spawned) Wait(ctx context.Context) (executor.Exit, error) {
	select {
	case <-sp.done:
		return sp.c.exit, sp.c.lostErr
	case <-ctx.Done():
		return executor.Exit{}, context.Cause(ctx)
	}
}

// Signal implements executor.Running.
func (sp *spawned) Signal(sig syscall.Signal) error { return sp.e.signal(sp.c, sig) }

// Resize implements executor.Running.
func (sp *spawned) Resize(rows, cols uint16) error { return sp.s.resize(rows, cols) }

// Exec implements executor.Sandbox.
func (b *box) Exec(ctx context.Context, p *executor.Process, rw executor.IO) (executor.Exit, error) {
	sp, err := b.spawn(ctx, p, rw)
	if err != nil {
		return executor.Exit{}, err
	}
	select {
	case <-sp.done:
		return sp.c.exit, sp.c.lostErr
	case <-ctx.Done():
		b.e.kill(sp.c)
		<-sp.done
		return executor.Exit{}, context.Cause(ctx)
	}
}
