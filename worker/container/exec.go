package container

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// A process is one of docker's execs. It is forgotten with the daemon, and with its container's run.
type process struct {
	id  string
	c   *ctr
	req *container.ExecCreateRequest

	mu      sync.Mutex // guards what follows
	box     executor.Container
	started bool
	running bool
	exit    *int
	pid     int
}

func itoa(n int) string { return strconv.Itoa(n) }

// execProcess is the process of an exec in the container of rec.
func execProcess(rec *record, req *container.ExecCreateRequest) *executor.Process {
	p := &executor.Process{
		Args: req.Cmd, Env: replaceEnv(environment(rec, req.Tty, nil), req.Env), Cwd: req.WorkingDir, User: req.User,
		AddGroups: rec.HostConfig.GroupAdd, Terminal: req.Tty, Privileged: req.Privileged,
	}
	orElse(&p.User, rec.Config.User)
	orElse(&p.Cwd, rec.Config.WorkingDir)
	orElse(&p.Cwd, "/")
	if req.ConsoleSize != nil {
		p.Rows, p.Cols = uint16(req.ConsoleSize[0]), uint16(req.ConsoleSize[1])
	}
	return p
}

// ExecCreate implements worker.Containers.
func (m *Manager) ExecCreate(_ context.Context, ref string, req *container.ExecCreateRequest) (string, error) {
	c, err := m.find(ref)
	if err != nil {
		return "", err
	}
	if err := c.canExec(); err != nil {
		return "", err
	}
	if len(req.Cmd) == 0 {
		return "", worker.Invalidf("No exec command specified")
	}
	for _, kv := range req.Env {
		if name, _, _ := strings.Cut(kv, "="); name == "" {
			return "", worker.Invalidf("invalid environment variable: %s", kv)
		}
	}
	if req.ConsoleSize != nil && !req.Tty {
		req.ConsoleSize = nil
	}
	p := &process{id: newID(), c: c, req: req}
	m.tidyExecs(c)
	m.mu.Lock()
	m.execs[p.id] = p
	m.mu.Unlock()
	c.mu.Lock()
	c.execs = append(c.execs, p.id)
	c.mu.Unlock()
	p.publish(events.ActionExecCreate)
	return p.id, nil
}

// canExec returns docker's error for a container that runs no exec now.
func (c *ctr) canExec() error {
	switch c.status().Phase {
	case Running:
		return nil
	case Paused:
		return isPaused(c.id)
	case Restarting:
		return isRestarting(c.id)
	case Created, Exited, Removing, Dead, Gone:
	}
	return notRunning(c.id)
}

func (p *process) publish(action events.Action) {
	p.c.publish(execAction(action, p.req.Cmd), map[string]string{"execID": p.id})
}

// execAction is what an event calls the making or the start of a command: as docker, with a space also behind one without
// arguments.
func execAction(action events.Action, cmd []string) events.Action {
	return action + ": " + events.Action(cmd[0]+" "+strings.Join(cmd[1:], " "))
}

func (m *Manager) findExec(id string) (*process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.execs[id]; p != nil {
		return p, nil
	}
	return nil, worker.NotFoundf("No such exec instance: %s", id)
}

// ExecStart implements worker.Containers.
func (m *Manager) ExecStart(ctx context.Context, id string, req *container.ExecStartRequest, s executor.Streams) (executor.Attachment, error) {
	p, err := m.findExec(id)
	if err != nil {
		return nil, err
	}
	if err := p.claim(); err != nil {
		return nil, err
	}
	box, err := p.c.running()
	if err == nil {
		err = p.c.canExec()
	}
	if err != nil {
		p.over(nil)
		return nil, err
	}
	proc := execProcess(p.c.get(), p.req)
	if req.ConsoleSize != nil && proc.Terminal {
		proc.Rows, proc.Cols = uint16(req.ConsoleSize[0]), uint16(req.ConsoleSize[1])
	}
	conn, err := p.run(context.WithoutCancel(ctx), box, proc, s)
	if err != nil {
		err = execError(p.req.Cmd, err)
		code := cannotExec
		var ce *commandError
		if errors.As(err, &ce) {
			code = ce.code
		}
		p.over(&code)
		return nil, err
	}
	return conn, nil
}

// claim marks p as started, once.
func (p *process) claim() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started {
		if p.exit != nil {
			return worker.Conflictf("exec command %s has already run", p.id)
		}
		return worker.Conflictf("exec command %s is already running", p.id)
	}
	p.started = true
	return nil
}

// run starts the process, and connects to it before it says anything.
func (p *process) run(ctx context.Context, box executor.Container, proc *executor.Process, s executor.Streams) (conn executor.Attachment, err error) {
	s.Stdin = s.Stdin && p.req.AttachStdin
	if err := box.Add(ctx, p.id, proc, p.req.AttachStdin); err != nil {
		return nil, err
	}
	if s != (executor.Streams{}) {
		if conn, err = box.Attach(ctx, p.id, s); err != nil {
			return nil, err
		}
	}
	p.publish(events.ActionExecStart)
	if err := box.Run(ctx, p.id); err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, err
	}
	p.mu.Lock()
	p.box, p.running, p.pid = box, true, box.Pid(p.id)
	p.mu.Unlock()
	done := make(chan struct{})
	p.c.m.goOn(func() {
		defer close(done)
		exit, err := box.Wait(p.c.m.life, p.id)
		if p.c.m.life.Err() != nil {
			return
		}
		if err != nil {
			exit.Code = 137 // it has ended with the container
		}
		p.over(&exit.Code)
		p.c.publish(events.ActionExecDie, map[string]string{"execID": p.id, "exitCode": itoa(exit.Code)})
	})
	if conn == nil {
		return nil, nil
	}
	return &untilOver{Attachment: conn, over: done, given: p.c.m.life.Done(), closed: make(chan struct{})}, nil
}

// An untilOver is an attachment to an exec. It ends once the exit code is known: clients ask for that when it ends.
type untilOver struct {
	executor.Attachment
	over   <-chan struct{} // closed when the exit code is known
	given  <-chan struct{} // closed when it will not be
	closed chan struct{}   // closed by Close
	once   sync.Once
}

// Read implements io.Reader.
func (a *untilOver) Read(p []byte) (int, error) {
	n, err := a.Attachment.Read(p)
	if errors.Is(err, io.EOF) {
		select {
		case <-a.over:
		case <-a.given:
		case <-a.closed:
		}
	}
	return n, err
}

// Close implements executor.Attachment.
func (a *untilOver) Close() error {
	a.once.Do(func() { close(a.closed) })
	return a.Attachment.Close()
}

// over notes the end; nil says that it has not begun.
func (p *process) over(code *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.exit, p.pid = false, code, 0
	p.started = code != nil
}

// cannotExec is the exit code of an exec that did not start for a reason with no code of its own, as of a user that there is
// not. Containers end with 128 then.
const cannotExec = 126

// chdirText is how runc begins to say that there is no such working directory.
const chdirText = "chdir to cwd"

// execError has docker's words for a command that could not be executed; the client looks for them.
func execError(cmd []string, err error) error {
	const failed = "OCI runtime exec failed: exec failed: unable to start container process: "
	var se *executor.StartError
	if errors.As(err, &se) {
		return &commandError{code: se.Code, text: failed + "exec: " + execText(cmd[0], se)}
	}
	if i := strings.Index(err.Error(), chdirText); i >= 0 {
		return &commandError{code: cannotExec, text: failed + err.Error()[i:]}
	}
	return err
}

// ExecInspect implements worker.Containers.
func (m *Manager) ExecInspect(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	p, err := m.findExec(id)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	privileged := p.req.Privileged
	out := &container.ExecInspectResponse{
		ID: p.id, ContainerID: p.c.id, Running: p.running, Pid: p.pid, CanRemove: p.exit != nil,
		OpenStdin: p.req.AttachStdin, OpenStdout: p.req.AttachStdout, OpenStderr: p.req.AttachStderr,
		DetachKeys: []byte(p.req.DetachKeys),
		ProcessConfig: &container.ExecProcessConfig{
			Tty: p.req.Tty, Entrypoint: p.req.Cmd[0], Arguments: p.req.Cmd[1:], Privileged: &privileged, User: p.req.User,
		},
	}
	if p.exit != nil {
		code := *p.exit
		out.ExitCode = &code
	}
	return out, nil
}

// ExecResize implements worker.Containers.
func (m *Manager) ExecResize(ctx context.Context, id string, rows, cols uint16) error {
	p, err := m.findExec(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	box, running := p.box, p.running
	p.mu.Unlock()
	if !running {
		return worker.Conflictf("exec process is not started")
	}
	return resized(box.Resize(ctx, p.id, rows, cols))
}

// resized forgives what resizing meets in a process that has just ended, or has no terminal.
func resized(err error) error {
	var gone *executor.GoneError
	if errors.Is(err, os.ErrProcessDone) || errors.As(err, &gone) || errors.Is(err, executor.ErrNoTerminal) || errors.Is(err, executor.ErrNotRunning) {
		return nil
	}
	return err
}

// Resize implements worker.Containers.
func (m *Manager) Resize(ctx context.Context, ref string, rows, cols uint16) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	box, err := c.running()
	if err != nil {
		return err
	}
	if err := resized(box.Resize(ctx, "", rows, cols)); err != nil {
		return err
	}
	c.publish(events.ActionResize, map[string]string{"height": itoa(int(rows)), "width": itoa(int(cols))})
	return nil
}

// endExecs notes that the execs of a container have ended with it. They can still be asked for.
func (c *ctr) endExecs() {
	for _, p := range c.m.execsOf(c) {
		p.mu.Lock()
		if p.running {
			code := 137
			p.running, p.exit, p.pid = false, &code, 0
		}
		p.mu.Unlock()
	}
}

// keptExecs is how many of a container's execs are remembered beyond their end.
const keptExecs = 64

// tidyExecs forgets the oldest execs that have ended, if there are many.
func (m *Manager) tidyExecs(c *ctr) {
	all := m.execsOf(c)
	var gone []string
	for _, p := range all[:max(0, len(all)-keptExecs)] {
		p.mu.Lock()
		if p.exit != nil {
			gone = append(gone, p.id)
		}
		p.mu.Unlock()
	}
	m.mu.Lock()
	for _, id := range gone {
		delete(m.execs, id)
	}
	m.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.execs = slices.DeleteFunc(c.execs, func(id string) bool { return slices.Contains(gone, id) })
}

// forgetExecs forgets the execs of a container that is gone.
func (m *Manager) forgetExecs(c *ctr) {
	for _, p := range m.execsOf(c) {
		m.mu.Lock()
		delete(m.execs, p.id)
		m.mu.Unlock()
	}
}

func (m *Manager) execsOf(c *ctr) (out []*process) {
	c.mu.Lock()
	ids := slices.Clone(c.execs)
	c.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if p := m.execs[id]; p != nil {
			out = append(out, p)
		}
	}
	return out
}
