package executortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/keep"
	"github.com/boxbuild/boxbuild/executor/shim/logfile"
)

// A FakeHost is a Host whose processes run a Func. Its keepers write logs, and live until the FakeHost is forgotten: a
// daemon that is restarted is played by using the same FakeHost in another. Everything that waits does so on channels, so
// that it can be used in a bubble of testing/synctest. It is safe for concurrent use.
type FakeHost struct {
	run Func

	mu   sync.Mutex
	pid  int                 // guarded by mu; the last that was given
	dirs map[string]*fakeBin // guarded by mu; by directory
}

var _ executor.Host = (*FakeHost)(nil)

// NewFakeHost returns a FakeHost whose processes run f.
func NewFakeHost(f Func) *FakeHost {
	return &FakeHost{run: f, pid: 1000, dirs: make(map[string]*fakeBin)}
}

// A fakeBin is a container of a FakeHost.
type fakeBin struct {
	h    *FakeHost
	spec *executor.Spec
	root *os.File
	path string
	k    *keep.Keeper

	mu     sync.Mutex
	gone   bool          // guarded by mu, as all below
	exit   executor.Exit // of the first process
	known  bool          // whether exit is
	paused bool
	limits executor.Limits // the last that were set
}

// Create implements executor.Host.
func (h *FakeHost) Create(ctx context.Context, dir string, spec *executor.Spec, opt executor.HostOptions) (executor.Container, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if len(spec.Process.Args) == 0 || spec.Root == nil {
		return nil, errors.New("no command, or no root")
	}
	h.mu.Lock()
	old := h.dirs[dir]
	h.mu.Unlock()
	if old != nil && !old.isGone() {
		return nil, fmt.Errorf("container of %s: exists already", dir)
	}
	fd, err := unix.FcntlInt(spec.Root.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("using the root: %w", err)
	}
	b := &fakeBin{
		h: h, spec: spec, root: os.NewFile(uintptr(fd), spec.Root.Name()), path: "/proc/self/fd/" + strconv.Itoa(fd), limits: spec.Limits,
	}
	kopts := keep.Options{Record: b.record}
	if opt.Log.Driver != "" && opt.Log.Driver != "none" {
		logs, err := os.OpenRoot(filepath.Dir(opt.Log.Path))
		if err != nil {
			b.root.Close()
			return nil, fmt.Errorf("opening the directory of the log: %w", err)
		}
		w, err := logfile.Open(logs, filepath.Base(opt.Log.Path), opt.Log)
		if err != nil {
			b.root.Close()
			return nil, err
		}
		kopts.Log = w
	}
	b.k = keep.New(kopts)
	err = b.add("", &spec.Process, opt.OpenStdin, opt.StdinOnce)
	if err == nil {
		err = b.k.Prepare("")
	}
	if err != nil {
		b.root.Close()
		return nil, err
	}
	h.mu.Lock()
	h.dirs[dir] = b
	h.mu.Unlock()
	return &fakeContainer{b}, nil
}

// Open implements executor.Host.
func (h *FakeHost) Open(ctx context.Context, dir string) (executor.Container, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	h.mu.Lock()
	b := h.dirs[dir]
	h.mu.Unlock()
	if b == nil {
		return nil, &executor.GoneError{}
	}
	if err := b.goneError(); err != nil {
		return nil, err
	}
	return &fakeContainer{b}, nil
}

// Break ends the keeper of the container of dir, as kill -9 does: the processes end, and nobody records how.
func (h *FakeHost) Break(dir string) {
	h.mu.Lock()
	b := h.dirs[dir]
	h.mu.Unlock()
	if b != nil {
		b.end()
	}
}

// Paused says whether the container of dir is frozen.
func (h *FakeHost) Paused(dir string) bool {
	h.mu.Lock()
	b := h.dirs[dir]
	h.mu.Unlock()
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.paused
}

// Spec returns what the container of dir was made of, or nil.
func (h *FakeHost) Spec(dir string) *executor.Spec {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.dirs[dir]; b != nil {
		return b.spec
	}
	return nil
}

// Limits returns the limits that the container of dir has now.
func (h *FakeHost) Limits(dir string) executor.Limits {
	h.mu.Lock()
	b := h.dirs[dir]
	h.mu.Unlock()
	if b == nil {
		return executor.Limits{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limits
}

func (h *FakeHost) nextPid() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pid++
	return h.pid
}

func (b *fakeBin) record(e executor.Exit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.gone {
		b.exit, b.known = e, true
	}
}

func (b *fakeBin) isGone() bool { return b.goneError() != nil }

// goneError is not nil once the keeper has ended.
func (b *fakeBin) goneError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return &executor.GoneError{Exit: b.exit, Known: b.known}
	}
	return nil
}

// end ends the keeper and all processes.
func (b *fakeBin) end() {
	b.mu.Lock()
	was := b.gone
	b.gone = true
	b.mu.Unlock()
	b.k.Kill()
	b.k.Flush()
	if !was {
		b.root.Close()
	}
}

func (b *fakeBin) add(id string, p *executor.Process, openStdin, once bool) error {
	if len(p.Args) == 0 {
		return errors.New("process without a command")
	}
	return b.k.Add(id, &keep.Process{
		Terminal: p.Terminal, OpenStdin: openStdin, StdinOnce: once, Rows: p.Rows, Cols: p.Cols,
		Start: func() (keep.Running, error) {
			if err := lookUp(b.path, p.Args[0]); err != nil {
				return nil, err
			}
			return b.newRun(id, p, openStdin), nil
		},
	})
}

// A fakeRun is a process of a FakeHost.
type fakeRun struct {
	b         *fakeBin
	id        string
	p         *executor.Process
	pid       int
	signals   chan syscall.Signal
	released  chan struct{}
	kill      context.CancelFunc
	done      chan struct{}
	exit      executor.Exit // set before done is closed
	in        io.WriteCloser
	out, errs *io.PipeReader
}

func (b *fakeBin) newRun(id string, p *executor.Process, openStdin bool) *fakeRun {
	r := &fakeRun{
		b: b, id: id, p: p, pid: b.h.nextPid(), signals: make(chan syscall.Signal, 16), released: make(chan struct{}), done: make(chan struct{}),
	}
	var ctx context.Context
	ctx, r.kill = context.WithCancel(context.Background())
	proc := &Proc{Spec: b.spec, Process: p, Root: b.path, Signals: r.signals, Stdin: eof{}}
	var inR *io.PipeReader
	if openStdin {
		var w *io.PipeWriter
		inR, w = io.Pipe()
		proc.Stdin, r.in = inR, w
		context.AfterFunc(ctx, func() { inR.Close() }) // who has been killed reads no more
	}
	outR, outW := io.Pipe()
	r.out, proc.Stdout = outR, outW
	errW := outW
	if !p.Terminal {
		r.errs, errW = io.Pipe()
	}
	proc.Stderr = errW
	go func() {
		defer close(r.done)
		defer func() {
			outW.Close()
			errW.Close()
			if inR != nil {
				inR.Close()
			}
		}()
		start := time.Now()
		code := 0
		select {
		case <-r.released:
			code = b.h.run(ctx, proc)
		case <-ctx.Done():
		}
		r.exit = executor.Exit{Code: code & 0xff, At: time.Now(), Usage: executor.Usage{CPU: time.Since(start)}}
		if ctx.Err() != nil {
			r.exit.Code, r.exit.Signal = 128+int(syscall.SIGKILL), syscall.SIGKILL
		}
		r.kill()
	}()
	if id != "" {
		go func() {
			select {
			case <-r.done:
			case <-b.k.Ended():
				r.kill()
			}
		}()
	}
	return r
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

func (r *fakeRun) Release() error {
	close(r.released)
	return nil
}

func (r *fakeRun) Stdin() io.WriteCloser {
	if r.in == nil {
		return nil
	}
	return r.in
}

func (r *fakeRun) Stdout() io.Reader { return r.out }

func (r *fakeRun) Stderr() io.Reader {
	if r.errs == nil {
		return nil
	}
	return r.errs
}

func (r *fakeRun) Drain() {}

func (r *fakeRun) Close() {
	if r.in != nil {
		r.in.Close()
	}
}

func (r *fakeRun) Resize(_, _ uint16) error { return r.Signal(syscall.SIGWINCH) }

func (r *fakeRun) Signal(sig syscall.Signal) error {
	select {
	case <-r.done:
		return os.ErrProcessDone
	default:
	}
	if sig == syscall.SIGKILL {
		r.kill()
		return nil
	}
	select {
	case r.signals <- sig:
	default: // as with the kernel, a signal that is pending already is not kept again
	}
	return nil
}

func (r *fakeRun) Wait() executor.Exit {
	<-r.done
	return r.exit
}

func (r *fakeRun) Pid() int { return r.pid }
