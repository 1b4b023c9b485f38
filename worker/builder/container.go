package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
)

var _ frontend.Containers = (*env)(nil)

// A container is one of a build that is directed from outside. It is among the build's until it is closed.
type container struct {
	e    *env
	c    *run.Container
	exec *op.Exec
	once sync.Once
	err  error
}

// NewContainer implements frontend.Containers. The processes are what the build has been granted.
func (e *env) NewContainer(ctx context.Context, spec *frontend.ContainerSpec) (frontend.Container, error) {
	x := &op.Exec{
		Network: spec.Network, Platform: spec.Platform,
		Meta: op.ExecMeta{Hostname: spec.Hostname, ExtraHosts: spec.ExtraHosts, Cwd: "/"},
	}
	if _, err := e.b.permit(x, e.grants); err != nil {
		return nil, err
	}
	var ins []solver.Input
	for _, m := range spec.Mounts {
		m.Output = op.NoOutput
		if m.ExecMount.Input = op.NoInput; m.In != nil && m.Left == "" {
			m.ExecMount.Input = len(ins)
			ins = append(ins, *m.In)
		}
		if path.Clean(m.Dest) == "/" {
			if m.Type != op.MountBind {
				return nil, fmt.Errorf("invalid mount type for %s", m.Dest)
			}
			m.ReadOnly = false // as with BuildKit; nothing of it is kept
		}
		x.Mounts = append(x.Mounts, m.ExecMount)
	}
	var results []solver.Result
	if len(ins) > 0 {
		var err error
		if results, err = e.results(ctx, ins); err != nil {
			return nil, err
		}
	}
	for i, m := range spec.Mounts {
		if m.Left != "" {
			x.Mounts[i].Input = len(results)
			results = append(results, m.Left)
		}
	}
	made, err := e.b.deps.Runner.NewContainer(ctx, x, results)
	if err != nil {
		return nil, err
	}
	c := &container{e: e, c: made, exec: x}
	e.mu.Lock()
	closed := e.closed
	if !closed {
		if e.containers == nil {
			e.containers = make(map[*container]bool)
		}
		e.containers[c] = true
	}
	e.mu.Unlock()
	if closed {
		return nil, errors.Join(run.ErrContainerClosed, c.Close())
	}
	return c, nil
}

// Close implements frontend.Container.
func (c *container) Close() error {
	c.once.Do(func() {
		c.err = c.c.Close(context.Background())
		c.e.mu.Lock()
		delete(c.e.containers, c)
		c.e.mu.Unlock()
	})
	return c.err
}

// Start implements frontend.Container.
func (c *container) Start(ctx context.Context, p *frontend.ProcessSpec) (frontend.Process, error) {
	meta := op.ExecMeta{Args: p.Args, Env: p.Env, Cwd: p.Cwd, User: p.User, Proxy: p.Proxy, Ulimits: p.Ulimits}
	if len(p.Args) == 0 {
		return nil, errors.New("no command to run")
	}
	if meta.Cwd == "" {
		meta.Cwd = "/"
	}
	if p.Terminal && !hasVariable(p.Env, "TERM") {
		meta.Env = append(meta.Env[:len(meta.Env):len(meta.Env)], "TERM=xterm")
	}
	if _, err := c.e.b.permit(&op.Exec{Network: c.exec.Network, Security: p.Security}, c.e.grants); err != nil {
		return nil, err
	}
	r, err := c.c.Start(ctx, &run.ContainerProcess{
		Meta: meta, Secrets: p.Secrets, Security: p.Security, Terminal: p.Terminal,
		IO: executor.IO{Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr},
	})
	var start *executor.StartError
	if errors.As(err, &start) {
		err = fmt.Errorf("process %q did not complete successfully: exit code: %d: %w", strings.Join(p.Args, " "), start.Code, err)
		return &unstarted{code: start.Code, err: err}, nil
	}
	if err != nil {
		return nil, err
	}
	return &process{r}, nil
}

func hasVariable(env []string, name string) bool {
	for _, v := range env {
		if strings.HasPrefix(v, name+"=") {
			return true
		}
	}
	return false
}

// A process is one that runs.
type process struct{ executor.Running }

// Wait implements frontend.Process.
func (p *process) Wait(ctx context.Context) (int, error) {
	exit, err := p.Running.Wait(ctx)
	return exit.Code, err
}

// An unstarted is a process whose command could not be executed.
type unstarted struct {
	code int
	err  error
}

func (u *unstarted) Signal(syscall.Signal) error       { return os.ErrProcessDone }
func (u *unstarted) Resize(uint16, uint16) error       { return os.ErrProcessDone }
func (u *unstarted) Wait(context.Context) (int, error) { return u.code, u.err }

// ReadRange implements frontend.Container.
func (c *container) ReadRange(_ context.Context, mount int, name string, offset, length int64) ([]byte, error) {
	var data []byte
	err := c.look(mount, name, func(root *os.Root, name string) (err error) {
		data, err = readRegular(root, name, offset, length)
		return err
	})
	return data, err
}

// readRegular returns a part of a regular file. To open another kind, which a process of the container may put there at any
// moment, does nothing, and does not wait.
func readRegular(root *os.Root, name string, offset, length int64) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return readRange(f, fi.Size(), offset, length)
}

// ReadDir implements frontend.Container.
func (c *container) ReadDir(_ context.Context, mount int, dir, pattern string) ([]frontend.FileInfo, error) {
	match, err := matcher(pattern)
	if err != nil {
		return nil, err
	}
	var out []frontend.FileInfo
	err = c.look(mount, dir, func(root *os.Root, dir string) error {
		list, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return err
		}
		for _, d := range list {
			ok, err := match(d.Name())
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			info, err := statIn(root, path.Join(dir, d.Name()), root.Lstat)
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					continue // removed meanwhile
				}
				return err
			}
			out = append(out, *info)
		}
		return nil
	})
	return out, err
}

// StatFile implements frontend.Container. A symlink that leads out of the mount is described itself: what it means the
// container alone knows.
func (c *container) StatFile(_ context.Context, mount int, name string) (*frontend.FileInfo, error) {
	var info *frontend.FileInfo
	err := c.look(mount, name, func(root *os.Root, name string) (err error) {
		if info, err = statIn(root, name, root.Stat); err != nil && !errors.Is(err, fs.ErrNotExist) {
			info, err = statIn(root, name, root.Lstat)
		}
		return err
	})
	return info, err
}

// look opens a mount, and has f look at the file with that absolute name, which it gets relative to the mount's root.
func (c *container) look(mount int, name string, f func(root *os.Root, name string) error) error {
	if !path.IsAbs(name) {
		return fmt.Errorf("can't make %s relative to /", name)
	}
	root, err := c.c.Mount(mount)
	if err != nil {
		return err
	}
	defer root.Close()
	rel := strings.TrimPrefix(path.Clean(name), "/")
	if rel == "" {
		rel = "."
	}
	err = f(root, rel)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fs.PathError{Op: pe.Op, Path: name, Err: pe.Err} // the path in the container
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// statIn describes a file of root.
func statIn(root *os.Root, name string, stat func(string) (fs.FileInfo, error)) (*frontend.FileInfo, error) {
	fi, err := stat(name)
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("describing %s: no numbers", name)
	}
	info := &frontend.FileInfo{
		Path: path.Base(name), Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: fi.Size(), MTime: fi.ModTime(), Rdev: st.Rdev,
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		if info.Link, err = root.Readlink(name); err != nil {
			return nil, err
		}
	}
	return info, nil
}
