package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// An OOM tells when the kernel is out of memory for the processes of a cgroup: with version 1 when it has found that, just
// before it kills; with version 2 when it has killed. All cgroups share one epoll, with a descriptor each, and one goroutine,
// from the first Watch until Close. It is safe for concurrent use.
type OOM struct {
	dir     string // of the controller
	unified bool
	file    string // of a cgroup, with key
	key     string // whose number grows; version 2 only
	work    sync.WaitGroup

	mu      sync.Mutex
	poll    *os.File            // guarded by mu, as all below; nil before the first Watch, and after Close
	closed  bool                // by Close
	watches map[int32]*oomWatch // by descriptor
}

// An oomWatch is that of one cgroup.
type oomWatch struct {
	told func()
	dir  string // of the cgroup

	mu   sync.Mutex // is held while told runs, so that there is no call after stop
	fd   int        // guarded by mu; -1 once stopped
	last uint64     // guarded by mu
}

// NewOOM returns an OOM for the cgroups of t.
func NewOOM(t Tree) *OOM {
	o := &OOM{dir: t.memory, unified: t.unified, file: "memory.oom_control", watches: make(map[int32]*oomWatch)}
	if t.unified {
		o.file, o.key = "memory.events", "oom_kill "
	}
	return o
}

// Watch has told called each time it happens to cgroup, from a goroutine that others wait for, until stop returns. Without
// a memory controller it is an error.
func (o *OOM) Watch(cgroup string, told func()) (stop func(), err error) {
	w := &oomWatch{told: told, dir: filepath.Join(o.dir, cgroup)}
	if err := o.open(w); err != nil {
		return nil, fmt.Errorf("watching the memory of a cgroup: %w", err)
	}
	fd := int32(w.fd)
	events := uint32(unix.EPOLLIN)
	if o.unified {
		events = unix.EPOLLPRI
	}
	o.mu.Lock()
	poll, err := o.startLocked()
	if err == nil {
		o.watches[fd] = w
	}
	o.mu.Unlock()
	if err == nil {
		err = control(poll, unix.EPOLL_CTL_ADD, fd, events)
	}
	stop = func() {
		o.mu.Lock()
		if o.watches[fd] == w {
			delete(o.watches, fd)
		}
		o.mu.Unlock()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.fd >= 0 {
			unix.Close(w.fd) // and the kernel takes it out of the epoll, and of the cgroup
			w.fd = -1
		}
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("watching the memory of a cgroup: %w", err)
	}
	return stop, nil
}

// open opens what becomes readable, or has a priority event, when it happens.
func (o *OOM) open(w *oomWatch) error {
	if o.unified {
		name := filepath.Join(w.dir, o.file)
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		w.fd, w.last = fd, number(fd, o.key)
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	f, err := os.Open(filepath.Join(w.dir, o.file))
	if err == nil {
		err = writeFile(filepath.Join(w.dir, "cgroup.event_control"), fmt.Sprintf("%d %d", fd, f.Fd()))
		f.Close()
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	w.fd = fd
	return nil
}

// startLocked starts the goroutine, and returns the epoll.
func (o *OOM) startLocked() (*os.File, error) {
	switch {
	case o.closed:
		return nil, os.ErrClosed
	case o.poll != nil:
		return o.poll, nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime waits for it, without a thread
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	poll := os.NewFile(uintptr(fd), "epoll")
	o.poll = poll
	o.work.Go(func() { o.run(poll) })
	return poll, nil
}

func control(poll *os.File, op int, fd int32, events uint32) error {
	rc, err := poll.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(p uintptr) {
		err = unix.EpollCtl(int(p), op, int(fd), &unix.EpollEvent{Events: events, Fd: fd})
	})
	return errors.Join(cerr, os.NewSyscallError("epoll_ctl", err))
}

// run tells of events until poll is closed.
func (o *OOM) run(poll *os.File) {
	rc, err := poll.SyscallConn()
	if err != nil {
		return
	}
	var events [32]unix.EpollEvent
	for {
		n := 0
		err := rc.Read(func(p uintptr) bool {
			var werr error
			n, werr = unix.EpollWait(int(p), events[:], 0)
			return n > 0 || werr != nil && !errors.Is(werr, unix.EINTR)
		})
		if err != nil {
			return
		}
		for i := range max(n, 0) {
			o.mu.Lock()
			w := o.watches[events[i].Fd]
			o.mu.Unlock()
			if w != nil {
				o.happened(w)
			}
		}
	}
}

// happened looks at what an event was about. That of version 1 comes also when the cgroup is removed.
func (o *OOM) happened(w *oomWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return
	}
	if o.unified {
		n := number(w.fd, o.key)
		if n > w.last {
			w.told()
		}
		w.last = max(n, w.last)
		return
	}
	var count [8]byte
	if _, err := unix.Read(w.fd, count[:]); err != nil {
		return
	}
	if _, err := os.Stat(filepath.Join(w.dir, o.file)); err == nil {
		w.told()
	}
}

// number reads the number of key, which has a space at its end. Reading the file makes it ready for the next event.
func number(fd int, key string) uint64 {
	buf := make([]byte, 4096)
	n, err := unix.Pread(fd, buf, 0)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(buf[:n]) {
		if v, ok := bytes.CutPrefix(line, []byte(key)); ok {
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(v)), 10, 64)
			return n
		}
	}
	return 0
}

// Close ends the goroutine. Nothing is told afterwards.
func (o *OOM) Close() {
	o.mu.Lock()
	poll := o.poll
	o.poll, o.closed = nil, true
	o.mu.Unlock()
	if poll != nil {
		poll.Close()
	}
	o.work.Wait()
}
