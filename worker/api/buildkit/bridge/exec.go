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
	x := &execStream{c: c, ctx: ctx, s: s, procs: make(map[string]*proc), last: make(map[*container]*proc)}
	x.started, x.out, x.ended = make(chan *pb.ExecMessage), make(chan *pb.ExecMessage), make(chan struct{})
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

	work    sync.WaitGroup       // a process each
	last    map[*container]*proc // the latest in each that was asked for; only run has to do with it
	started chan *pb.ExecMessage // to be sent before anything else
	out     chan *pb.ExecMessage // to be sent
	ended   chan struct{}        // closed when there is nothing more to send; out is not, since what is killed may still write
	mu      sync.Mutex           // guards procs
	procs   map[string]*proc
}

// A proc is a process of a stream, from the message that asks for it to the last message about it.
type proc struct {
	id    string
	stdin *feed         // nil for none
	ready chan struct{} // closed when it is known whether there is a process
	p     frontend.Process
	in    *container // where it runs
	after *proc      // was asked for before it, in the same container; nil for none, and once it is ready
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
//
// BuildKit's client reads one message after the other, of all the processes of a container, and while one waits for somebody
// to take its output none is read. Whoever is to take it may be the next process, which there is for the client when it has
// read that it has started. So that is said as soon as a process is asked for, before anything else that there is to say.
func (x *execStream) begin(id string, in *pb.InitMessage) {
	k, err := x.c.container(in.GetContainerID())
	if err != nil {
		x.work.Go(func() { x.refuse(id, err) })
		return
	}
	p := &proc{id: id, ready: make(chan struct{}), in: k, after: x.last[k]}
	x.last[k] = p
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
		x.send(x.started, &pb.ExecMessage{ProcessID: id, Input: &pb.ExecMessage_Started{Started: &pb.StartedMessage{}}})
		if err := x.start(p, spec); err != nil {
			x.finish(p, outs, pb.UnknownExitStatus, err)
			return
		}
		code, err := x.perform(p)
		x.finish(p, outs, code, err)
	})
}

// refuse tells that there is no such container. BuildKit breaks the stream off, which takes the other processes with it. One
// message instead of that which says that it has started fails the client's call as well; it takes no other.
func (x *execStream) refuse(id string, err error) {
	x.send(x.out, &pb.ExecMessage{ProcessID: id, Input: &pb.ExecMessage_Exit{
		Exit: &pb.ExitMessage{Code: pb.UnknownExitStatus, Error: status.Convert(failure.Status(err)).Proto()},
	}})
}

// start starts a process, after those that were asked for before it: a container ends with the first one in it.
func (x *execStream) start(p *proc, spec *frontend.ProcessSpec) (err error) {
	defer close(p.ready)
	if p.after != nil {
		<-p.after.ready
		p.after = nil
	}
	p.p, err = p.in.Start(x.ctx, spec)
	if err != nil && p.in.released.Load() {
		err = ended(err)
	}
	return err
}

// ended is an error of a process that did not end by itself, but with its container. As with BuildKit.
func ended(err error) error { return fmt.Errorf("%w: %w", err, context.Canceled) }

// perform waits for a process to end.
func (x *execStream) perform(p *proc) (code int, err error) {
	code, err = p.p.Wait(x.ctx)
	if x.ctx.Err() != nil {
		_ = p.p.Signal(syscall.SIGKILL) // nobody can hear of it any more
	}
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code: %d", code)
		if p.in.released.Load() {
			code, err = pb.UnknownExitStatus, ended(err)
		}
	} else if err != nil && code == 0 {
		code = pb.UnknownExitStatus
	}
	return code, err
}

// finish tells how a process has ended, if it could be started at all. All of its output has been sent.
func (x *execStream) finish(p *proc, outs []uint32, code int, err error) {
	if p.stdin != nil {
		p.stdin.close()
	}
	for _, fd := range outs {
		x.send(x.out, &pb.ExecMessage{ProcessID: p.id, Input: &pb.ExecMessage_File{File: &pb.FdMessage{Fd: fd, EOF: true}}})
	}
	exit := &pb.ExitMessage{Code: uint32(code)}
	if err != nil {
		exit.Error = status.Convert(failure.Status(err)).Proto()
	}
	x.send(x.out, &pb.ExecMessage{ProcessID: p.id, Input: &pb.ExecMessage_Exit{Exit: exit}})
	x.send(x.out, &pb.ExecMessage{ProcessID: p.id, Input: &pb.ExecMessage_Done{Done: &pb.DoneMessage{}}})
	x.mu.Lock()
	delete(x.procs, p.id)
	x.mu.Unlock()
}

// send has a message sent by way of started or out, unless the call is over.
func (x *execStream) send(by chan<- *pb.ExecMessage, m *pb.ExecMessage) {
	select {
	case by <- m:
	case <-x.ctx.Done():
	}
}

// sendAll sends what there is to send. If something cannot be sent the stream is lost, which run learns too.
func (x *execStream) sendAll() {
	lost := false
	for {
		var m *pb.ExecMessage
		select {
		case m = <-x.started:
		default:
			select {
			case m = <-x.started:
			case m = <-x.out:
			case <-x.ended:
				return
			}
		}
		if !lost {
			lost = x.s.Send(m) != nil
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
	for part := range chunks(b, maxChunk) {
		m := &pb.FdMessage{Fd: w.fd, Data: bytes.Clone(part)} // it is sent after this has returned
		w.x.send(w.x.out, &pb.ExecMessage{ProcessID: w.p.id, Input: &pb.ExecMessage_File{File: m}})
	}
	return len(b), nil
}
