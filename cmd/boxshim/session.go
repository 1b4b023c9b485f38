//go:build cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/libcontainer"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A session is what one connection asked for. Each request that starts something has a goroutine, which ends with the
// process that it started or with the program.
type session struct {
	conn   *wire.Conn
	rt     *libcontainer.Runtime
	cgroup string
	limits *libcontainer.Limits

	initOnce sync.Once
	initErr  error

	mu    sync.Mutex
	procs map[uint64]*proc // guarded by mu
}

// A proc is a process that was asked for, from the request to its end.
type proc struct {
	spec   *executor.Spec // of a sandbox
	cgroup string         // of a sandbox
	box    *libcontainer.Container
	signal func(syscall.Signal) error // nil until it runs
	killed bool                       // asked for before it ran
	hooked chan error                 // gets how the hooks went that the daemon has run
}

var errKilled = errors.New("killed before it ran")

func newSession(conn *wire.Conn, rt *libcontainer.Runtime, cgroup string, limits *libcontainer.Limits) *session {
	return &session{conn: conn, rt: rt, cgroup: cgroup, limits: limits, procs: make(map[uint64]*proc)}
}

// handle begins to carry out a request. An error means that the connection is of no more use.
func (s *session) handle(req *wire.Request, files []*os.File) error {
	switch req.Op {
	case wire.Start, wire.Exec:
		p := &proc{spec: req.Spec, hooked: make(chan error, 1)}
		s.mu.Lock()
		_, exists := s.procs[req.ID]
		if !exists {
			s.procs[req.ID] = p
		}
		s.mu.Unlock()
		if exists {
			return errors.New("the id is in use")
		}
		go s.process(req, files, p)
	case wire.Signal, wire.Kill:
		// In a goroutine, as the runtime has locks that it holds while it starts a process.
		go s.send(req)
	case wire.Hooked:
		s.mu.Lock()
		p := s.procs[req.ID]
		s.mu.Unlock()
		if p != nil {
			select {
			case p.hooked <- req.Err.Err():
			default: // nobody has asked
			}
		}
	default:
		return errors.New("unknown operation")
	}
	return nil
}

// send delivers a signal. One for a process that has ended, or that is not yet there, has no effect.
func (s *session) send(req *wire.Request) {
	s.mu.Lock()
	p := s.procs[req.ID]
	var signal func(syscall.Signal) error
	var cgroup string
	if p != nil {
		signal, cgroup = p.signal, p.cgroup
		p.killed = p.killed || req.Op == wire.Kill
	}
	s.mu.Unlock()
	switch {
	case p == nil:
	case req.Op == wire.Kill && signal != nil:
		_ = signal(syscall.SIGKILL)
	case req.Op == wire.Kill && cgroup != "":
		s.rt.KillAll(cgroup)
	case signal != nil:
		_ = signal(syscall.Signal(req.Signal))
	}
}

// process carries out a Start or Exec from beginning to end.
func (s *session) process(req *wire.Request, files []*os.File, p *proc) {
	start := s.startBox
	if req.Op == wire.Exec {
		start = s.startExec
	}
	tr := newTrace()
	r, err := start(req, files, p, tr)
	if err != nil {
		s.forget(req.ID)
		_ = s.conn.Send(&wire.Reply{Op: wire.Failed, ID: req.ID, Err: wireError(err)}, nil)
		return
	}
	s.mu.Lock()
	p.signal, p.box = r.signal, r.box
	killed := p.killed
	s.mu.Unlock()
	if killed {
		_ = r.signal(syscall.SIGKILL)
	}
	var terminal []*os.File
	if r.terminal != nil {
		terminal = []*os.File{r.terminal}
	}
	_ = s.conn.Send(&wire.Reply{Op: wire.Started, ID: req.ID, Trace: tr.phases}, terminal)
	wire.CloseAll(terminal)
	exit := r.wait()
	s.forget(req.ID)
	_ = s.conn.Send(&wire.Reply{Op: wire.Exited, ID: req.ID, Exit: &exit}, nil)
	if r.destroy != nil {
		if err := r.destroy(); err != nil {
			fmt.Fprintln(os.Stderr, "boxshim:", err)
		}
		_ = s.conn.Send(&wire.Reply{Op: wire.Gone, ID: req.ID}, nil)
	}
}

func (s *session) forget(id uint64) {
	s.mu.Lock()
	delete(s.procs, id)
	s.mu.Unlock()
}

// running is a process that was started.
type running struct {
	box      *libcontainer.Container // of a sandbox
	terminal *os.File
	signal   func(syscall.Signal) error
	wait     func() executor.Exit
	destroy  func() error
}

// startExec starts one more process in a sandbox.
func (s *session) startExec(req *wire.Request, files []*os.File, _ *proc, _ *trace) (*running, error) {
	defer wire.CloseAll(files)
	s.mu.Lock()
	of := s.procs[req.Of]
	var box *libcontainer.Container
	if of != nil {
		box = of.box
	}
	s.mu.Unlock()
	if box == nil || req.Proc == nil {
		return nil, os.ErrProcessDone
	}
	desc, err := s.execProcess(of.spec, box, req.Proc)
	if err == nil {
		err = makeCwd(box, desc)
	}
	if err != nil {
		return nil, err
	}
	p, terminal, err := box.Exec(desc, stdio(req, files))
	if err != nil {
		return nil, err
	}
	return &running{terminal: terminal, signal: p.Signal, wait: p.Wait}, nil
}

func stdio(req *wire.Request, files []*os.File) [3]*os.File {
	return [3]*os.File{
		wire.Pick(files, req.Files.Stdin), wire.Pick(files, req.Files.Stdout), wire.Pick(files, req.Files.Stderr),
	}
}

func wireError(err error) *wire.Error {
	out := &wire.Error{Msg: err.Error()}
	var se *executor.StartError
	if errors.As(err, &se) {
		out.Path, out.Code, out.Msg = se.Path, se.Code, se.Err.Error()
	}
	return out
}

// A trace records how long each phase of a start took.
type trace struct {
	last   time.Time
	phases map[string]int64
}

func newTrace() *trace { return &trace{last: time.Now(), phases: make(map[string]int64)} }

func (t *trace) mark(phase string) {
	now := time.Now()
	t.phases[phase] = now.Sub(t.last).Nanoseconds()
	t.last = now
}
