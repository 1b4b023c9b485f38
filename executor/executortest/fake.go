// Package executortest has the conformance suite of executor.Executor and a Fake whose processes are Go functions.
//
// The Fake is for the tests of other packages: it runs without root, isolates nothing, and gives the function the Spec,
// and a path under which the root's files are. It keeps the contract in all other respects, as the suite shows.
package executortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// A Proc is what the function of a process gets.
type Proc struct {
	Spec    *executor.Spec
	Process *executor.Process // Spec.Process, or that of Exec
	// Root is a path of the root while the function runs: Root+"/etc/passwd" is the root's /etc/passwd. Symbolic links
	// in the root are not confined to it.
	Root           string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Signals has what Sandbox.Signal was called with, except SIGKILL, which ends ctx.
	Signals <-chan syscall.Signal
}

// A Func is a process. It returns the exit code, and has to return soon after ctx has ended, which means that it was
// killed.
type Func func(ctx context.Context, p *Proc) int

// A Fake is an Executor whose processes run a Func. It is safe for concurrent use.
type Fake struct {
	run Func

	mu      sync.Mutex
	ids     map[string]bool // guarded by mu
	started []*executor.Spec
}

var _ executor.Executor = (*Fake)(nil)

// NewFake returns a Fake whose processes run f.
func NewFake(f Func) *Fake { return &Fake{run: f, ids: make(map[string]bool)} }

// Started returns the Specs that Start was called with and did not refuse, in order.
func (f *Fake) Started() []*executor.Spec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*executor.Spec(nil), f.started...)
}

// Start implements executor.Executor. The command, if it is an absolute path, has to exist in the root.
func (f *Fake) Start(ctx context.Context, spec *executor.Spec, rw executor.IO) (executor.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if len(spec.Process.Args) == 0 {
		return nil, errors.New("process without a command")
	}
	if spec.Root == nil {
		return nil, errors.New("no root")
	}
	fd, err := unix.FcntlInt(spec.Root.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("using the root: %w", err)
	}
	root := os.NewFile(uintptr(fd), spec.Root.Name())
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := lookUp(path, spec.Process.Args[0]); err != nil {
		root.Close()
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids[spec.ID] {
		root.Close()
		return nil, fmt.Errorf("sandbox %s: exists already", spec.ID)
	}
	f.ids[spec.ID] = true
	f.started = append(f.started, spec)
	b := &fakeBox{fake: f, spec: spec, root: root, path: path}
	b.init = b.process(context.Background(), &spec.Process, rw)
	return b, nil
}

func lookUp(root, command string) error {
	if !filepath.IsAbs(command) {
		return nil
	}
	fi, err := os.Lstat(root + command)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &executor.StartError{Path: command, Code: 127, Err: err}
	case err == nil && (fi.IsDir() || fi.Mode().IsRegular() && fi.Mode()&0o111 == 0):
		err = fs.ErrPermission
	}
	if err != nil {
		return &executor.StartError{Path: command, Code: 126, Err: err}
	}
	return nil
}

type fakeBox struct {
	fake  *Fake
	spec  *executor.Spec
	root  *os.File
	path  string
	init  *fakeProc
	execs sync.WaitGroup
	once  sync.Once
}

type fakeProc struct {
	kill     context.CancelFunc
	signals  chan syscall.Signal
	terminal bool
	done     chan struct{}
	exit     executor.Exit // set before done is closed
}

// process starts p, to be killed when ctx ends.
func (b *fakeBox) process(ctx context.Context, p *executor.Process, rw executor.IO) *fakeProc {
	fp := &fakeProc{terminal: p.Terminal, signals: make(chan syscall.Signal, 16), done: make(chan struct{})}
	ctx, fp.kill = context.WithCancel(ctx)
	proc := &Proc{
		Spec: b.spec, Process: p, Root: b.path, Signals: fp.signals, Stdin: rw.Stdin, Stdout: rw.Stdout, Stderr: rw.Stderr,
	}
	if proc.Stdin == nil {
		proc.Stdin = strings.NewReader("")
	}
	if proc.Stdout == nil {
		proc.Stdout = io.Discard
	}
	if proc.Stderr == nil {
		proc.Stderr = io.Discard
	}
	start := time.Now()
	go func() {
		defer close(fp.done)
		defer fp.kill()
		code := b.fake.run(ctx, proc)
		fp.exit = executor.Exit{Code: code & 0xff, At: time.Now(), Usage: executor.Usage{CPU: time.Since(start)}}
		if ctx.Err() != nil {
			fp.exit.Code, fp.exit.Signal = 128+int(syscall.SIGKILL), syscall.SIGKILL
		}
	}()
	return fp
}

// Spawn implements executor.Spawner.
func (b *fakeBox) Spawn(ctx context.Context, p *executor.Process, rw executor.IO) (executor.Running, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return b.spawn(context.Background(), p, rw)
}

// spawn starts one more process, to be killed when ctx ends.
func (b *fakeBox) spawn(ctx context.Context, p *executor.Process, rw executor.IO) (*fakeProc, error) {
	select {
	case <-b.init.done:
		return nil, os.ErrProcessDone
	default:
	}
	if err := lookUp(b.path, p.Args[0]); err != nil {
		return nil, err
	}
	fp := b.process(ctx, p, rw)
	b.execs.Go(func() {
		select {
		case <-fp.done:
		case <-b.init.done: // which ends all others
			fp.kill()
			<-fp.done
		}
	})
	return fp, nil
}

// Exec implements executor.Sandbox.
func (b *fakeBox) Exec(ctx context.Context, p *executor.Process, rw executor.IO) (executor.Exit, error) {
	if ctx.Err() != nil {
		return executor.Exit{}, context.Cause(ctx)
	}
	fp, err := b.spawn(ctx, p, rw)
	if err != nil {
		return executor.Exit{}, err
	}
	<-fp.done
	if ctx.Err() != nil {
		return executor.Exit{}, context.Cause(ctx)
	}
	return fp.exit, nil
}

// Signal implements executor.Sandbox.
func (b *fakeBox) Signal(sig syscall.Signal) error { return b.init.Signal(sig) }

// Resize implements executor.Running.
func (b *fakeBox) Resize(rows, cols uint16) error { return b.init.Resize(rows, cols) }

// Wait implements executor.Sandbox.
func (b *fakeBox) Wait(ctx context.Context) (executor.Exit, error) { return b.init.Wait(ctx) }

// Signal implements executor.Running.
func (p *fakeProc) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
	}
	if sig == syscall.SIGKILL {
		p.kill()
		return nil
	}
	select {
	case p.signals <- sig:
	default: // as with the kernel, a signal that is pending already is not kept again
	}
	return nil
}

// Resize implements executor.Running. Where there is a terminal it is remembered that its size has changed.
func (p *fakeProc) Resize(_, _ uint16) error {
	if !p.terminal {
		return executor.ErrNoTerminal
	}
	return p.Signal(syscall.SIGWINCH)
}

// Wait implements executor.Running.
func (p *fakeProc) Wait(ctx context.Context) (executor.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return executor.Exit{}, context.Cause(ctx)
	}
}

// Close implements executor.Sandbox.
func (b *fakeBox) Close() error {
	b.once.Do(func() {
		b.init.kill()
		<-b.init.done
		b.execs.Wait()
		b.root.Close()
		b.fake.mu.Lock()
		delete(b.fake.ids, b.spec.ID)
		b.fake.mu.Unlock()
	})
	return nil
}
