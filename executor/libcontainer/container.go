//go:build cgo

package libcontainer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	lc "github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// Options say what to start.
type Options struct {
	ID    string
	Spec  *specs.Spec
	Root  *os.File // the mount that Attachments puts at Spec.Root.Path; closed by Start or Wait
	Stdio [3]*os.File
	// Attachments are closed by Start.
	Attachments []Attachment
	NetNS       *os.File // the network namespace at the path that Spec has for it; nil if it has none
	// Hold has the first process wait, when all else is done, for Release.
	Hold bool
	// Filter, if set, is what the system call filter of Spec was compiled to, by another Runtime.
	Filter *CompiledFilter
	// Admit, if set, is called before anything runs that belongs to the sandbox, with its cgroup, for
	// KillAll. If it returns false, Start returns ErrNotAdmitted.
	Admit func(cgroup string) bool
	// Hooks are the sandbox's. If there are any, AskHooks is called while the first process, with that number, waits before
	// it enters its root, and has those run that come before StartContainer; an error ends the sandbox, and is that of Start.
	// Those of StartContainer are run by Start, or by Release; the others are the caller's.
	Hooks    []executor.Hook
	AskHooks func(pid int) error
	Bundle   string // what the hooks of StartContainer are told of it
	// Trace, if set, is called at the end of each phase.
	Trace func(phase string)
}

// ErrNotAdmitted is returned by Start if Options.Admit returned false.
var ErrNotAdmitted = errors.New("not admitted")

// A Container is a sandbox that was started. Its methods are safe for concurrent use.
type Container struct {
	rt     *Runtime
	id     string
	state  string // the name that libcontainer has for it
	cgroup string
	lc     *lc.Container
	init   *lc.Process
	root   *os.File
	stubs  stubs
	filter *os.File // the compiled filter, which the Runtime owns; nil if there is none
	hold   bool
	hooks  *hooks // nil if there are none

	mu       sync.Mutex
	finished bool // guarded by mu; the first process has been reaped
}

// Start starts a sandbox. terminal is the master of its terminal, if Spec.Process.Terminal. A command that can't be
// executed is an *executor.StartError. After an error nothing is left but, maybe, directories: call Cleanup.
func (r *Runtime) Start(o *Options) (_ *Container, _ *os.File, err error) {
	defer func() {
		for _, a := range o.Attachments {
			a.Mount.Close()
		}
		if err != nil {
			o.Root.Close()
		}
	}()
	trace := o.Trace
	if trace == nil {
		trace = func(string) {}
	}
	config, filter, err := r.config(o.Spec, o.Filter)
	if err != nil {
		return nil, nil, err
	}
	trace("config")
	c := &Container{rt: r, id: o.ID, state: o.ID, cgroup: config.Cgroups.Path, root: o.Root, filter: filter, hold: o.Hold}
	c.useHooks(o, config)
	kind := r.shape(config, o.Spec.Process.Terminal)
	sp := r.takeSpare(kind, network(config))
	if sp != nil {
		c.state, c.cgroup, c.lc, c.init = sp.id, sp.config.Cgroups.Path, sp.box, sp.init
	}
	if !r.Single {
		r.keepSpare(kind, config)
	}
	trace("spare")
	terminal, err := c.start(o, config, sp)
	if err != nil {
		return nil, nil, err
	}
	trace("run")
	return c, terminal, nil
}

// start does what is left of Runtime.Start. After an error it leaves nothing of the spare, and nothing in the root.
func (c *Container) start(o *Options, config *configs.Config, sp *spare) (terminal *os.File, err error) {
	defer func() {
		if err == nil {
			return
		}
		c.stubs.remove()
		switch {
		case sp != nil:
			sp.discard()
		case c.lc != nil:
			_ = c.lc.Destroy()
		}
	}()
	if o.Admit != nil && !o.Admit(c.cgroup) {
		return nil, ErrNotAdmitted
	}
	if c.stubs, err = makeStubs(o.Root, mountPoints(o.Spec.Mounts)); err != nil {
		return nil, err
	}
	if sp != nil {
		terminal, err := sp.become(config, o, c.filter)
		if err == nil && !c.hold {
			err = c.lc.Exec()
		}
		return terminal, startError(o.Spec.Process.Args[0], err)
	}
	if c.lc, err = lc.Create(stateDir, o.ID, config); err != nil {
		return nil, fmt.Errorf("creating sandbox %s: %w", o.ID, err)
	}
	c.init = newProcess(o.Spec.Process, o.Stdio)
	c.init.Init = true
	return c.launch(c.init, o.Spec.Process, o.Attachments)
}

// launch starts a process with the socket that it gets its plan from.
func (c *Container) launch(p *lc.Process, desc *specs.Process, mounts []Attachment) (terminal *os.File, err error) {
	parent, child, err := sendPlan(&plan{Mounts: mounts, Files: limitsFiles(c.lc.Config().Rlimits)}, c.filter)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	p.ExtraFiles = []*os.File{child}
	console, err := newConsole(p, desc.Terminal)
	if err != nil {
		child.Close()
		return nil, err
	}
	defer console.close()
	err = c.lc.Start(p)
	if err == nil && p.Init && !c.hold {
		err = c.Release()
		if err != nil && c.hooks != nil {
			c.end()
		}
	}
	child.Close()
	if err != nil {
		if herr := c.hooks.failed(); p.Init && herr != nil {
			return nil, herr
		}
		if aerr := awaitAttach(parent); aerr != nil {
			return nil, aerr
		}
		return nil, startError(desc.Args[0], err)
	}
	return console.master()
}

// Release lets the first process of a sandbox that was started with Hold execute its command.
func (c *Container) Release() error {
	if err := c.runStartHooks(); err != nil {
		return err
	}
	if err := c.lc.Exec(); err != nil {
		return fmt.Errorf("starting the command: %w", err)
	}
	return nil
}

// Cgroup returns the sandbox's cgroup, in every hierarchy.
func (c *Container) Cgroup() string { return c.cgroup }

// Pid returns the number of the first process as this process sees it, 0 if it has none.
func (c *Container) Pid() int {
	pid, err := c.init.Pid()
	if err != nil {
		return 0
	}
	return pid
}

// logLevel is warnings. Without a level, libcontainer's code reports each of its steps, which costs a millisecond.
const logLevel = "3"

func newProcess(p *specs.Process, stdio [3]*os.File) *lc.Process {
	out := &lc.Process{
		Args:     p.Args,
		Env:      p.Env,
		Cwd:      p.Cwd,
		UID:      int(p.User.UID),
		GID:      int(p.User.GID),
		LogLevel: logLevel,
	}
	for _, g := range p.User.AdditionalGids {
		out.AdditionalGroups = append(out.AdditionalGroups, int(g))
	}
	if p.ConsoleSize != nil {
		out.ConsoleWidth, out.ConsoleHeight = uint16(p.ConsoleSize.Width), uint16(p.ConsoleSize.Height)
	}
	// A nil *os.File in an interface would not be nil.
	if stdio[0] != nil {
		out.Stdin = stdio[0]
	}
	if stdio[1] != nil {
		out.Stdout = stdio[1]
	}
	if stdio[2] != nil {
		out.Stderr = stdio[2]
	}
	return out
}

// mountPoints returns those of the mounts' targets that are in the root itself, not in another mount.
func mountPoints(mounts []specs.Mount) []mountPoint {
	var out []mountPoint
	for i, m := range mounts {
		below := false
		for _, o := range mounts[:i] {
			below = below || strings.HasPrefix(m.Destination, o.Destination+"/")
		}
		if !below {
			out = append(out, mountPoint{path: m.Destination, dir: isDir(m)})
		}
	}
	return out
}

// isDir says whether a mount point is to be a directory. Sources have their place in Dir already, of the right kind.
func isDir(m specs.Mount) bool {
	if m.Type != "bind" {
		return true
	}
	fi, err := os.Stat(m.Source)
	return err != nil || fi.IsDir()
}

// startError makes the error of a process that could not be executed of libcontainer's.
func startError(command string, err error) error {
	if err == nil {
		return nil
	}
	msg := err.Error()
	i := strings.LastIndex(msg, "exec: \"")
	if i < 0 {
		return fmt.Errorf("starting %q: %w", command, err)
	}
	code := 126
	if strings.Contains(msg[i:], "not found") || strings.Contains(msg[i:], "no such file") {
		code = 127
	}
	cause := msg[i:]
	if _, after, ok := strings.Cut(cause, "\": "); ok {
		cause = after
	}
	return &executor.StartError{Path: command, Code: code, Err: errors.New(cause)}
}

// Wait waits for the end of the first process, and with it of all others. When it returns, the root has no stubs left
// and nothing holds its mounts. It may be called once.
func (c *Container) Wait() executor.Exit {
	state, _ := c.init.Wait()
	c.mu.Lock()
	c.finished = true
	c.mu.Unlock()
	exit := exitOf(state)
	c.stubs.remove()
	c.root.Close()
	if peak := c.rt.cgroups.Memory(c.cgroup); peak > 0 {
		exit.Usage.PeakMemory = peak
	}
	exit.OOMKilled = c.rt.cgroups.OOMKills(c.cgroup) > 0
	return exit
}

func exitOf(state *os.ProcessState) executor.Exit {
	exit := executor.Exit{At: time.Now()}
	if state == nil {
		exit.Code = 255
		return exit
	}
	// With those of all processes that it, or the kernel at its end, waited for.
	exit.Usage.CPU = state.UserTime() + state.SystemTime()
	if u, ok := state.SysUsage().(*syscall.Rusage); ok {
		exit.Usage.PeakMemory = u.Maxrss << 10 // of the largest of them, until the cgroup tells of all
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		exit.Signal = status.Signal()
		exit.Code = 128 + int(status.Signal())
		return exit
	}
	exit.Code = state.ExitCode()
	return exit
}

// Signal sends sig to the first process. It returns os.ErrProcessDone once that has ended.
func (c *Container) Signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return os.ErrProcessDone
	}
	if err := c.lc.Signal(sig); err != nil {
		if errors.Is(err, lc.ErrNotRunning) || errors.Is(err, os.ErrProcessDone) {
			return os.ErrProcessDone
		}
		return fmt.Errorf("sending signal %d: %w", sig, err)
	}
	return nil
}

// Destroy removes what is left of the sandbox after Wait: its cgroup and its directories.
func (c *Container) Destroy() error {
	err := c.lc.Destroy()
	return errors.Join(err, os.RemoveAll(filepath.Join(stateDir, c.state)), Cleanup(c.id))
}

// Cleanup removes the directory of the sandbox id and its state.
func Cleanup(id string) error {
	return errors.Join(os.RemoveAll(Dir(id)), os.RemoveAll(filepath.Join(stateDir, id)))
}

// KillAll kills every process in the cgroup of a sandbox, also while Start is at work.
func (r *Runtime) KillAll(cgroup string) {
	r.cgroups.Kill(cgroup)
}

// An ExecProcess is one that was started in a running sandbox.
type ExecProcess struct {
	c       *Container
	p       *lc.Process
	oomSeen uint64
	mu      sync.Mutex
	done    bool // guarded by mu; the process has been reaped
}

// Exec starts one more process.
func (c *Container) Exec(p *specs.Process, stdio [3]*os.File) (*ExecProcess, *os.File, error) {
	out := newProcess(p, stdio)
	out.NoNewPrivileges = &p.NoNewPrivileges
	out.Capabilities = &configs.Capabilities{
		Bounding:    p.Capabilities.Bounding,
		Effective:   p.Capabilities.Effective,
		Permitted:   p.Capabilities.Permitted,
		Inheritable: p.Capabilities.Inheritable,
		Ambient:     p.Capabilities.Ambient,
	}
	oom := c.rt.cgroups.OOMKills(c.cgroup)
	master, err := c.launch(out, p, nil)
	if err != nil {
		return nil, nil, err
	}
	return &ExecProcess{c: c, p: out, oomSeen: oom}, master, nil
}

// Wait waits for the end of the process. It may be called once.
func (e *ExecProcess) Wait() executor.Exit {
	state, _ := e.p.Wait()
	e.mu.Lock()
	e.done = true
	e.mu.Unlock()
	exit := exitOf(state)
	exit.OOMKilled = e.c.rt.cgroups.OOMKills(e.c.cgroup) > e.oomSeen && exit.Signal == syscall.SIGKILL
	return exit
}

// Pid returns the number of the process as this process sees it.
func (e *ExecProcess) Pid() int {
	pid, err := e.p.Pid()
	if err != nil {
		return 0
	}
	return pid
}

// Signal sends sig to the process. It returns os.ErrProcessDone once that has ended.
func (e *ExecProcess) Signal(sig syscall.Signal) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done {
		return os.ErrProcessDone
	}
	return e.p.Signal(sig)
}

// OpenRoot opens the root of the running sandbox, as its processes see it.
func (c *Container) OpenRoot() (*os.File, error) {
	pid, err := c.init.Pid()
	if err != nil {
		return nil, fmt.Errorf("finding the sandbox's process: %w", err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the sandbox's root: %w", err)
	}
	return os.NewFile(uintptr(fd), "root"), nil
}
