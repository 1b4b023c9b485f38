package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// execMounts are the mounts of one Exec while it runs.
type execMounts struct {
	root         *os.File
	rootReadOnly bool
	mounts       []executor.Mount
	drafts       map[int]*draft      // by output; NoOutput and below for those that are thrown away
	written      []*draft            // the same by mount; nil for what has none
	caches       map[string]cacheUse // by cacheName
	secrets      secrets
	cleanup      []func()
}

// close gives everything back that commit has not used up. It is safe on a nil execMounts.
func (m *execMounts) close(ctx context.Context) {
	if m == nil {
		return
	}
	for _, d := range m.drafts {
		d.discard(ctx)
	}
	for _, f := range slices.Backward(m.cleanup) {
		f()
	}
	m.cleanup = nil
}

// commit makes a result of every draft with an output.
func (m *execMounts) commit(ctx context.Context, outputs int) ([]solver.Result, error) {
	out := make([]solver.Result, outputs)
	for i := range out {
		d := m.drafts[i]
		if d == nil {
			return nil, fmt.Errorf("output %d has no mount", i)
		}
		id, err := d.commit(ctx)
		if err != nil {
			return nil, err
		}
		out[i] = ResultOf(id)
	}
	return out, nil
}

// left makes results of what a process that failed with err has written, if anybody wants to see it.
func (m *execMounts) left(ctx context.Context, err error) error {
	if !solver.KeepsLeft(ctx) || ctx.Err() != nil || errors.Is(err, solver.ErrMiss) {
		return err
	}
	out := &solver.LeftError{Left: make([]solver.Result, len(m.written)), Err: err}
	for i, d := range m.written {
		if d == nil {
			continue
		}
		id, cerr := d.leave(ctx)
		if cerr != nil {
			return fmt.Errorf("%w (keeping what it has left: %w)", err, cerr)
		}
		out.Left[i] = ResultOf(id)
	}
	return out
}

// mountExec prepares the mounts of e. What it returns must be closed, also with an error.
func (r *Runner) mountExec(ctx context.Context, step *solver.Step, e *op.Exec) (*execMounts, error) {
	m := &execMounts{drafts: make(map[int]*draft), secrets: make(secrets), written: make([]*draft, len(e.Mounts))}
	caches, leave, err := r.enterCaches(ctx, step, e)
	m.caches, m.cleanup = caches, append(m.cleanup, leave)
	if err != nil {
		return m, fmt.Errorf("waiting for a cache mount: %w", err)
	}
	// Outer mounts go first, so that an inner one is not hidden.
	order := make([]int, len(e.Mounts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return len(path.Clean(e.Mounts[a].Dest)) - len(path.Clean(e.Mounts[b].Dest))
	})
	for _, i := range order {
		if err := r.mountOne(ctx, m, step, mountOf(e, i)); err != nil {
			return m, err
		}
	}
	if m.root == nil {
		return m, errors.New("no mount is the root")
	}
	return m, nil
}

// A numberedMount is a mount with its index.
type numberedMount struct {
	*op.ExecMount
	index int
}

// mountOf returns a mount of e, with an absolute destination.
func mountOf(e *op.Exec, i int) numberedMount {
	return numberedMount{absolute(&e.Mounts[i], e.Meta.Cwd), i}
}

// absolute returns x with a destination that does not depend on the working directory.
func absolute(x *op.ExecMount, cwd string) *op.ExecMount {
	if path.IsAbs(x.Dest) {
		return x
	}
	y := *x
	y.Dest = path.Join("/", cwd, x.Dest)
	return &y
}

func (r *Runner) mountOne(ctx context.Context, m *execMounts, step *solver.Step, x numberedMount) error {
	em := executor.Mount{Target: x.Dest, ReadOnly: x.ReadOnly}
	switch x.Type {
	case op.MountBind:
		f, err := r.bind(ctx, m, step, x)
		if err != nil {
			return err
		}
		if path.Clean(x.Dest) == "/" {
			m.root, m.rootReadOnly = f, x.ReadOnly
			return nil
		}
		em.Type, em.Source = executor.Bind, f
	case op.MountTmpfs:
		em.Type, em.Size, em.NoSuid = executor.Tmpfs, x.Tmpfs, true // as with BuildKit
	case op.MountCache:
		f, err := r.cacheMount(ctx, step, x.ExecMount, m.caches[cacheName(step, x.ExecMount)])
		if err != nil {
			return fmt.Errorf("cache mount at %s: %w", x.Dest, err)
		}
		m.cleanup = append(m.cleanup, func() { f.Close() })
		em.Type, em.Source = executor.Bind, f
	case op.MountSecret, op.MountSSH:
		var ok bool
		var err error
		if x.Type == op.MountSecret {
			em, ok, err = m.secrets.mount(ctx, x.ExecMount)
		} else {
			em, ok, err = r.sshMount(ctx, m, x.ExecMount)
		}
		if err != nil || !ok {
			return err
		}
	default:
		return fmt.Errorf("mount at %s: unknown type %d", x.Dest, x.Type)
	}
	m.mounts = append(m.mounts, em)
	return nil
}

// bind mounts an input: as a draft if it may be written to, else as a view.
func (r *Runner) bind(ctx context.Context, m *execMounts, step *solver.Step, x numberedMount) (*os.File, error) {
	var parent snapshot.ID
	if x.Input != op.NoInput {
		id, err := r.materialize(ctx, step.Inputs[x.Input])
		if err != nil {
			return nil, lost(err, x.Input)
		}
		parent = id
	}
	var whole *os.File
	ends := &m.cleanup
	// A root that the process cannot write to can still get mount points.
	if x.Output != op.NoOutput || !x.ReadOnly || path.Clean(x.Dest) == "/" {
		d, err := r.newDraft(ctx, parent)
		if err != nil {
			return nil, lost(err, x.Input)
		}
		key := x.Output
		for key < 0 && m.drafts[key] != nil {
			key--
		}
		m.drafts[key], m.written[x.index] = d, d
		whole, ends = d.root, &d.cleanup // nothing of a draft may be mounted when it is committed
	} else {
		f, done, err := r.view(ctx, parent)
		if err != nil {
			return nil, lost(err, x.Input)
		}
		m.cleanup = append(m.cleanup, done)
		whole = f
	}
	if x.Selector == "" || path.Clean(x.Selector) == "/" {
		return whole, nil
	}
	// The path is resolved inside the input, so that a symlink in it cannot lead to the host.
	f, err := mount.Sub(whole, x.Selector)
	if err != nil {
		err = fmt.Errorf("mounting %s at %s: %w", x.Selector, x.Dest, err)
		if x.Input != op.NoInput && x.ReadOnly && x.Output == op.NoOutput {
			err = &solver.InputError{Input: x.Input, Err: err}
		}
		return nil, err
	}
	*ends = append(*ends, func() { f.Close() })
	return f, nil
}
