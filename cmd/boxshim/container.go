//go:build cgo

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/libcontainer"
	"github.com/boxbuild/boxbuild/executor/sandbox"
	"github.com/boxbuild/boxbuild/executor/shim/keep"
	"github.com/boxbuild/boxbuild/executor/shim/logfile"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A keeper is the program in its mode for one container.
type keeper struct {
	s    *session // for what the two modes have in common
	k    *keep.Keeper
	spec *executor.Spec
	opts executor.HostOptions
	host *sandbox.Host // what the sandbox was described with
	dir  *os.Root      // the container's directory
	// Until the container is made: the connection to the daemon, and the call that waits for it.
	conn     *wire.Conn
	creating uint64

	paused   atomic.Bool
	turn     sync.Mutex // serialises Pause, Resume and Update, which the kernel carries out at once
	box      *libcontainer.Container
	compiled *libcontainer.CompiledFilter // if it was compiled here
	trace    *trace
}

// container keeps one container, for the daemon that has started this process and for those that come after it. It returns
// when the container has been deleted, or has ended and nobody is interested.
func container(scratch string) error {
	if _, err := unix.FcntlInt(connFD, unix.F_GETFD, 0); err != nil {
		return errors.New("descriptor 3 is not open: keepers are started by boxbuildd")
	}
	unix.CloseOnExec(connFD)
	if err := libcontainer.EnterAlone(scratch); err != nil {
		return err
	}
	useLog()
	conn, err := wire.FromFile(os.NewFile(connFD, "daemon"))
	if err != nil {
		return err
	}
	conn.Keeper()
	rt, err := libcontainer.NewRuntime()
	if err != nil {
		return err
	}
	rt.Single = true
	kp := &keeper{s: newSession(nil, rt, "", nil), conn: conn}
	for {
		call := new(wire.Call)
		files, err := conn.Recv(call)
		if err != nil {
			return nil // the daemon has no use for this keeper
		}
		a := &wire.Answer{ID: call.ID}
		var out []*os.File
		var server *keep.Server
		var l *net.UnixListener
		switch {
		case call.Create == nil:
			err = fmt.Errorf("operation %q before there is a container", call.Op)
		case call.Op == wire.Warm:
			err = kp.warm(call.Create)
		case call.Op == wire.Create:
			kp.creating = call.ID
			server, l, err = kp.create(call.Create, files)
			a.ID = kp.creating
		}
		wire.CloseAll(files)
		if server != nil {
			out = server.List(a)
			kp.trace.mark("list")
			a.Trace = kp.trace.phases
		}
		if err == nil && kp.compiled != nil {
			a.Filter = kp.compiled.Config
			out = append(out, kp.compiled.Program)
			a.Program = len(out)
		}
		a.Err = wire.ErrorOf(err)
		if server != nil {
			server.Hold()
		}
		serr := conn.Send(a, out)
		if server == nil {
			if err != nil || serr != nil {
				return err
			}
			continue
		}
		done := make(chan struct{})
		go server.Serve(conn)
		go server.Listen(l, done)
		server.Run()
		close(done)
		kp.k.Flush()
		return nil
	}
}

// prepare sets up what has to be known before anything is described.
func (kp *keeper) prepare(c *wire.NewContainer) (err error) {
	if kp.s.limits == nil || kp.s.cgroup != c.Cgroup {
		kp.s.cgroup = c.Cgroup
		kp.s.limits, err = libcontainer.OwnLimits(c.Cgroup)
	}
	return err
}

// warm starts a spare sandbox, and compiles the filter that most containers have unless the daemon has it.
func (kp *keeper) warm(c *wire.NewContainer) error {
	if err := kp.prepare(c); err != nil {
		return err
	}
	spec := c.Request.Spec
	if spec == nil {
		return errors.New("no specification")
	}
	host := &sandbox.Host{
		Root: "/", CgroupParent: c.Cgroup, HardLimits: kp.s.limits.Hard, Capabilities: kp.s.limits.Capabilities,
		Controllers: kp.s.limits.Controllers, NoSwapLimit: !kp.s.limits.Swap, CPUs: kp.s.limits.CPUs,
	}
	if spec.Network.Mode != executor.NetworkNone {
		host.NetNS = "/proc/self/ns/net" // stands for the one that is to be joined
	}
	desc, err := sandbox.Describe(spec, host)
	if err != nil {
		return err
	}
	if c.Filter == nil && desc.Linux.Seccomp != nil {
		if kp.compiled, err = kp.s.rt.Compiled(desc.Linux.Seccomp); err != nil {
			return err
		}
	}
	desc.Linux.Seccomp = nil
	return kp.s.rt.KeepSpare(spec.ID, desc)
}

// create makes the container, up to its command.
func (kp *keeper) create(c *wire.NewContainer, files []*os.File) (_ *keep.Server, _ *net.UnixListener, err error) {
	kp.trace = newTrace()
	if err := kp.prepare(c); err != nil {
		return nil, nil, err
	}
	spec := c.Request.Spec
	if spec == nil {
		return nil, nil, errors.New("no specification")
	}
	if err := sandbox.Validate(spec); err != nil {
		return nil, nil, err
	}
	kp.spec, kp.opts = spec, c.Options
	if kp.dir, err = openRoot(wire.Pick(files, c.Dir)); err != nil {
		return nil, nil, err
	}
	if err := kp.useErrorLog(); err != nil {
		return nil, nil, err
	}
	l, err := listener(wire.Pick(files, c.Listener))
	if err != nil {
		return nil, nil, err
	}
	kopts := keep.Options{Record: kp.record}
	if logs := wire.Pick(files, c.LogDir); logs != nil {
		root, err := openRoot(logs)
		if err != nil {
			return nil, nil, err
		}
		w, err := logfile.Open(root, filepath.Base(c.Options.Log.Path), c.Options.Log)
		if err != nil {
			return nil, nil, err
		}
		if w != nil {
			kopts.Log = w
		}
	}
	kp.k = keep.New(kopts)
	kp.trace.mark("open")
	p := &spec.Process
	err = kp.k.Add("", &keep.Process{
		Terminal: p.Terminal, OpenStdin: c.Options.OpenStdin, StdinOnce: c.Options.StdinOnce, Rows: p.Rows, Cols: p.Cols,
		Start: func() (keep.Running, error) { return kp.start(c, files) },
	})
	if err == nil {
		err = kp.k.Prepare("")
	}
	if err != nil {
		return nil, nil, err
	}
	b := &keep.Backend{
		NewProcess: kp.newProcess, Pause: kp.pause, Resume: kp.resume, Update: kp.update, Release: kp.release,
		Stats: func() (*executor.Stats, error) { return kp.box.Stats() },
	}
	if kp.box != nil { // else the command can't be executed, which Run will tell
		b.Cgroup = kp.box.Cgroup()
	}
	return keep.NewServer(kp.k, b), l, nil
}

// start makes the sandbox, whose first process waits at its command.
func (kp *keeper) start(c *wire.NewContainer, files []*os.File) (_ keep.Running, err error) {
	req := &c.Request
	if err := kp.adjustScore(); err != nil {
		return nil, err
	}
	opts, err := kp.s.plan(req, files, kp.trace, func(h *sandbox.Host) {
		h.AppArmor = c.AppArmor
		kp.host = h
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, libcontainer.Cleanup(kp.spec.ID))
		}
	}()
	opts.Hold = true
	opts.Filter = givenFilter(c, files)
	if opts.Filter == nil && kp.compiled == nil && opts.Spec.Linux.Seccomp != nil {
		if kp.compiled, err = kp.s.rt.Compiled(opts.Spec.Linux.Seccomp); err != nil {
			return nil, err
		}
	}
	opts.AskHooks = func(pid int) error { return kp.askHooks(opts, pid) }
	pipes, err := keep.NewPipes(kp.spec.Process.Terminal, kp.opts.OpenStdin)
	if err != nil {
		return nil, err
	}
	opts.Stdio = pipes.Stdio()
	opts.Admit = func(cgroup string) bool {
		err = kp.write(stateFile, &state{Cgroup: cgroup, Dir: kp.dirNumber(), Keeper: os.Getpid()})
		return err == nil
	}
	box, terminal, serr := kp.s.rt.Start(opts)
	pipes.CloseTheirs()
	if serr != nil && err == nil {
		err = serr
	}
	if err == nil && terminal != nil {
		err = pipes.UseTerminal(terminal)
	}
	if err != nil {
		pipes.Close()
		return nil, err
	}
	kp.box = box
	return &first{Pipes: pipes, box: box}, nil
}

// A first is the first process, as a keep.Running.
type first struct {
	*keep.Pipes
	box *libcontainer.Container
}

func (f *first) Release() error                  { return f.box.Release() }
func (f *first) Signal(sig syscall.Signal) error { return f.box.Signal(sig) }
func (f *first) Wait() executor.Exit             { return f.box.Wait() }
func (f *first) Pid() int                        { return f.box.Pid() }

// An another is a further process, as a keep.Running.
type another struct {
	*keep.Pipes
	*libcontainer.ExecProcess
}

func (another) Release() error { return nil }

// newProcess describes a process of Add.
func (kp *keeper) newProcess(p *executor.Process, openStdin bool) *keep.Process {
	return &keep.Process{
		Terminal: p.Terminal, OpenStdin: openStdin, StdinOnce: true, Rows: p.Rows, Cols: p.Cols,
		Start: func() (keep.Running, error) {
			if kp.box == nil {
				return nil, executor.ErrNotRunning
			}
			if kp.paused.Load() {
				return nil, errors.New("the container is paused")
			}
			desc, err := kp.s.execProcess(kp.spec, kp.box, p)
			if err != nil {
				return nil, err
			}
			pipes, err := keep.NewPipes(p.Terminal, openStdin)
			if err != nil {
				return nil, err
			}
			e, terminal, err := kp.box.Exec(desc, pipes.Stdio())
			pipes.CloseTheirs()
			if err == nil && terminal != nil {
				err = pipes.UseTerminal(terminal)
			}
			if err != nil {
				pipes.Close()
				return nil, err
			}
			return another{pipes, e}, nil
		},
	}
}

func (kp *keeper) pause() error  { return kp.freeze(true) }
func (kp *keeper) resume() error { return kp.freeze(false) }

func (kp *keeper) freeze(on bool) error {
	kp.turn.Lock()
	defer kp.turn.Unlock()
	if kp.paused.Load() == on {
		return nil
	}
	kp.paused.Store(true) // so that nothing is started that would be frozen on its way
	err := kp.box.Freeze(on)
	kp.paused.Store(on == (err == nil))
	return err
}

// update replaces the limits. How the sandbox is described otherwise stays.
func (kp *keeper) update(l *executor.Limits) error {
	if l == nil {
		return errors.New("no limits")
	}
	kp.turn.Lock()
	defer kp.turn.Unlock()
	spec := *kp.spec
	spec.Limits = *l
	res, err := sandbox.ReplaceLimits(&spec, kp.host)
	if err != nil {
		return err
	}
	if err := kp.box.Update(res); err != nil {
		return err
	}
	kp.spec = &spec
	return nil
}

// release gives back what the container had.
func (kp *keeper) release() {
	if kp.box == nil {
		return
	}
	if err := kp.box.Destroy(); err != nil {
		fmt.Fprintln(os.Stderr, "boxshim:", err)
	}
	// What is left of the container is how it ended.
	_ = kp.dir.Remove(stateFile)
}

// dirNumber identifies the container's directory; 0 if that cannot be.
func (kp *keeper) dirNumber() uint64 {
	fi, err := kp.dir.Stat(".")
	if err != nil {
		return 0
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return st.Ino
}

// record writes how the first process ended.
func (kp *keeper) record(e executor.Exit) {
	if err := kp.write(exitFile, &e); err != nil {
		fmt.Fprintln(os.Stderr, "boxshim:", err)
	}
}

// Files in a container's directory; package shim reads them when there is no keeper to ask.
const (
	stateFile = wire.StateFile
	exitFile  = wire.ExitFile
)

type state = wire.State

// write replaces a file of the container's directory.
func (kp *keeper) write(name string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = kp.dir.WriteFile(name+".new", b, 0o600)
	}
	if err == nil {
		err = kp.dir.Rename(name+".new", name)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// useErrorLog has what the runtime reports, or a crash of this program says, written to a file of the container's directory.
func (kp *keeper) useErrorLog() error {
	f, err := kp.dir.OpenFile("keeper.log", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the keeper's log: %w", err)
	}
	defer f.Close()
	if err := unix.Dup3(int(f.Fd()), 2, 0); err != nil {
		return fmt.Errorf("using the keeper's log: %w", err)
	}
	return nil
}

// adjustScore tries whether the score that the container wants can be had.
func (kp *keeper) adjustScore() error {
	const file = "/proc/self/oom_score_adj"
	want := kp.spec.OOMScoreAdj
	if want == nil {
		return nil
	}
	own, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strconv.Itoa(*want)), 0)
	}
	if err == nil {
		err = os.WriteFile(file, own, 0)
	}
	if err != nil {
		return fmt.Errorf("OOM score adjustment %d: to go below this daemon's %s takes CAP_SYS_RESOURCE: %w",
			*want, strings.TrimSpace(string(own)), err)
	}
	return nil
}

func givenFilter(c *wire.NewContainer, files []*os.File) *libcontainer.CompiledFilter {
	program := wire.Pick(files, c.Program)
	if c.Filter == nil || program == nil {
		return nil
	}
	kept, err := dup(program)
	if err != nil {
		return nil
	}
	return &libcontainer.CompiledFilter{Config: c.Filter, Program: kept}
}

// openRoot opens the directory of a descriptor that the daemon has sent.
func openRoot(f *os.File) (*os.Root, error) {
	if f == nil {
		return nil, errors.New("no directory")
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("opening a directory: %w", err)
	}
	return root, nil
}

func listener(f *os.File) (*net.UnixListener, error) {
	if f == nil {
		return nil, errors.New("no socket to listen at")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("listening: it is not a Unix socket")
	}
	u.SetUnlinkOnClose(false) // its path means nothing here
	return u, nil
}
