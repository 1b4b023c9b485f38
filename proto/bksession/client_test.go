package bksession

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	bk "github.com/moby/buildkit/session"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/proto/filesync"
)

// newStore returns a store in a directory of its own.
func newStore(t testing.TB) *filesync.Store {
	t.Helper()
	store, err := filesync.NewStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// socketpair returns two ends of a connection of the kind that clients have.
func socketpair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return conns[0], conns[1]
}

// A client is BuildKit's own side of a session.
type client struct {
	*bk.Session
	conn net.Conn // its end
	gone func()   // breaks the connection
	wg   sync.WaitGroup
	err  error // of Serve
}

// connect opens a session to m with what BuildKit's client offers, and closes it at the end of the test.
func connect(t testing.TB, m *Manager, sharedKey string, offers ...bk.Attachable) *client {
	t.Helper()
	s, err := bk.NewSession(context.Background(), sharedKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offers {
		s.Allow(o)
	}
	ours, theirs := socketpair(t)
	c := &client{Session: s, conn: theirs, gone: func() { _ = theirs.Close() }}
	serving := make(chan struct{})
	c.wg.Go(func() {
		_ = s.Run(context.Background(), func(_ context.Context, _ string, md map[string][]string) (net.Conn, error) {
			c.wg.Go(func() {
				defer close(serving)
				c.err = m.Serve(context.Background(), ours, md)
			})
			return theirs, nil
		})
	})
	t.Cleanup(func() {
		c.gone()
		c.wg.Wait()
	})
	return c
}

// open is connect and Get.
func open(t testing.TB, m *Manager, sharedKey string, offers ...bk.Attachable) (*Session, *client) {
	t.Helper()
	c := connect(t, m, sharedKey, offers...)
	s, err := m.Get(context.Background(), c.ID())
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// patient are options whose waits no slow machine gets to the end of.
func patient(t testing.TB) Options {
	return Options{Store: newStore(t), Wait: time.Hour}
}
