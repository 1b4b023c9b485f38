package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// A box is a sandbox of an Executor.
type box struct {
	e      *Executor
	c      *call
	done   chan struct{} // closed when the process has ended and its output has been handed on
	closed sync.Once
	id     string
	claim  *claim
	s      *streams
}

var (
	_ executor.Spawner = (*box)(nil)
	_ executor.Running = (*box)(nil)
)

// Start implements executor.Executor.
func (e *Executor) Start(ctx context.Context, spec *executor.Spec, rw executor.IO) (executor.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	claim, err := e.reserve(ctx, spec.ID)
	if err != nil {
		return nil, err
	}
	c := newCall()
	c.gone = make(chan struct{})
	b, err := e.start(ctx, c, claim, spec, rw)
	if err != nil {
		e.settle(spec.ID, claim, true, true)
		return nil, err // it ends up before a user, to whom the sandbox's name says nothing
	}
	return b, nil
}

// start does the work of Start. When it returns an error, the shim has nothing of the sandbox any more.
func (e *Executor) start(ctx context.Context, c *call, id *claim, spec *executor.Spec, rw executor.IO) (_ *box, err error) {
	ns, release, err := e.opts.network(ctx, &spec.Network)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	req := &wire.Request{Op: wire.Start, Spec: withoutFiles(spec)}
	if req.Nodes, err = nodes(spec); err != nil {
		return nil, err
	}
	files, err := mountFiles(spec, &req.Files)
	if err != nil {
		return nil, err
	}
	defer func() { wire.CloseAll(files) }()
	all := files[:len(files):len(files)]
	if ns != nil {
		all = append(all, ns)
		req.Files.NetNS = len(all)
	}
	if err := e.away.add(ctx, spec.CgroupPath); err != nil {
		return nil, err
	}
	s, err := processStreams(&spec.Process, rw)
	if err != nil {
		return nil, err
	}
	all = s.files(all, &req.Files)
	h := e.useHooks(ctx, c, spec, req)
	if err := e.begin(ctx, c, req, all); err != nil {
		s.close()
		h.stop()
		return nil, err
	}
	b := &box{e: e, c: c, id: spec.ID, claim: id, s: s, done: make(chan struct{})}
	if err = s.run(c.terminal); err == nil {
		err = h.started(ctx)
	}
	if err != nil {
		e.kill(c)
		<-c.ended
		<-c.gone
		s.close()
		h.stop()
		return nil, err
	}
	e.work.Go(func() {
		<-c.ended
		// All processes of the sandbox are dead: the kernel kills a pid namespace with its first process.
		release()
		s.drain()
		h.stop()
		close(b.done)
		<-c.gone
		e.settle(b.id, id, false, true)
	})
	return b, nil
}

// processStreams makes the pipes of a process; one with a terminal has none.
func processStreams(p *executor.Process, rw executor.IO) (*streams, error) {
	if p.Terminal {
		return &streams{io: rw}, nil
	}
	return newStreams(rw)
}

// withoutFiles returns a copy of spec that can be encoded.
func withoutFiles(spec *executor.Spec) *executor.Spec {
	out := *spec
	out.Root = nil
	out.Mounts = append([]executor.Mount(nil), spec.Mounts...)
	for i := range out.Mounts {
		out.Mounts[i].Source = nil
	}
	return &out
}

// mountFiles returns copies of the root and of the mounts' sources, and says in f which is which.
func mountFiles(spec *executor.Spec, f *wire.Files) (_ []*os.File, err error) {
	var list []*os.File
	defer func() {
		if err != nil {
			wire.CloseAll(list)
		}
	}()
	root, err := cloneMount(spec.Root, true)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	list = append(list, root)
	f.Root = 1
	f.Sources = make([]int, len(spec.Mounts))
	for i, m := range spec.Mounts {
		if m.Type != executor.Bind {
			continue
		}
		src, err := cloneMount(m.Source, !m.NonRecursive)
		if err != nil {
			return nil, fmt.Errorf("source of %s: %w", m.Target, err)
		}
		list = append(list, src)
		f.Sources[i] = len(list)
	}
	// The namespace and the standard streams come with them.
	if len(list) > wire.MaxFiles-4 {
		return list, fmt.Errorf("%d mounts: more than %d", len(list)-1, wire.MaxFiles-5)
	}
	return list, nil
}

// network returns the namespace to join, or nil for the host's or for one that the shim makes.
func (o *Options) network(ctx context.Context, n *executor.Network) (*os.File, func(), error) {
	none := func() {}
	switch n.Mode {
	case executor.NetworkHost:
		return nil, none, nil
	case executor.NetworkNone:
		if o.Network == nil {
			return nil, none, nil
		}
		return o.Network.Isolated(ctx)
	case executor.NetworkBridge:
		if o.Network == nil {
			return nil, nil, errors.New("this executor has no bridge network")
		}
		return o.Network.Bridge(ctx)
	case executor.NetworkPath:
		f, err := openNamespace(n.Path)
		if err != nil {
			return nil, nil, err
		}
		return f, func() { f.Close() }, nil
	}
	return nil, nil, fmt.Errorf("unknown network mode %d", n.Mode)
}

func openNamespace(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, fmt.Errorf("%s is not a namespace", path)
	}
	return f, nil
}

// Wait implements executor.Sandbox.
func (b *box) Wait(ctx context.Context) (executor.Exit, error) {
	select {
	case <-b.done:
		return b.c.exit, b.c.lostErr
	case <-ctx.Done():
		return executor.Exit{}, context.Cause(ctx)
	}
}

// Signal implements executor.Sandbox.
func (b *box) Signal(sig syscall.Signal) error { return b.e.signal(b.c, sig) }

// Resize implements executor.Running.
func (b *box) Resize(rows, cols uint16) error { return b.s.resize(rows, cols) }

// Close implements executor.Sandbox. Removing the cgroup is left to the shim, which does it soon.
func (b *box) Close() error {
	b.closed.Do(func() {
		select {
		case <-b.c.ended:
		default:
			b.e.kill(b.c)
		}
		<-b.done
		b.e.settle(b.id, b.claim, true, false)
	})
	return nil
}
