package container

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// A pending is an attachment to a container that does not run yet: it is connected before the first process runs, so that
// nothing is missed. What is written before waits. If the end of its input is to be the process's, the process meets that even
// if it is closed before.
type pending struct {
	c       *ctr
	streams executor.Streams
	once    bool          // its end is that of the process's input
	ready   chan struct{} // closed when it is connected, or will not be
	closed  chan struct{} // closed by Close

	mu    sync.Mutex
	conn  executor.Attachment // set before ready is closed; nil for none
	ended bool                // Close or the end has come
	eof   bool                // CloseWrite has been called before it was connected
	told  sync.Once
}

// Attach implements worker.Containers.
func (m *Manager) Attach(ctx context.Context, ref string, opt worker.AttachOptions) (executor.Attachment, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	switch c.status().Phase {
	case Paused:
		return nil, worker.Conflictf("container %s is paused, unpause the container before attach", ref)
	case Restarting:
		return nil, worker.Conflictf("container %s is restarting, wait until the container is running", ref)
	case Created, Running, Exited, Removing, Dead, Gone:
	}
	var said io.ReadCloser
	if opt.Logs {
		said = m.said(c, opt.Streams)
	}
	if !opt.Stream {
		return finished(said), nil
	}
	conn, err := c.attach(ctx, opt.Streams)
	if err != nil {
		if said != nil {
			said.Close()
		}
		return nil, err
	}
	c.publish(events.ActionAttach, nil)
	if said == nil {
		return conn, nil
	}
	return &saidBefore{Attachment: conn, said: said}, nil
}

// Detached implements worker.Containers.
func (m *Manager) Detached(ref, exec string) {
	c, err := m.find(ref)
	switch {
	case err != nil: // it has been removed meanwhile
	case exec == "":
		c.publish(events.ActionDetach, nil)
	default:
		c.publish(events.ActionExecDetach, map[string]string{"execID": exec})
	}
}

// attach connects to the process that runs, or to the next one.
func (c *ctr) attach(ctx context.Context, s executor.Streams) (executor.Attachment, error) {
	if !c.get().Config.OpenStdin {
		s.Stdin = false
	}
	c.mu.Lock()
	box := c.box
	if p := c.rec.Status.Phase; p == Removing || p == Gone {
		c.mu.Unlock()
		return nil, noSuch(c.id)
	}
	if box == nil {
		config := c.rec.Config
		p := &pending{
			c: c, streams: s, once: s.Stdin && config.StdinOnce && !config.Tty,
			ready: make(chan struct{}), closed: make(chan struct{}),
		}
		c.pending = append(c.pending, p)
		c.mu.Unlock()
		return p, nil
	}
	c.mu.Unlock()
	conn, err := box.Attach(ctx, "", s)
	if errors.Is(err, executor.ErrNotRunning) {
		return finished(nil), nil // it has ended meanwhile, which is what whoever is connected would meet
	}
	return conn, err
}

// takePending returns those who wait to be connected.
func (c *ctr) takePending() []*pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.pending
	c.pending = nil
	return all
}

// connectPending connects all who wait to the first process of box. Whoever cannot be connected meets the end.
func (c *ctr) connectPending(ctx context.Context, box executor.Container) error {
	var errs []error
	for _, p := range c.takePending() {
		conn, err := box.Attach(context.WithoutCancel(ctx), "", p.streams)
		p.connect(conn)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// failPending ends all who wait.
func (c *ctr) failPending(error) {
	for _, p := range c.takePending() {
		p.connect(nil)
	}
}

// connect gives p its connection; nil ends it.
func (p *pending) connect(conn executor.Attachment) {
	p.mu.Lock()
	ended, eof := p.ended, p.eof
	if !ended {
		p.conn = conn
	}
	p.told.Do(func() { close(p.ready) })
	p.mu.Unlock()
	switch {
	case conn == nil:
	case ended:
		conn.Close()
	case eof:
		_ = conn.CloseWrite() // as it would be later
	}
}

// wait returns the connection once there is one, or nil.
func (p *pending) wait() executor.Attachment {
	select {
	case <-p.ready:
	case <-p.closed:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// Read implements executor.Attachment.
func (p *pending) Read(b []byte) (int, error) {
	conn := p.wait()
	if conn == nil {
		return 0, io.EOF
	}
	return conn.Read(b)
}

// Write implements executor.Attachment.
func (p *pending) Write(b []byte) (int, error) {
	p.mu.Lock()
	deaf := !p.streams.Stdin && !p.ended
	p.mu.Unlock()
	if deaf {
		return len(b), nil
	}
	conn := p.wait()
	if conn == nil {
		return 0, io.ErrClosedPipe
	}
	return conn.Write(b)
}

// CloseWrite implements executor.Attachment.
func (p *pending) CloseWrite() error {
	p.mu.Lock()
	conn := p.conn
	p.eof = true
	p.mu.Unlock()
	if conn == nil {
		return nil
	}
	return conn.CloseWrite()
}

// Close implements executor.Attachment.
func (p *pending) Close() error {
	p.mu.Lock()
	conn, was := p.conn, p.ended
	p.ended = true
	p.mu.Unlock()
	if was {
		return nil
	}
	close(p.closed)
	if !p.once {
		p.c.forgetPending(p)
	}
	if conn == nil {
		return nil
	}
	return conn.Close()
}

func (c *ctr) forgetPending(p *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.pending {
		if c.pending[i] == p {
			c.pending = append(c.pending[:i:i], c.pending[i+1:]...)
			return
		}
	}
}

// saidBefore is an attachment which what was said before comes out of first.
type saidBefore struct {
	executor.Attachment
	said io.ReadCloser
	read bool // all of said has been; it is Read's alone
}

// Read implements executor.Attachment.
func (s *saidBefore) Read(b []byte) (int, error) {
	for !s.read {
		n, err := s.said.Read(b)
		if n > 0 {
			return n, nil
		}
		s.read = err != nil
	}
	return s.Attachment.Read(b)
}

// Close implements executor.Attachment.
func (s *saidBefore) Close() error { return errors.Join(s.said.Close(), s.Attachment.Close()) }

// A onlySaid is an attachment to what was said before, and nothing else.
type onlySaid struct{ io.ReadCloser }

func finished(said io.ReadCloser) executor.Attachment {
	if said == nil {
		said = io.NopCloser(eof{})
	}
	return onlySaid{said}
}

// Write implements executor.Attachment.
func (onlySaid) Write(b []byte) (int, error) { return len(b), nil }

// CloseWrite implements executor.Attachment.
func (onlySaid) CloseWrite() error { return nil }

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
