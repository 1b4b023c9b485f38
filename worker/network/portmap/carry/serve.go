package carry

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Serve is the process: it carries what the daemons that connect to the socket f, which listens, ask for. It returns when
// there is nothing to carry and nobody is connected.
func Serve(f *os.File) error {
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("listening for daemons: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return errors.Join(errors.New("listening for daemons: it is not a Unix socket"), l.Close())
	}
	s := &server{table: NewTable(), listener: u}
	s.accept()
	s.calls.Wait()
	s.table.Close()
	return nil
}

type server struct {
	table    *Table
	listener *net.UnixListener
	calls    sync.WaitGroup

	mu    sync.Mutex
	conns int // guarded by mu
}

func (s *server) accept() {
	for {
		c, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // as when descriptors are short
			continue
		}
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		s.calls.Go(func() { s.serve(c) })
	}
}

// serve answers one daemon.
func (s *server) serve(c *net.UnixConn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conns--; s.conns > 0 {
			return
		}
		// The next daemon is not served before: what it has taken over it answers for.
		s.table.leave()
		if s.table.empty() {
			s.listener.Close()
		}
	}()
	if !trusted(c) {
		return
	}
	var keep []string
	for {
		in := new(call)
		files, err := recv(c, in)
		if err != nil {
			return
		}
		a := answerOf(s.table, in, files, &keep)
		closeAll(files)
		if err := send(c, a, nil); err != nil {
			return
		}
	}
}

// trusted says whether the user at the other end is the one that this process runs as.
func trusted(c *net.UnixConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	cerr := rc.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cerr == nil && err == nil && int(cred.Uid) == os.Geteuid()
}
