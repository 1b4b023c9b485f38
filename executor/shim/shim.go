// Package shim is the executor of the daemon: it starts sandboxes through a boxshim process, over the protocol of
// package wire.
//
// Life cycle: Start removes what a killed daemon with the same cgroup left, and starts one "boxshim pool", in a pid
// namespace of its own. Executor.Start then asks it for sandboxes. Executor.Close ends every sandbox and the shim. If the
// shim dies, so do all sandboxes, by the kernel's rule for pid namespaces, and all that waits gets ErrShimEnded; a Keeper
// then starts another. If the daemon dies, the shim dies likewise: it sees the end of its connection, and the kernel
// sends it SIGKILL.
//
// The daemon opens, looks up and copies everything of the host's that a sandbox gets, and passes it on as file
// descriptors: the shim itself sees no file of the host's.
//
// Locks: Executor.mu guards the table of calls; nothing else is locked and no I/O is done while it is held. Keeper.turn,
// a semaphore, is taken before Keeper.mu, which is a leaf.
package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/cgroup"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

var (
	// ErrShimEnded is what everything under way returns when the shim has ended.
	ErrShimEnded = errors.New("the sandbox process boxshim has ended")
	// ErrClosed is returned by Start after Close.
	ErrClosed = errors.New("the executor is closed")
)

// A Network hands out network namespaces. The file is an open namespace; release gives the namespace back, returns at
// once, and may be called once.
type Network interface {
	// Bridge returns a namespace with access to the network.
	Bridge(ctx context.Context) (ns *os.File, release func(), err error)
	// Isolated returns a namespace with nothing but lo.
	Isolated(ctx context.Context) (ns *os.File, release func(), err error)
}

// Options say how to run the shim.
type Options struct {
	Binary string // path of the program boxshim
	// Dir is any directory; the shim's private file system is mounted there, in its own mount namespace.
	Dir string
	// CgroupParent is the cgroup below which sandboxes get theirs, such as /boxbuild-1f2e3d4c: a name that no other
	// daemon on this machine uses, since whatever is in it and below it is removed by Start and Close; likewise for a cgroup with
	// the same name below each parent that a sandbox has asked for. With cgroup v2,
	// Start makes it, and moves processes at the root of a container's hierarchy out of its way.
	CgroupParent string
	Network      Network   // nil: no bridge, and NetworkNone makes a namespace each time
	Log          io.Writer // what the shim has to say; nil discards it
}

// Validate reports what is wrong with o.
func (o *Options) Validate() error {
	switch {
	case o.Binary == "":
		return errors.New("shim: no program given")
	case o.Dir == "":
		return errors.New("shim: no directory given")
	case !path.IsAbs(o.CgroupParent) || path.Clean(o.CgroupParent) != o.CgroupParent || o.CgroupParent == "/":
		return fmt.Errorf("shim: cgroup %q: want a clean absolute path below the root", o.CgroupParent)
	}
	return nil
}

// An Executor starts sandboxes through one shim.
type Executor struct {
	opts  Options
	conn  *wire.Conn
	away  *parents
	ended chan struct{} // closed when the shim has ended and every call has been told
	work  sync.WaitGroup

	mu     sync.Mutex
	closed bool              // guarded by mu
	last   uint64            // guarded by mu; the last ID given to a call
	calls  map[uint64]*call  // guarded by mu
	ids    map[string]*claim // guarded by mu
}

var _ executor.Executor = (*Executor)(nil)

// Start starts a shim. ctx bounds the start only.
func Start(ctx context.Context, opts Options) (_ *Executor, err error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cgroups := cgroup.At(cgroup.Root)
	if err := cgroups.Remove(opts.CgroupParent); err != nil {
		return nil, err
	}
	away, err := openParents(&opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cgroups.Remove(opts.CgroupParent))
		}
	}()
	if err := cgroups.Delegate(opts.CgroupParent); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(opts.Dir, hooksDir)); err != nil {
		return nil, fmt.Errorf("clearing up after hooks: %w", err)
	}
	conn, child, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	e := &Executor{
		opts:  opts,
		conn:  conn,
		away:  away,
		ended: make(chan struct{}),
		calls: make(map[uint64]*call),
		ids:   make(map[string]*claim),
	}
	started, exited := make(chan error), make(chan error, 1)
	go e.runShim(child, started, exited)
	err = <-started
	child.Close()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting %s: %w", opts.Binary, err)
	}
	go e.receive(exited)
	return e, nil
}

// runShim runs the shim to its end. The kernel ties a parent-death signal to the thread that started the child, so that
// thread is kept for it.
func (e *Executor) runShim(conn *os.File, started, exited chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stderr tail
	cmd := exec.Command(e.opts.Binary, "pool", e.opts.Dir, e.opts.CgroupParent)
	cmd.Env = []string{} // not the daemon's, which may hold secrets
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{conn}
	cmd.Stderr = &stderr
	if e.opts.Log != nil {
		cmd.Stderr = io.MultiWriter(&stderr, e.opts.Log)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // a terminal's Ctrl-C is for the daemon to handle
	}
	err := cmd.Start()
	started <- err
	if err != nil {
		return
	}
	if err = cmd.Wait(); err != nil {
		err = fmt.Errorf("%w: %w: %s", ErrShimEnded, err, bytes.TrimSpace(stderr.bytes()))
	}
	exited <- err
}

// receive hands replies to their calls until the shim ends.
func (e *Executor) receive(exited <-chan error) {
	defer close(e.ended)
	var rerr error
	for {
		var r wire.Reply
		files, err := e.conn.Recv(&r)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				rerr = err
			}
			break
		}
		e.mu.Lock()
		c := e.calls[r.ID]
		if c != nil && c.isLast(&r) {
			delete(e.calls, r.ID)
		}
		e.mu.Unlock()
		if c == nil {
			wire.CloseAll(files)
			continue
		}
		c.reply(&r, files)
	}
	e.conn.Close() // tells a shim that is alive to end
	err := errors.Join(<-exited, rerr)
	if err == nil {
		err = ErrShimEnded
	}
	e.mu.Lock()
	e.closed = true
	calls := e.calls
	e.calls = nil
	e.mu.Unlock()
	for _, c := range calls {
		c.fail(err)
	}
}

// Close ends every sandbox, the shim, and what it left in the cgroup hierarchies. It returns when all of that is done.
// It is idempotent.
func (e *Executor) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	// The pool ends with its connection, and every sandbox with the pool.
	e.conn.Close()
	<-e.ended
	e.work.Wait()
	return errors.Join(e.away.remove(), cgroup.At(cgroup.Root).Remove(e.opts.CgroupParent))
}

// add registers a call. It returns ErrClosed after Close and ErrShimEnded after the end of the shim.
func (e *Executor) add(c *call) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.calls == nil {
		return ErrShimEnded
	}
	if e.closed {
		return ErrClosed
	}
	e.last++
	c.id = e.last
	e.calls[c.id] = c
	return nil
}

func (e *Executor) forget(c *call) {
	e.mu.Lock()
	delete(e.calls, c.id)
	e.mu.Unlock()
}

// A claim is the use of a sandbox's ID. It ends when the sandbox has been closed and the shim has removed the last of it.
type claim struct {
	closed, gone bool          // guarded by Executor.mu
	free         chan struct{} // closed when the claim has ended
}

// reserve claims an ID. If the sandbox that has it is closed it waits until the ID is free.
func (e *Executor) reserve(ctx context.Context, id string) (*claim, error) {
	for {
		e.mu.Lock()
		old := e.ids[id]
		if old == nil {
			c := &claim{free: make(chan struct{})}
			e.ids[id] = c
			e.mu.Unlock()
			return c, nil
		}
		closed := old.closed
		e.mu.Unlock()
		if !closed {
			return nil, fmt.Errorf("sandbox %s: exists already", id)
		}
		select {
		case <-old.free:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// settle notes that the sandbox of a claim is closed or gone, and ends the claim if it is both.
func (e *Executor) settle(id string, c *claim, closed, gone bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := c.closed && c.gone
	c.closed, c.gone = c.closed || closed, c.gone || gone
	if c.closed && c.gone && !was {
		delete(e.ids, id)
		close(c.free)
	}
}

// A tail keeps the last few KiB of what is written to it. Only one goroutine writes; it is read after that has ended.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const keep = 4 << 10
	t.b = append(t.b, p...)
	if len(t.b) > 2*keep {
		t.b = append(t.b[:0], t.b[len(t.b)-keep:]...)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte {
	// The program name is on every line; it is in the error already.
	return []byte(strings.ReplaceAll(string(t.b), "boxshim: ", ""))
}
