package session

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
)

// A SocketFile says who may use a socket.
type SocketFile struct {
	UID, GID int
	Mode     os.FileMode // 0 means 0600
}

// A Socket is a Unix socket of this machine whose connections are forwarded to an agent of the client's.
type Socket struct {
	// Path is where it is: in a directory of its own that only the owner of this process may enter.
	Path string

	listener *net.UnixListener
	cancel   context.CancelCauseFunc
	conns    sync.WaitGroup
	once     sync.Once
}

// maxConns is how many connections a socket has at once; others wait. What runs in a sandbox is not to use up the
// descriptors of the daemon.
const maxConns = 64

// ErrSocketClosed is why a connection ends that is open when its socket is closed.
var ErrSocketClosed = errors.New("the socket for the agent is closed")

// Listen makes a socket for what the client of ctx offers under id, in a new directory below dir. The error is a
// *NotFoundError if it offers nothing. The socket works until Close, or the end of ctx.
func Listen(ctx context.Context, dir, id string, file SocketFile) (_ *Socket, err error) {
	if err := From(ctx).CheckSSH(ctx, id); err != nil {
		return nil, err
	}
	own, err := os.MkdirTemp(dir, "ssh-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the agent's socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(own)
		}
	}()
	path := filepath.Join(own, "s")
	l, err := listenAt(own, path)
	if err != nil {
		return nil, fmt.Errorf("making the agent's socket: %w", err)
	}
	if file.Mode == 0 {
		file.Mode = 0o600
	}
	if err = errors.Join(os.Chown(path, file.UID, file.GID), os.Chmod(path, file.Mode)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	k := &Socket{Path: path, listener: l, cancel: cancel}
	k.conns.Go(func() { k.accept(ctx, id) })
	context.AfterFunc(ctx, func() { _ = l.Close() }) // Close waits for what it ends
	return k, nil
}

// listenAt listens at path, in the directory dir. The address of a socket has 108 bytes and a path may be longer, so it
// goes by the directory's descriptor.
func listenAt(dir, path string) (*net.UnixListener, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(d) }()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", d, filepath.Base(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then the short name means nothing
	return l, nil
}

// Close ends the socket and its connections, and removes it. It is idempotent.
func (k *Socket) Close() error {
	var err error
	k.once.Do(func() {
		k.cancel(ErrSocketClosed)
		_ = k.listener.Close() // the end of the context may have been first
		k.conns.Wait()
		err = os.RemoveAll(filepath.Dir(k.Path))
	})
	return err
}

func (k *Socket) accept(ctx context.Context, id string) {
	slots := make(chan struct{}, maxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c, err := k.listener.AcceptUnix()
		if err != nil {
			return
		}
		k.conns.Go(func() {
			defer func() { <-slots }()
			forward(ctx, id, c)
		})
	}
}

// forward joins c with a new connection to the agent. The step may have another client by now than when the socket was
// made. When either side has ended both are closed.
func forward(ctx context.Context, id string, c *net.UnixConn) {
	defer func() { _ = c.Close() }()
	agent, err := From(ctx).DialSSH(ctx, id)
	if err != nil {
		return // the process sees its connection closed, as from an agent that went away
	}
	Join(ctx, c, agent)
}

// Join copies between a and b until both sides have said that they are done, one of them fails, or ctx ends. It closes
// both.
func Join(ctx context.Context, a, b Conn) {
	hangUp := sync.OnceFunc(func() {
		_ = a.Close() // whoever is reading sees it
		_ = b.Close()
	})
	defer hangUp()
	defer context.AfterFunc(ctx, hangUp)()
	var both sync.WaitGroup
	oneWay := func(dst, src Conn) {
		if _, err := io.Copy(dst, src); err != nil {
			hangUp()
			return
		}
		if err := dst.CloseWrite(); err != nil {
			hangUp()
		}
	}
	both.Go(func() { oneWay(a, b) })
	both.Go(func() { oneWay(b, a) })
	both.Wait()
}
