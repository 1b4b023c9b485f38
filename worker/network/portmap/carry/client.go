package carry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/pidfd"
)

// ClientOptions are those of a Client.
type ClientOptions struct {
	// Dir is the daemon's own directory, in which the socket is.
	Dir string
	// Command makes the command of the process, which calls Serve with its descriptor 3.
	Command func() *exec.Cmd
	// Lost is called, from a goroutine that Close waits for, when the process has ended and was not to: what it carried has
	// to be carried anew. It is given up once ctx is done.
	Lost func(ctx context.Context)
}

// SocketName is the name of the socket in the directory.
const SocketName = "ports.sock"

// A Client is a Carrier for which the process carries. What it carries goes on when the Client is closed.
type Client struct {
	opts ClientOptions
	turn chan struct{}   // held for a call, and guards ids
	ids  map[string]bool // what is carried
	life context.Context //nolint:containedctx // the Client's own, whose goroutines it waits for
	end  context.CancelFunc
	work sync.WaitGroup

	mu     sync.Mutex
	closed bool         // guarded by mu
	conn   *link        // guarded by mu; nil if there is no process, as far as is known
	child  *pidfd.Watch // guarded by mu; on the process, if this Client has started it
}

var _ Carrier = (*Client)(nil)

// A link is a connection to the process.
type link struct {
	*net.UnixConn
	answers chan *answer  // has room for one
	gone    chan struct{} // closed when nothing comes any more
}

// NewClient returns a Client. It starts nothing.
func NewClient(opts ClientOptions) *Client {
	c := &Client{opts: opts, turn: make(chan struct{}, 1), ids: make(map[string]bool)}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// Carry implements Carrier. It starts the process if there is none.
func (c *Client) Carry(id string, to netip.Addr, sockets []Socket) error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.ids[id] = true
	for first := true; first || len(sockets) > 0; first = false {
		part := sockets[:min(len(sockets), maxFiles)]
		sockets = sockets[len(part):]
		in := &call{Op: opCarry, ID: id, To: to}
		files := make([]*os.File, len(part))
		for i, s := range part {
			files[i] = s.File
			in.Ports = append(in.Ports, s.Port)
		}
		if err := c.ask(in, files, true); err != nil {
			return fmt.Errorf("carrying connections to a container: %w", err)
		}
	}
	return nil
}

// Drop implements Carrier.
func (c *Client) Drop(id string) error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	err := c.ask(&call{Op: opDrop, ID: id}, nil, false)
	if err == nil {
		delete(c.ids, id)
	}
	return err
}

// Keep implements Carrier.
func (c *Client) Keep(ids []string) error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.ids = make(map[string]bool, len(ids))
	for _, id := range ids {
		c.ids[id] = true
	}
	for {
		part := ids[:min(len(ids), maxIDs)]
		ids = ids[len(part):]
		if err := c.ask(&call{Op: opKeep, IDs: part, More: len(ids) > 0}, nil, false); err != nil || len(ids) == 0 {
			return err
		}
	}
}

// ask makes a call. Without a process it starts one, if start is set, or else there is nothing to do. The turn is held.
func (c *Client) ask(in *call, files []*os.File, start bool) error {
	for try := 0; ; try++ {
		conn, err := c.connect(start)
		if conn == nil || err != nil {
			return err
		}
		if err = send(conn.UnixConn, in, files); err == nil {
			select {
			case out := <-conn.answers:
				if out.Err != "" {
					return errors.New(out.Err)
				}
				return nil
			case <-conn.gone:
				err = errors.New("the process for published ports has ended")
			}
		}
		// As one does that had nothing to carry.
		c.drop(conn)
		if try == 1 {
			return err
		}
	}
}

// drop forgets a connection that does not work.
func (c *Client) drop(conn *link) {
	conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
}

// connect returns the connection to the process that there is, or else to a new one; nil if there is none and none is to be
// started. The turn is held.
func (c *Client) connect(start bool) (*link, error) {
	c.mu.Lock()
	old, closed := c.conn, c.closed
	c.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	if old != nil {
		return old, nil
	}
	dir, err := os.Open(c.opts.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Paths of sockets are short.
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), SocketName)
	conn, err := dial(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		if !start {
			_ = os.Remove(name)
			return nil, nil
		}
		if conn, err = c.start(name); err != nil {
			return nil, fmt.Errorf("starting the process for published ports: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	l := &link{UnixConn: conn, answers: make(chan *answer, 1), gone: make(chan struct{})}
	c.conn = l
	c.work.Go(func() { c.read(l) })
	return l, nil
}

// read takes the answers of the process, and learns of its end. One that ends soon after its start is not started again at
// once.
func (c *Client) read(l *link) {
	begun := time.Now()
	for {
		out := new(answer)
		files, err := recv(l.UnixConn, out)
		if err != nil {
			break
		}
		closeAll(files)
		l.answers <- out
	}
	close(l.gone)
	c.drop(l)
	if c.opts.Lost == nil || c.life.Err() != nil {
		return
	}
	select {
	case <-time.After(max(0, time.Second-time.Since(begun))):
		c.opts.Lost(c.life)
	case <-c.life.Done():
	}
}

func dial(name string) (*net.UnixConn, error) {
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: name, Net: "unixpacket"})
}

// start starts the process. It is connected to before, so that it ends with a daemon that is killed meanwhile.
func (c *Client) start(name string) (*net.UnixConn, error) {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: name, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(name, 0o600); err != nil {
		return nil, err
	}
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conn, err := dial(name)
	if err != nil {
		return nil, err
	}
	cmd := c.opts.Command()
	fd := -1
	cmd.ExtraFiles = []*os.File{f}
	// It outlives the daemon, and so its terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &fd}
	cmd.Dir, cmd.Env = "/", append([]string{}, cmd.Env...)
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.reap(cmd, fd)
	return conn, nil
}

// reap waits for the end of the process, without a thread, until Close.
func (c *Client) reap(cmd *exec.Cmd, fd int) {
	w := pidfd.Of(cmd, fd)
	if !w.CanClose() {
		go w.Wait()
		return
	}
	c.mu.Lock()
	closed := c.closed
	c.child = w
	c.mu.Unlock()
	if closed {
		w.Close()
		return
	}
	c.work.Go(func() {
		defer w.Close()
		w.Wait()
	})
}

// Close ends the connection. What is carried goes on; if that is nothing, the process ends.
func (c *Client) Close() {
	c.end()
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.mu.Lock()
	conn, child := c.conn, c.child
	c.conn, c.child, c.closed = nil, nil, true
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
		if len(c.ids) == 0 {
			_ = os.Remove(filepath.Join(c.opts.Dir, SocketName)) // else the next daemon finds that nobody listens
		}
	}
	if child != nil {
		child.Close()
	}
	c.work.Wait()
}
