package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A keeperConn is a connection to a keeper. Any number of calls are under way on it at once.
type keeperConn struct {
	conn  *wire.Conn
	ended chan struct{} // closed when no answer will come any more

	mu    sync.Mutex
	last  uint64                  // guarded by mu; the last ID given to a call
	calls map[uint64]chan *answer // guarded by mu; nil at the end
}

type answer struct {
	wire.Answer
	files []*os.File
}

func newKeeperConn(c *wire.Conn) *keeperConn {
	k := &keeperConn{conn: c, ended: make(chan struct{}), calls: make(map[uint64]chan *answer)}
	go k.receive()
	return k
}

// receive hands answers to the calls until the end of the connection, which is close, or the end of the keeper.
func (k *keeperConn) receive() {
	defer close(k.ended)
	for {
		a := new(answer)
		files, err := k.conn.Recv(&a.Answer)
		if err != nil {
			break
		}
		a.files = files
		k.mu.Lock()
		c := k.calls[a.ID]
		delete(k.calls, a.ID)
		k.mu.Unlock()
		if c == nil {
			wire.CloseAll(files) // nobody waits any more
			continue
		}
		c <- a // there is room
	}
	k.conn.Close()
	k.mu.Lock()
	calls := k.calls
	k.calls = nil
	k.mu.Unlock()
	for _, c := range calls {
		close(c)
	}
}

func (k *keeperConn) close() {
	k.conn.Close()
	<-k.ended
}

func (k *keeperConn) over() bool {
	select {
	case <-k.ended:
		return true
	default:
		return false
	}
}

// call makes a call and waits for its answer. At the end of the connection the error is io.EOF. When ctx ends first, the
// keeper still carries it out.
func (k *keeperConn) call(ctx context.Context, c *wire.Call, files []*os.File) (*wire.Answer, []*os.File, error) {
	ch := make(chan *answer, 1)
	k.mu.Lock()
	if k.calls == nil {
		k.mu.Unlock()
		return nil, nil, io.EOF
	}
	k.last++
	c.ID = k.last
	k.calls[c.ID] = ch
	k.mu.Unlock()
	if err := k.conn.Send(c, files); err != nil {
		k.mu.Lock()
		delete(k.calls, c.ID)
		k.mu.Unlock()
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			err = io.EOF
		}
		return nil, nil, err
	}
	select {
	case a, ok := <-ch:
		if !ok {
			return nil, nil, io.EOF
		}
		return &a.Answer, a.files, nil
	case <-ctx.Done():
	}
	k.mu.Lock()
	if k.calls != nil {
		delete(k.calls, c.ID)
	}
	k.mu.Unlock()
	select {
	case a, ok := <-ch: // it came at the last moment
		if ok {
			wire.CloseAll(a.files)
		}
	default:
	}
	return nil, nil, context.Cause(ctx)
}

// inDir calls fn with a path of name in dir that is short enough for a socket, of which the kernel takes 107 bytes.
func inDir(dir, name string, fn func(path string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return fn(filepath.Join(fmt.Sprintf("/proc/self/fd/%d", fd), name))
}

// dial connects to the keeper of dir, or returns a GoneError.
func dial(dir string) (*keeperConn, error) {
	var conn *net.UnixConn
	err := inDir(dir, wire.SocketFile, func(p string) (err error) {
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: p, Net: "unix"})
		return err
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, goneError(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to the keeper of %s: %w", dir, err)
	}
	return newKeeperConn(wire.ToKeeper(conn)), nil
}

// listen makes the socket of the keeper of dir.
func listen(dir string) (*os.File, error) {
	var l *net.UnixListener
	err := inDir(dir, wire.SocketFile, func(p string) (err error) {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return os.Chmod(p, 0o600)
	})
	if l != nil {
		defer l.Close() // the keeper has a copy
	}
	if err != nil {
		return nil, fmt.Errorf("listening in %s: %w", dir, err)
	}
	return l.File()
}
