package session_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/solver/session"
)

// echo is a session that offers one socket, "up", which gives back what it is sent in capitals, once all is sent.
type echo struct {
	session.Session

	mu    sync.Mutex // guards open
	open  int        // connections that have not been closed
	dials int
}

func (e *echo) CheckSSH(_ context.Context, id string) error {
	if id != "up" {
		return &session.NotFoundError{Kind: "ssh", ID: id}
	}
	return nil
}

// DialSSH connects to a goroutine that ends with the connection.
func (e *echo) DialSSH(context.Context, string) (session.Conn, error) {
	here, there, err := socketPair()
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open++
	e.dials++
	go func() {
		defer there.Close()
		text, err := io.ReadAll(there)
		if err == nil {
			_, _ = there.Write([]byte(strings.ToUpper(string(text)))) // the other side may be gone
		}
	}()
	return &counted{UnixConn: here, e: e}, nil
}

type counted struct {
	*net.UnixConn
	e    *echo
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() {
		c.e.mu.Lock()
		defer c.e.mu.Unlock()
		c.e.open--
	})
	return c.UnixConn.Close()
}

// socketPair returns two ends of a connection.
func socketPair() (a, b *net.UnixConn, err error) {
	dir, err := os.MkdirTemp("", "pair")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	addr := &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.DialUnix("unix", nil, addr); err != nil {
		return nil, nil, err
	}
	b, err = l.AcceptUnix()
	return a, b, err
}

// TestSocket checks that each connection to a socket is one of the client's, that the end of writing arrives while the
// answer still comes, and that all is gone after Close: connections, file and directory.
func TestSocket(t *testing.T) {
	e := new(echo)
	dir := t.TempDir()
	ctx := session.With(t.Context(), e)
	sock, err := session.Listen(ctx, dir, "up", session.SocketFile{UID: os.Getuid(), GID: os.Getgid(), Mode: 0o640})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(sock.Path); err != nil || st.Mode() != fs.ModeSocket|0o640 {
		t.Errorf("the socket is %v, %v", st, err)
	}
	if st, err := os.Stat(filepath.Dir(sock.Path)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("its directory is %v, %v", st, err)
	}
	var all sync.WaitGroup
	const conns = 100 // more than a socket has at once
	for range conns {
		all.Go(func() {
			c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: sock.Path, Net: "unix"})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "HELLO" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	all.Wait()
	idle, err := net.Dial("unix", sock.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if err := sock.Close(); err != nil {
		t.Error(err)
	}
	if err := sock.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	if _, err := io.ReadAll(idle); err != nil && !errors.Is(err, net.ErrClosed) && !isReset(err) {
		t.Errorf("an idle connection: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	if e.open != 0 || e.dials < conns {
		t.Errorf("%d connections are open of %d", e.open, e.dials)
	}
}

func isReset(err error) bool { return strings.Contains(err.Error(), "reset") }

// TestSocketEndsWithContext checks that the end of the build ends the connections of a socket that nobody has closed yet.
func TestSocketEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(session.With(t.Context(), new(echo)))
	sock, err := session.Listen(ctx, t.TempDir(), "up", session.SocketFile{UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	c, err := net.Dial("unix", sock.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if _, err := io.ReadAll(c); err != nil && !isReset(err) {
		t.Errorf("the connection: %v", err)
	}
}

// TestLongPath checks that a socket may be where its path is longer than the address of a socket can be.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	sock, err := session.Listen(session.With(t.Context(), new(echo)), dir, "up", session.SocketFile{UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(sock.Path); err != nil {
		t.Error(err)
	}
	if err := sock.Close(); err != nil {
		t.Error(err)
	}
}

// TestNothing checks that a context without a session has one whose client has nothing, that what is not there is
// ErrNotFound, and that nothing is left of a socket for it.
func TestNothing(t *testing.T) {
	s := session.From(t.Context())
	_, secret := s.Secret(t.Context(), "x")
	_, dial := s.DialSSH(t.Context(), "x")
	dir := t.TempDir()
	_, listen := session.Listen(t.Context(), dir, "x", session.SocketFile{})
	for _, tc := range []struct {
		err  error
		want string
	}{
		{secret, "secret x: not found"},
		{s.CheckSSH(t.Context(), "x"), "unset ssh forward key x"},
		{dial, "unset ssh forward key x"},
		{listen, "unset ssh forward key x"},
	} {
		if !errors.Is(tc.err, session.ErrNotFound) || !strings.HasPrefix(tc.err.Error(), tc.want) {
			t.Errorf("got %v, want %s", tc.err, tc.want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}
