package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"

	pb "github.com/moby/buildkit/frontend/gateway/pb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/failure"
)

// ExecProcess runs processes in containers: any number on one stream. It lasts until the other side closes the stream and
// the processes have ended, or until the stream is lost, which kills them.
func (c *conversation) ExecProcess(s pb.LLBBridge_ExecProcessServer) error {
	ctx, finish, err := c.call(s.Context())
	if err != nil {
		return err
	}
	defer finish()
	x := &execStream{c: c, ctx: ctx, s: s, procs: make(map[string]*proc), out: make(chan *pb.ExecMessage), ended: make(chan struct{})}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		x.sendAll()
	}()
	err = x.run()
	if err != nil || ctx.Err() != nil {
		x.kill()
	}
	x.work.Wait()
	close(x.ended)
	// To send to somebody who does not read cannot be interrupted either: it ends with the call.
	select {
	case <-sent:
	case <-ctx.Done():
	}
	return failure.Status(err)
}

// An execStream is one call of ExecProcess.
type execStream struct {
	c   *conversation
	ctx context.Context //nolint:containedctx // the call's
	s   pb.LLBBridge_ExecProcessServer

	work  sync.WaitGroup       // a process each
	out   chan *pb.ExecMessage // to be sent
	ended chan struct{}        // closed when there is nothing more to send; out is not, since what is killed may still write
	mu    sync.Mutex           // guards procs
	procs map[string]*proc
}

// A proc is a process of a stream, from the message that asks for it to the last message about it.
type proc struct {
	id      string
	stdin   *feed         // nil for none
	ready   chan struct{} // closed when it is known whether there is a process
	p       frontend.Process
	started chan struct{} // closed when the other side has been told that it runs
}

// run takes messages until there are no more.
func (x *execStream) run() error {
	type received struct {
		m   *pb.ExecMessage
		err error
	}
	// Receiving cannot be interrupted: it ends with the call, which is after this function has returned.
	in := make(chan received)
	go func() {
		for {
			m, err := x.s.Recv()
			select {
			case in <- received{m, err}:
			case <-x.ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case r := <-in:
			if errors.Is(r.err, io.EOF) {
				return nil
			}
			if r.err != nil {
				return r.err
			}
			if err := x.message(r.m); err != nil {
				return err
			}
		case <-x.ctx.Done():
			return context.Cause(x.ctx)
		}
	}
}

// message does what a message asks for.
func (x *execStream) message(m *pb.ExecMessage) error {
	id := m.GetProcessID()
	if id == "" {
		return status.Error(codes.InvalidArgument, "ProcessID required")
	}
	x.mu.Lock()
	p := x.procs[id]
	x.mu.Unlock()
	if in := m.GetInit(); in != nil {
		if p != nil {
			return status.Errorf(codes.AlreadyExists, "Process %s already exists", id)
		}
		x.begin(id, in)
		return nil
	}
	if p == nil {
		// It has ended, which the other side cannot know yet.
		return nil
	}
	switch in := m.GetInput().(type) {
	case *pb.ExecMessage_File:
		if in.File.GetFd() != 0 || p.stdin == nil {
			return status.Errorf(codes.OutOfRange, "fd %d unavailable to write", in.File.GetFd())
		}
		p.stdin.write(x.ctx, in.File.GetData(), in.File.GetEOF())
	case *pb.ExecMessage_Resize:
		x.control(p, func(r frontend.Process) error {
			return r.Resize(uint16(min(in.Resize.GetRows(), 1<<16-1)), uint16(min(in.Resize.GetCols(), 1<<16-1)))
		})
	case *pb.ExecMessage_Signal:
		sig, ok := signalByName(in.Signal.GetName())
		if !ok {
			return status.Errorf(codes.InvalidArgument, "Unknown signal %s", in.Signal.GetName())
		}
		x.control(p, func(r frontend.Process) error { return r.Signal(sig) })
	default:
		return status.Errorf(codes.InvalidArgument, "unexpected message %T for process %s", in, id)
	}
	return nil
}

// control does something to a process, once it is known whether there is one. That it has ended is no error.
func (x *execStream) control(p *proc, f func(frontend.Process) error) {
	select {
	case <-p.ready:
	case <-x.ctx.Done():
		return
	}
	if p.p != nil {
		_ = f(p.p)
	}
}

// signalByName returns a signal by its name, with SIG or without.
func signalByName(name string) (syscall.Signal, bool) {
	s := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	return s, s != 0
}

// begin starts a process, and has it told of.
func (x *execStream) begin(id string, in *pb.InitMessage) {
	p := &proc{id: id, ready: make(chan struct{}), started: make(chan struct{})}
	spec := &frontend.ProcessSpec{
		Args: in.GetMeta().GetArgs(), Env: in.GetMeta().GetEnv(), Cwd: in.GetMeta().GetCwd(), User: in.GetMeta().GetUser(),
		Terminal: in.GetTty(), Security: op.Security(in.GetSecurity()),
	}
	if y := in.GetMeta().GetProxyEnv(); y != nil {
		spec.Proxy = &op.ProxyEnv{HTTP: y.GetHttpProxy(), HTTPS: y.GetHttpsProxy(), FTP: y.GetFtpProxy(), No: y.GetNoProxy(), All: y.GetAllProxy()}
	}
	for _, u := range in.GetMeta().GetUlimit() {
		spec.Ulimits = append(spec.Ulimits, op.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	for _, s := range in.GetSecretenv() {
		spec.Secrets = append(spec.Secrets, op.SecretEnv{ID: s.GetID(), Name: s.GetName(), Optional: s.GetOptional()})
	}
	var outs []uint32
	for _, fd := range in.GetFds() {
		w := &fdWriter{x: x, p: p, fd: fd}
		switch fd {
		case 0:
			p.stdin = newFeed()
			spec.Stdin = p.stdin
		case 1:
			spec.Stdout = w
			outs = append(outs, fd)
		case 2:
			if !in.GetTty() {
				spec.Stderr = w
			}
			outs = append(outs, fd)
		}
	}
	x.mu.Lock()
	x.procs[id] = p
	x.mu.Unlock()
	x.work.Go(func() {
		if err := x.start(p, in.GetContainerID(), spec); err != nil {
			x.refuse(p, err)
			return
		}
		code, err := x.perform(p)
		x.finish(p, outs, code, err)
	})
}

// start starts a process, and has the other side told.
func (x *execStream) start(p *proc, container string, spec *frontend.ProcessSpec) error {
	k, err := x.c.container(container)
	if err == nil {
		p.p, err = k.Start(x.ctx, spec)
	}
	close(p.ready)
	if err == nil {
		x.send(&pb.ExecMessage{ProcessID: p.id, Input: &pb.ExecMessage_Started{Started: &pb.StartedMessage{}}})
	}
	close(p.started)
	return err
}

// refuse tells that there is no process, and why. BuildKit breaks the stream off, which takes the other processes with it.
// One message instead of that which says that it has started fails the client's call as well; it takes no other.
func (x *execStream) refuse(p *proc, err error) {
	x.mu.Lock()
	delete(x.procs, p.id)
	x.mu.Unlock()
	if p.stdin != nil {
		p.stdin.close()
	}
	x.send(&pb.ExecMessage{ProcessID: p.id, Input: &pb.ExecMessage_Exit{
		Exit: &pb.ExitMessage{Code: pb.UnknownExitStatus, Error: status.Convert(failure.Status(err)).Proto()},
	}})
}

// perform waits for a process to end.
func (x *execStream) perform(p *proc) (code int, err error) {
	code, err = p.p.Wait(x.ctx)
	if x.ctx.Err() != nil {
		_ = p.p.Signal(syscall.SIGKILL) // nobody can hear of it any more
	}
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code: %d", code)
	} else if err != nil && code == 0 {
		code = pb.UnknownExitStatus
	}
	return code, err
}

// finish tells how a process has ended. All of its output has been sent.
func (x *execStream) finish(p *proc, outs []uint32, code int, err error) {
	if p.stdin != nil {
		p.stdin.close()
	}
	for _, fd := range outs {
		x.send(&pb.ExecMessage{ProcessID: p.id, Input: &pb.ExecMessage_File{File: &pb.FdMessage{Fd: fd, EOF: true}}})
	}
	exit := &pb.ExitMessage{Code: uint32(code)}
	if err != nil {
		exit.Error = status.Convert(failure.Status(err)).Proto()
	}
	x.send(&pb.ExecMessage{ProcessID: p.id, Input: &pb.ExecMessage_Exit{Exit: exit}})
	x.send(&pb.ExecMessage{ProcessID: p.id, Input: &pb.ExecMessage_Done{Done: &pb.DoneMessage{}}})
	x.mu.Lock()
	delete(x.procs, p.id)
	x.mu.Unlock()
}

// send has a message sent, unless the call is over.
func (x *execStream) send(m *pb.ExecMessage) {
	select {
	case x.out <- m:
	case <-x.ctx.Done():
	}
}

// sendAll sends what there is to send. If something cannot be sent the stream is lost, which run learns too.
func (x *execStream) sendAll() {
	lost := false
	for {
		select {
		case m := <-x.out:
			if !lost {
				lost = x.s.Send(m) != nil
			}
		case <-x.ended:
			return
		}
	}
}

// kill ends the processes that nobody can hear of any more.
func (x *execStream) kill() {
	x.mu.Lock()
	var left []*proc
	for _, p := range x.procs {
		left = append(left, p)
	}
	x.mu.Unlock()
	for _, p := range left {
		if p.stdin != nil {
			p.stdin.close()
		}
		<-p.ready
		if p.p != nil {
			_ = p.p.Signal(syscall.SIGKILL)
		}
	}
}

// An fdWriter sends what a process writes.
type fdWriter struct {
	x  *execStream
	p  *proc
	fd uint32
}

// maxChunk is how much output goes into one message, in bytes.
const maxChunk = 1 << 20

func (w *fdWriter) Write(b []byte) (int, error) {
	select {
	case <-w.p.started:
	case <-w.x.ctx.Done():
		return 0, context.Cause(w.x.ctx)
	}
	for part := range chunks(b, maxChunk) {
		m := &pb.FdMessage{Fd: w.fd, Data: bytes.Clone(part)} // it is sent after this has returned
		w.x.send(&pb.ExecMessage{ProcessID: w.p.id, Input: &pb.ExecMessage_File{File: m}})
	}
	return len(b), nil
}
