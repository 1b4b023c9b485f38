package keep

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A Backend is the container of a Server, as far as it is not its processes.
type Backend struct {
	Cgroup string
	// NewProcess describes a further process.
	NewProcess func(p *executor.Process, openStdin bool) *Process
	Pause      func() error
	Resume     func() error
	Update     func(*executor.Limits) error
	Stats      func() (*executor.Stats, error)
	// Release gives back what the container has, after its processes have ended. It is called once.
	Release func()
}

// A Server answers the calls of daemons.
type Server struct {
	k       *Keeper
	b       *Backend
	release sync.Once

	mu      sync.Mutex
	conns   int           // guarded by mu
	deleted bool          // guarded by mu
	leave   chan struct{} // closed when there is nothing left to answer
}

// NewServer returns a Server for the processes of k.
func NewServer(k *Keeper, b *Backend) *Server {
	return &Server{k: k, b: b, leave: make(chan struct{})}
}

// Run waits for the end of the container, gives back what it had, and returns when it was deleted, or when nobody is
// connected any more.
func (s *Server) Run() {
	<-s.k.Ended()
	s.release.Do(s.b.Release)
	s.check()
	<-s.leave
}

// check closes leave if it is time to.
func (s *Server) check() {
	select {
	case <-s.k.Ended():
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns > 0 && !s.deleted {
		return
	}
	select {
	case <-s.leave:
	default:
		close(s.leave)
	}
}

// Hold counts a connection, for which Serve will be called.
func (s *Server) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns++
}

// Serve answers the calls that come on conn until its end. Hold has been called for it.
func (s *Server) Serve(conn *wire.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	defer func() {
		cancel()
		conn.Close()
		calls.Wait()
		s.mu.Lock()
		s.conns--
		s.mu.Unlock()
		s.check()
	}()
	for {
		call := new(wire.Call)
		files, err := conn.Recv(call)
		if err != nil {
			return
		}
		calls.Go(func() {
			a, out := s.Answer(ctx, call, files)
			wire.CloseAll(files)
			a.ID = call.ID
			if ctx.Err() == nil {
				_ = conn.Send(a, out)
			}
			wire.CloseAll(out)
			if call.Op == wire.Delete {
				s.mu.Lock()
				s.deleted = true
				s.mu.Unlock()
				s.check()
			}
		})
	}
}

// Answer carries out one call. The files that it returns are the caller's to close; files stay the caller's.
func (s *Server) Answer(ctx context.Context, c *wire.Call, files []*os.File) (a *wire.Answer, out []*os.File) {
	a = new(wire.Answer)
	var err error
	switch c.Op {
	case wire.Add:
		if c.Process == nil {
			err = errors.New("no process")
			break
		}
		err = s.k.Add(c.Proc, s.b.NewProcess(c.Process, c.OpenStdin))
	case wire.Attach:
		err = s.attach(c, files)
	case wire.Run:
		err = s.k.Run(c.Proc)
	case wire.Send:
		err = s.k.Signal(c.Proc, c.Signal)
	case wire.Resize:
		err = s.k.Resize(c.Proc, c.Rows, c.Cols)
	case wire.Wait:
		var exit executor.Exit
		if exit, err = s.k.Wait(ctx, c.Proc); err == nil {
			a.Exit = &exit
		}
	case wire.List:
		out = s.List(a)
	case wire.Pause:
		err = s.whileRunning(s.b.Pause)
	case wire.Resume:
		err = s.whileRunning(s.b.Resume)
	case wire.Update:
		err = s.whileRunning(func() error { return s.b.Update(c.Limits) })
	case wire.Stats:
		err = s.whileRunning(func() (err error) {
			a.Stats, err = s.b.Stats()
			return err
		})
	case wire.Delete:
		s.k.Kill()
		s.release.Do(s.b.Release)
	default:
		err = fmt.Errorf("operation %q: unknown to this keeper", c.Op)
	}
	a.Err = wire.ErrorOf(err)
	return a, out
}

func (s *Server) whileRunning(f func() error) error {
	if s.k.Pid("") == 0 {
		return executor.ErrNotRunning
	}
	err := f()
	if err != nil && s.k.Pid("") == 0 {
		return executor.ErrNotRunning // it ended meanwhile
	}
	return err
}

// List fills in the answer to a List, and returns its files.
func (s *Server) List(a *wire.Answer) (files []*os.File) {
	a.Cgroup = s.b.Cgroup
	a.Procs, files = s.processes()
	return files
}

// processes returns those that have not ended, with pidfds.
func (s *Server) processes() ([]wire.Proc, []*os.File) {
	var procs []wire.Proc
	var files []*os.File
	for _, st := range s.k.List() {
		if st.Ended {
			continue
		}
		p := wire.Proc{ID: st.ID}
		if st.Pid > 0 && len(files) < wire.MaxFiles {
			if fd, err := unix.PidfdOpen(st.Pid, 0); err == nil {
				files = append(files, os.NewFile(uintptr(fd), "process"))
				p.PidFD = len(files)
			}
		}
		procs = append(procs, p)
	}
	return procs, files
}

func (s *Server) attach(c *wire.Call, files []*os.File) error {
	if len(files) != 1 {
		return errors.New("no connection to attach")
	}
	conn, err := net.FileConn(files[0])
	if err != nil {
		return fmt.Errorf("attaching a connection: %w", err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return errors.New("attaching a connection: it is not a Unix socket")
	}
	return s.k.Attach(c.Proc, c.Streams, &socket{u})
}

// A socket is a Conn.
type socket struct{ *net.UnixConn }

// Open implements Conn. The kernel tells POLLHUP when the peer has closed, and only POLLRDHUP when it has shut down
// writing.
func (s *socket) Open() bool {
	rc, err := s.SyscallConn()
	if err != nil {
		return false
	}
	poll := []unix.PollFd{{}}
	cerr := rc.Control(func(fd uintptr) {
		poll[0].Fd = int32(fd)
		for {
			_, err = unix.Poll(poll, 0)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return cerr == nil && err == nil && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) == 0
}

// Listen serves the connections that come to l, which it closes when done is closed.
func (s *Server) Listen(l *net.UnixListener, done <-chan struct{}) {
	go func() {
		<-done
		l.Close()
	}()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // as when descriptors are short
			continue
		}
		s.Hold()
		go s.Serve(wire.ToKeeper(c))
	}
}
