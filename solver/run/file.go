package run

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run/fileop"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// runFile performs the actions of a file operation.
func (r *Runner) runFile(ctx context.Context, step *solver.Step, f *op.File) ([]solver.Result, error) {
	var h solver.Hasher
	f.WriteKey(&h)
	return r.fileOp(ctx, f, step.Inputs, &fileEnv{r: r, lineage: h.Sum(), warn: step.Warn})
}

// fileOp performs f with results as this package names them.
func (r *Runner) fileOp(ctx context.Context, f *op.File, inputs []solver.Result, env *fileEnv) ([]solver.Result, error) {
	in := make([]solver.Result, len(inputs))
	for i, x := range inputs {
		if in[i] = x; x == scratch {
			in[i] = fileop.Empty
		}
	}
	env.drafts = make(map[string]*draft)
	out, err := fileop.Do(ctx, env, f, in)
	if err != nil {
		if errors.Is(err, solver.ErrMiss) {
			return nil, env.lostInputs(inputs)
		}
		return nil, err
	}
	for i := range out {
		if out[i] == fileop.Empty {
			out[i] = scratch
		}
	}
	return out, nil
}

// A fileEnv is the fileop.Env of one step. Its methods are not called concurrently.
type fileEnv struct {
	r *Runner
	// lineage names the operation whatever it is applied to: the last result of the same lineage is where files that
	// have not changed are linked from.
	lineage solver.Key
	warn    func(solver.Warning)
	drafts  map[string]*draft
	missing map[solver.Result]bool
}

var (
	_ fileop.Env    = (*fileEnv)(nil)
	_ fileop.Leaver = (*fileEnv)(nil)
)

// lostInputs says which of inputs were found to be gone.
func (e *fileEnv) lostInputs(inputs []solver.Result) error {
	l := &solver.LostError{}
	for i, in := range inputs {
		if e.missing[in] {
			l.Inputs = append(l.Inputs, i)
		}
	}
	if len(l.Inputs) == 0 {
		return errors.New("a tree that the step made is gone")
	}
	return l
}

func (e *fileEnv) miss(res solver.Result, err error) error {
	if errors.Is(err, solver.ErrMiss) {
		if e.missing == nil {
			e.missing = make(map[solver.Result]bool)
		}
		e.missing[res] = true
	}
	return err
}

// Tree implements fileop.Env.
func (e *fileEnv) Tree(ctx context.Context, res solver.Result) (treehash.Tree, func(), error) {
	if res == fileop.Empty {
		res = scratch
	}
	t, done, err := e.r.Open(ctx, res)
	return t, done, e.miss(res, err)
}

// Begin implements fileop.Env.
func (e *fileEnv) Begin(ctx context.Context, base solver.Result, direct bool) (*fileop.Draft, error) {
	var parent snapshot.ID
	if base != fileop.Empty {
		var err error
		if parent, err = e.r.materialize(ctx, base); err != nil {
			return nil, e.miss(base, err)
		}
	}
	if dw, ok := e.r.deps.Snapshots.(snapshot.DraftWriter); ok && direct {
		d, fd, err := e.beginDirect(ctx, dw, parent)
		if err != nil {
			return nil, e.miss(base, err)
		}
		if fd != nil {
			e.drafts[fd.ID] = d
			return fd, nil
		}
	}
	d, err := e.r.newDraft(ctx, parent)
	if err != nil {
		return nil, e.miss(base, err)
	}
	e.drafts[string(d.name)] = d
	return &fileop.Draft{Root: d.root, ID: string(d.name)}, nil
}

// beginDirect makes a draft whose upper directory is written without a mount. It returns nil, nil, nil if the
// snapshotter cannot do that for this draft.
func (e *fileEnv) beginDirect(ctx context.Context, dw snapshot.DraftWriter, parent snapshot.ID) (_ *draft, _ *fileop.Draft, err error) {
	d := &draft{r: e.r, name: snapshot.Draft(newName())}
	if _, err := e.r.deps.Snapshots.Prepare(ctx, d.name, parent); err != nil {
		return nil, nil, missIfGone(err)
	}
	fd := &fileop.Draft{ID: string(d.name)}
	defer func() {
		if err != nil {
			closeAll(fd.Upper, fd.Lower, fd.Previous)
			d.discard(ctx)
		}
	}()
	dir, ok, err := dw.DraftUpper(ctx, d.name)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		d.discard(ctx)
		return nil, nil, nil
	}
	if fd.Upper, err = openDir(dir); err != nil {
		return nil, nil, err
	}
	if parent != "" {
		f, done, err := e.r.view(ctx, parent)
		if err != nil {
			return nil, nil, err
		}
		fd.Lower = f
		d.cleanup = append(d.cleanup, done)
	}
	fd.Previous, fd.Manifest = e.previous(ctx)
	return d, fd, nil
}

// previous opens the upper directory of the last result of the same lineage, if it is still there.
func (e *fileEnv) previous(ctx context.Context) (*os.File, []byte) {
	differ, ok := e.r.deps.Snapshots.(snapshot.Differ)
	if !ok || e.lineage == (solver.Key{}) {
		return nil, nil
	}
	id, manifest, ok := e.r.recent.get(e.lineage)
	if !ok {
		return nil, nil
	}
	if l := lease.From(ctx); l != nil && l.Hold(ctx, lease.ID(id)) != nil {
		return nil, nil
	}
	dir, ok, err := differ.Upper(ctx, id)
	if err != nil || !ok {
		return nil, nil
	}
	f, err := openDir(dir)
	if err != nil {
		return nil, nil
	}
	return f, manifest
}

// Commit implements fileop.Env.
func (e *fileEnv) Commit(ctx context.Context, fd *fileop.Draft) (solver.Result, error) {
	d := e.drafts[fd.ID]
	if d == nil {
		return "", fmt.Errorf("committing draft %s: not of this step", fd.ID)
	}
	delete(e.drafts, fd.ID)
	id, err := d.commit(ctx)
	if err != nil {
		return "", err
	}
	if fd.Written != nil {
		e.r.recent.put(e.lineage, id, fd.Written)
	}
	return ResultOf(id), nil
}

// Discard implements fileop.Env.
func (e *fileEnv) Discard(ctx context.Context, fd *fileop.Draft) {
	if d := e.drafts[fd.ID]; d != nil {
		delete(e.drafts, fd.ID)
		d.discard(ctx)
	}
}

// Leave implements fileop.Leaver.
func (e *fileEnv) Leave(ctx context.Context, fd *fileop.Draft) (solver.Result, bool) {
	d := e.drafts[fd.ID]
	if d == nil || !solver.KeepsLeft(ctx) || ctx.Err() != nil {
		e.Discard(ctx, fd)
		return "", false
	}
	delete(e.drafts, fd.ID)
	id, err := d.leave(ctx)
	return ResultOf(id), err == nil
}

// Warn implements fileop.Env.
func (e *fileEnv) Warn(w solver.Warning) {
	if e.warn != nil {
		e.warn(w)
	}
}

// Materialize returns res as a snapshot, "" for the empty tree. A directory of a client's is copied into one, which the
// lease in ctx holds.
func (r *Runner) Materialize(ctx context.Context, res solver.Result) (snapshot.ID, error) {
	return r.materialize(ctx, res)
}

// materialize returns res as a snapshot: a directory of a client's is copied into one. Builds that want the same
// directory at the same time may each copy it; they do not wait for one another, since either could be cancelled.
func (r *Runner) materialize(ctx context.Context, res solver.Result) (snapshot.ID, error) {
	if id, ok := SnapshotOf(res); ok {
		return id, nil
	}
	copyAll := &op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: 0, Output: 0,
		Copy: &op.Copy{Src: "/", Dst: "/", DirContents: true, MkdirDst: true},
	}}}
	out, err := r.fileOp(ctx, copyAll, []solver.Result{res}, &fileEnv{r: r})
	if err != nil {
		var l *solver.LostError
		if errors.As(err, &l) {
			return "", solver.ErrMiss
		}
		return "", err
	}
	id, _ := SnapshotOf(out[0])
	return id, nil
}

// openDir opens a directory of the store's.
func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
