package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/cgroup"
	"github.com/boxbuild/boxbuild/executor/hugepage"
	"github.com/boxbuild/boxbuild/executor/pidfd"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A Host starts containers, each with a "boxshim container" of its own, which outlives the daemon. It implements
// executor.Host.
//
// A keeper is started ahead, so that the next container finds it ready, with the process of a sandbox in all of its
// namespaces and cgroups but the network's: see package libcontainer on spares. It ends with the daemon.
//
// Options.CgroupParent is used by nothing else, not even by the Executor of the same daemon: cgroups below it outlive the
// daemon. With NetworkBridge a container gets one of Options.Network's namespaces, whose links end with the daemon: a
// container that is to outlive it has a NetworkPath.
type Host struct {
	opts    Options
	binary  *os.File  // a sealed copy of boxshim, which all keepers share
	settled sync.Once // of its pages
	cgroups cgroup.Tree
	memory  *cgroup.OOM
	later   *time.Timer // starts the first keeper
	work    sync.WaitGroup

	mu      sync.Mutex
	closed  bool                   // guarded by mu, as all below
	last    uint64                 // of the spares' names
	network executor.NetworkMode   // of the container before, which the next is likely to have
	idle    *keeperProc            // ready for the next container
	making  chan struct{}          // closed when the one that is being started is idle; nil if there is none
	filters map[string]*filterCode // by filterKey
	watched map[*pidfd.Watch]bool  // on keepers, to be closed by Close
}

var _ executor.Host = (*Host)(nil)

// A filterCode is a compiled system call filter.
type filterCode struct {
	config json.RawMessage
	code   *os.File
}

// maxFilters bounds how many are remembered.
const maxFilters = 32

// NewHost returns a Host. Containers that an earlier one has started are found by Open.
func NewHost(ctx context.Context, opts Options) (*Host, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	cgroups := cgroup.At(cgroup.Root)
	cgroups.Sweep(opts.CgroupParent)
	if err := cgroups.Delegate(opts.CgroupParent, "io"); err != nil {
		return nil, err
	}
	binary, err := sealedCopy(opts.Binary)
	if err != nil {
		return nil, err
	}
	h := &Host{
		opts: opts, binary: binary, cgroups: cgroups, memory: cgroup.NewOOM(cgroups), filters: make(map[string]*filterCode), watched: make(map[*pidfd.Watch]bool),
		network: executor.NetworkPath,
	}
	h.later = time.AfterFunc(settle, h.stock)
	return h, nil
}

// settle is for how long a new Host starts no keeper ahead: a daemon is often started for a build, which has better use for
// the processors.
const settle = time.Second

// sealedCopy copies a program into memory, where nobody can write to it.
func sealedCopy(name string) (*os.File, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening boxshim: %w", err)
	}
	defer in.Close()
	fd, err := unix.MemfdCreate("boxshim", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("boxshim", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("making room for a copy of boxshim: %w", err)
	}
	out := os.NewFile(uintptr(fd), "boxshim")
	if _, err = io.Copy(out, in); err == nil {
		const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		_, err = unix.FcntlInt(out.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("making a sealed copy of boxshim: %w", err)
	}
	return out, nil
}

// A keeperProc is a keeper that has no container yet.
type keeperProc struct {
	conn *keeperConn
	done <-chan struct{} // closed when the process has ended and was waited for
}

// kill ends a keeper that has no container, or whose container could not be made, and returns when it has ended.
func (p *keeperProc) kill() {
	p.conn.close() // with which it ends
	<-p.done
}

// startKeeper starts a keeper. Without a pid namespace of its own it can join another's, or be in the host's; then the
// kernel does not kill the container with it.
func (h *Host) startKeeper(ownPID bool) (*keeperProc, error) {
	conn, child, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	defer child.Close()
	fd := -1
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", h.binary.Fd()))
	cmd.Args = []string{"boxshim", "container", h.opts.Dir}
	cmd.Env = []string{} // not the daemon's, which may hold secrets
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{child}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS, PidFD: &fd,
		Setsid: true, // it outlives the daemon, and so its terminal
	}
	if ownPID {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting a keeper: %w", err)
	}
	return &keeperProc{conn: newKeeperConn(conn.Keeper()), done: h.reap(cmd, fd)}, nil
}

// reap has the keeper's process waited for when it ends, and then closes the channel that it returns. Until Close that
// takes a goroutine, but no thread.
func (h *Host) reap(cmd *exec.Cmd, fd int) <-chan struct{} {
	done := make(chan struct{})
	w := pidfd.Of(cmd, fd)
	wait := func() {
		defer close(done)
		w.Wait()
	}
	if !w.CanClose() {
		go wait()
		return done
	}
	h.mu.Lock()
	h.watched[w] = true
	h.mu.Unlock()
	h.work.Go(func() {
		wait()
		h.mu.Lock()
		delete(h.watched, w)
		h.mu.Unlock()
		_ = w.Close()
	})
	return done
}

// stock has a keeper started for the next container. It does not wait.
func (h *Host) stock() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.making != nil || h.idle != nil {
		return
	}
	made := make(chan struct{})
	h.making = made
	h.work.Go(func() {
		defer close(made)
		h.settled.Do(func() { _ = hugepage.Collapse(h.binary) }) // keepers only start slower without
		p, err := h.startKeeper(true)
		if err == nil {
			if err = h.warm(p); err != nil {
				p.kill()
			}
		}
		h.mu.Lock()
		h.making = nil
		if err == nil && !h.closed {
			h.idle, p = p, nil
		}
		h.mu.Unlock()
		switch {
		case err != nil:
			h.note(err) // the next container starts its own, and has the error
		case p != nil:
			p.kill()
		}
	})
}

// warm has a keeper get ready for what most containers are like.
func (h *Host) warm(p *keeperProc) error {
	h.mu.Lock()
	h.last++
	id := fmt.Sprintf("spare-%d-%d", os.Getpid(), h.last)
	network := h.network
	h.mu.Unlock()
	spec := &executor.Spec{ID: id, Process: executor.Process{Args: []string{"/"}}, Network: executor.Network{Mode: network}}
	c := &wire.NewContainer{Request: wire.Request{Spec: spec}, Cgroup: h.opts.CgroupParent}
	key := filterKey(spec)
	if f := h.filter(key); f != nil {
		c.Filter = f.config
	}
	a, files, err := p.conn.call(context.Background(), &wire.Call{Op: wire.Warm, Create: c}, nil)
	if err == nil {
		h.learn(key, a, files)
		wire.CloseAll(files)
		err = a.Err.Err()
	}
	return err
}

// take returns a keeper without a container: a ready one, if there is and the container can have it.
func (h *Host) take(spec *executor.Spec) (*keeperProc, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, ErrClosed
	}
	h.network = spec.Network.Mode
	shares := spec.HostPID || spec.PIDNamespace != ""
	p := h.idle
	if shares || p == nil {
		p = nil
	} else {
		h.idle = nil
	}
	h.mu.Unlock()
	if p != nil && !p.conn.over() {
		return p, nil
	}
	return h.startKeeper(!shares)
}

// filterKey names all that the system call filter of a sandbox depends on.
func filterKey(spec *executor.Spec) string {
	b, err := json.Marshal(struct {
		Privileged   bool
		Add, Drop    []string
		Seccomp      executor.Seccomp
		Architecture string
	}{spec.Privileged, spec.CapAdd, spec.CapDrop, spec.Seccomp, ""})
	if err != nil {
		return ""
	}
	return string(b)
}

func (h *Host) filter(key string) *filterCode {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.filters[key]
}

// learn remembers what a keeper has compiled.
func (h *Host) learn(key string, a *wire.Answer, files []*os.File) {
	code := wire.Pick(files, a.Program)
	if code == nil || a.Filter == nil {
		return
	}
	fd, err := unix.FcntlInt(code.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return
	}
	f := &filterCode{config: a.Filter, code: os.NewFile(uintptr(fd), "filter")}
	h.mu.Lock()
	full := h.closed || len(h.filters) >= maxFilters || h.filters[key] != nil
	if !full {
		h.filters[key] = f
	}
	h.mu.Unlock()
	if full {
		f.code.Close()
	}
}

func (h *Host) note(err error) {
	if h.opts.Log != nil {
		fmt.Fprintln(h.opts.Log, "boxshim:", err)
	}
}

// Close ends the keeper that has no container. The others go on.
func (h *Host) Close() error {
	h.later.Stop()
	h.mu.Lock()
	h.closed = true
	idle := h.idle
	h.idle = nil
	h.mu.Unlock()
	if idle != nil {
		idle.kill()
	}
	h.mu.Lock()
	if making := h.making; making != nil {
		h.mu.Unlock()
		<-making
		h.mu.Lock()
	}
	watched := slices.Collect(maps.Keys(h.watched))
	var files []*os.File
	for _, f := range h.filters {
		files = append(files, f.code)
	}
	h.filters = nil
	h.mu.Unlock()
	wire.CloseAll(files)
	for _, w := range watched {
		_ = w.Close()
	}
	h.work.Wait()
	h.memory.Close()
	h.cgroups.Sweep(h.opts.CgroupParent)
	return h.binary.Close()
}

// Open implements executor.Host.
func (h *Host) Open(ctx context.Context, dir string) (executor.Container, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	c, err := dial(dir)
	if err != nil {
		var gone *executor.GoneError
		if errors.As(err, &gone) {
			h.clearAway(dir)
		}
		return nil, err
	}
	a, files, err := c.call(ctx, &wire.Call{Op: wire.List}, nil)
	wire.CloseAll(files)
	if err == nil {
		err = a.Err.Err()
	}
	if err != nil {
		c.close()
		if errors.Is(err, io.EOF) {
			err = goneError(dir)
		}
		return nil, err
	}
	return &hosted{h: h, dir: dir, conn: c, cgroup: a.Cgroup}, nil
}

// goneError says what is known of the container of dir, which has no keeper.
func goneError(dir string) error {
	gone := &executor.GoneError{}
	if b, err := os.ReadFile(filepath.Join(dir, wire.ExitFile)); err == nil {
		gone.Known = json.Unmarshal(b, &gone.Exit) == nil
	}
	return gone
}
