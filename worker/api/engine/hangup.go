package engine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A hangups tells of connections whose client has gone for good. A client that only closes its side still reads; for a read
// here the two look alike, and a process that says nothing is not written for. The kernel knows the difference on local
// sockets, and says so to an epoll instance, of which there is one for all.
//
// The zero value is ready. It is safe for concurrent use, and mu is a leaf.
type hangups struct {
	mu     sync.Mutex // guards all below
	file   *os.File   // the epoll instance; nil until it is needed
	ended  chan struct{}
	closed bool
	last   int32
	gone   map[int32]func()
}

// watch calls gone, once, when the client of conn has gone, unless forget has been called before. On connections of which
// the kernel says nothing it does nothing.
func (h *hangups) watch(conn net.Conn, gone func()) (forget func()) {
	none := func() {}
	sc, ok := conn.(syscall.Conn)
	if !ok || conn.LocalAddr().Network() != "unix" {
		return none
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return none
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.startLocked() != nil {
		return none
	}
	h.last++
	token := h.last
	h.gone[token] = gone
	ctl, err := h.file.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			// The end of the watch is the end of the connection.
			err = ctl.Control(func(ep uintptr) {
				_ = unix.EpollCtl(int(ep), unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{
					Events: unix.EPOLLHUP | unix.EPOLLONESHOT, Fd: token,
				}) // nobody is told then
			})
		}), err)
	}
	if err != nil {
		delete(h.gone, token)
		return none
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.gone, token)
	}
}

// startLocked starts the goroutine that waits.
func (h *hangups) startLocked() error {
	switch {
	case h.closed:
		return net.ErrClosed
	case h.file != nil:
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that the runtime waits for it as for a socket
	}
	if err != nil {
		return fmt.Errorf("making an epoll instance: %w", err)
	}
	h.file, h.gone, h.ended = os.NewFile(uintptr(fd), "epoll"), map[int32]func(){}, make(chan struct{})
	go h.run(h.file)
	return nil
}

// run waits until close.
func (h *hangups) run(file *os.File) {
	defer close(h.ended)
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 16)
	for err == nil {
		n := 0
		err = raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0) // an error is no event
			return n > 0
		})
		for _, ev := range events[:max(n, 0)] {
			h.mu.Lock()
			gone := h.gone[ev.Fd]
			delete(h.gone, ev.Fd)
			h.mu.Unlock()
			if gone != nil {
				gone()
			}
		}
	}
}

// close ends the goroutine.
func (h *hangups) close() {
	h.mu.Lock()
	h.closed = true
	file := h.file
	h.mu.Unlock()
	if file != nil {
		_ = file.Close()
		<-h.ended
	}
}
