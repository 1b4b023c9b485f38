// Package fileop performs op.File: it copies, makes and removes files in trees that are being written.
//
// # Life cycle
//
// Do goes through the actions in order. What an action changes is a draft; it is made on top of the action's input, or
// is the draft that an earlier action has left, if that one's result is needed by nobody else. A result that is an
// output of the vertex, or that another action reads or builds on as well, is committed first.
//
// # Where files are written
//
// A draft is written through its mounted root, or, where that is possible and pays, straight into the upper directory
// of an overlay that nobody has mounted, with the tree below it in view: no mount is made, files that equal those of
// an earlier result can be hard-linked from it, and creating a file costs half. The two ways have one implementation:
// a directory of the destination is a pair of descriptors, one to write to and one, which may be absent, of what shows
// through from below. Actions that would need whiteouts are only ever done through the mounted root.
//
// # Trust
//
// Trees are hostile: a stage's files are what some program in it left there. Nothing here resolves a path of more than
// one component in a tree that is written; symlinks are read and followed by this package, inside the root, and
// everything is done by directory descriptor and a single name.
package fileop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// Empty is the result that names the empty tree.
const Empty solver.Result = ""

// An Env is what Do works with. Its methods are not called concurrently.
type Env interface {
	// Tree returns the tree that r names, for reading. release is called when it is not needed any more.
	Tree(ctx context.Context, r solver.Result) (t treehash.Tree, release func(), err error)
	// Begin makes a draft on top of base, which may be Empty. With direct the draft has Upper, and Lower if there is
	// anything below, instead of Root, if the Env can do that.
	Begin(ctx context.Context, base solver.Result, direct bool) (*Draft, error)
	// Commit makes a draft a result. The draft's files have been closed.
	Commit(ctx context.Context, d *Draft) (solver.Result, error)
	// Discard throws a draft away. The draft's files have been closed.
	Discard(ctx context.Context, d *Draft)
	// Warn tells the user of something that fails nothing.
	Warn(w solver.Warning)
}

// A Leaver is an Env that can keep what failed. It is found by assertion.
type Leaver interface {
	// Leave makes the draft of an action that has failed a result, if anybody wants it; else, or if that fails, it discards
	// it. The draft's files have been closed.
	Leave(ctx context.Context, d *Draft) (r solver.Result, ok bool)
}

// A Draft is a tree that is being written. Do closes its files.
type Draft struct {
	// Root is the root directory of the whole tree, writable.
	Root *os.File
	// Upper and Lower take the place of Root: what is written goes to Upper, an upper directory of overlayfs without
	// anything in it, not mounted; Lower is the root of what is below it, or nil if nothing is.
	Upper, Lower *os.File
	// Previous, if set, is the upper directory of an earlier result of an equal or similar step, and Manifest what Do
	// left in the Draft that it came from. It must be on the file system that is written to. It is not changed.
	Previous *os.File
	Manifest []byte

	// Written is set by Do before Commit: it describes the files that were copied, for the Manifest of a later draft. It
	// is nil where nothing can be linked.
	Written []byte
	// ID is the Env's own.
	ID string

	manifest *manifest
	record   *recorder
}

func (d *Draft) close() {
	for _, f := range []*os.File{d.Root, d.Upper, d.Lower, d.Previous} {
		if f != nil {
			_ = f.Close() // read from, or written to by descriptor: there is nothing that closing could report
		}
	}
}

// Do performs the actions of f, given the results that its inputs stand for, and returns its outputs. After an error
// nothing is left of what it wrote, but for what a Leaver wants: then the error is a *solver.LeftError.
func Do(ctx context.Context, env Env, f *op.File, inputs []solver.Result) ([]solver.Result, error) {
	r, err := newRun(env, f, inputs)
	if err != nil {
		return nil, err
	}
	defer r.discard(context.WithoutCancel(ctx))
	for i := range f.Actions {
		if err := r.action(ctx, i); err != nil {
			return nil, r.left(ctx, i, err)
		}
	}
	return r.outputs(ctx)
}

// A run is one call of Do.
type run struct {
	env    Env
	f      *op.File
	inputs int
	values []value // the inputs, then the results of the actions
	out    []int   // for each output, its value
}

// A value is an input or the result of an action.
type value struct {
	uses   int // how often actions name it
	output bool
	draft  *Draft        // while it is being written
	result solver.Result // when it is not
	passed bool          // its draft has become that of a later action
	empty  bool          // it is the empty tree, or was before actions changed it
}

func newRun(env Env, f *op.File, inputs []solver.Result) (*run, error) {
	r := &run{env: env, f: f, inputs: len(inputs), values: make([]value, len(inputs)+len(f.Actions))}
	for i, in := range inputs {
		r.values[i].result, r.values[i].empty = in, in == Empty
	}
	r.out = make([]int, f.Outputs())
	for i := range r.out {
		r.out[i] = -1
	}
	for i := range f.Actions {
		a := &f.Actions[i]
		users, groups := userTrees(a)
		for _, n := range []int{a.Input, a.Second, users, groups} {
			if n == op.NoInput {
				continue
			}
			if n < 0 || n >= len(inputs)+i {
				return nil, fmt.Errorf("action %d of the file operation: there is no input %d", i, n)
			}
			r.values[n].uses++
		}
		if a.Output == op.NoOutput {
			continue
		}
		if a.Output < 0 || r.out[a.Output] >= 0 {
			return nil, fmt.Errorf("action %d of the file operation: output %d is no output of its own", i, a.Output)
		}
		r.out[a.Output] = len(inputs) + i
		r.values[len(inputs)+i].output = true
	}
	for i, v := range r.out {
		if v < 0 {
			return nil, fmt.Errorf("output %d of the file operation is the result of no action", i)
		}
	}
	return r, nil
}

// direct says whether the actions from i on that would share a draft can do without a mounted root.
func (r *run) direct(i int) bool {
	for {
		a := &r.f.Actions[i]
		if a.Rm != nil || a.Copy != nil && (a.Copy.Unpack || a.Copy.AlwaysReplace) {
			return false
		}
		self := r.inputs + i
		if r.values[self].output || r.values[self].uses != 1 {
			return true
		}
		next := i + 1
		for next < len(r.f.Actions) && r.f.Actions[next].Input != self {
			next++
		}
		if next == len(r.f.Actions) {
			return true
		}
		i = next
	}
}

// begin returns the draft that action i writes to.
func (r *run) begin(ctx context.Context, i int) (*Draft, error) {
	base := Empty
	if n := r.f.Actions[i].Input; n != op.NoInput {
		v := &r.values[n]
		if v.draft != nil && v.uses == 1 && !v.output {
			d := v.draft
			v.draft, v.passed = nil, true
			return d, nil
		}
		var err error
		if base, err = r.commit(ctx, n); err != nil {
			return nil, err
		}
	}
	d, err := r.env.Begin(ctx, base, r.direct(i))
	if err != nil {
		return nil, err
	}
	if d.Upper != nil {
		d.record = &recorder{max: maxRecords}
		d.manifest = parseManifest(d.Manifest)
	}
	return d, nil
}

// commit makes value n a result, if it is not one already.
func (r *run) commit(ctx context.Context, n int) (solver.Result, error) {
	v := &r.values[n]
	if v.draft == nil {
		return v.result, nil
	}
	d := v.draft
	v.draft = nil
	if d.record != nil {
		d.Written = d.record.encode()
	}
	d.close()
	res, err := r.env.Commit(ctx, d)
	if err != nil {
		return "", err
	}
	v.result = res
	return res, nil
}

func (r *run) outputs(ctx context.Context) ([]solver.Result, error) {
	out := make([]solver.Result, len(r.out))
	for i, n := range r.out {
		var err error
		if out[i], err = r.commit(ctx, n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// left has the draft of action i kept, which has failed with err. What it has read of earlier actions is there already.
func (r *run) left(ctx context.Context, i int, err error) error {
	v := &r.values[r.inputs+i]
	l, ok := r.env.(Leaver)
	if !ok || v.draft == nil || errors.Is(err, solver.ErrMiss) {
		return err
	}
	d := v.draft
	v.draft = nil
	d.close()
	res, ok := l.Leave(ctx, d)
	if !ok {
		return err
	}
	left := make([]solver.Result, len(r.f.Actions))
	for j := range i {
		left[j] = r.values[r.inputs+j].result
	}
	left[i] = res
	return &solver.LeftError{Left: left, Err: err}
}

func (r *run) discard(ctx context.Context) {
	for i := range r.values {
		if d := r.values[i].draft; d != nil {
			d.close()
			r.env.Discard(ctx, d)
		}
	}
}

// action performs action i.
func (r *run) action(ctx context.Context, i int) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	a := &r.f.Actions[i]
	second := op.NoInput
	if a.Copy != nil {
		second = a.Second
	}
	users, groups := userTrees(a)
	trees := [3]treehash.Tree{}
	for j, n := range []int{second, users, groups} {
		if n == op.NoInput {
			continue
		}
		res, err := r.commit(ctx, n)
		if err != nil {
			return err
		}
		t, release, err := r.env.Tree(ctx, res)
		if err != nil {
			return err
		}
		defer release()
		trees[j] = t
	}
	src := trees[0]
	if src == nil {
		src = emptyTree{}
	}
	d, err := r.begin(ctx, i)
	if err != nil {
		return err
	}
	r.values[r.inputs+i].draft = d
	t, err := openTarget(d, r.env.Warn)
	if err != nil {
		return err
	}
	t.users, t.groups = trees[1], trees[2]
	t.empty = a.Input == op.NoInput || r.values[a.Input].empty
	r.values[r.inputs+i].empty = t.empty
	err = r.perform(ctx, t, a, src)
	if cerr := t.close(); err == nil {
		err = cerr
	}
	return err
}

func (r *run) perform(ctx context.Context, t *target, a *op.FileAction, src treehash.Tree) error {
	switch {
	case a.Copy != nil:
		return t.copy(ctx, src, a.Copy)
	case a.Mkfile != nil:
		return t.mkfile(ctx, a.Mkfile)
	case a.Mkdir != nil:
		return t.mkdir(ctx, a.Mkdir)
	case a.Rm != nil:
		return t.rm(ctx, a.Rm)
	case a.Symlink != nil:
		return t.symlink(ctx, a.Symlink)
	}
	return fmt.Errorf("performing a file operation: an action says nothing to do")
}

// userTrees returns the numbers of the trees that have the names of an action's owner, NoInput where that is the tree
// which is changed, or where there is no name.
func userTrees(a *op.FileAction) (users, groups int) {
	var o *op.Owner
	switch {
	case a.Copy != nil:
		o = a.Copy.Owner
	case a.Mkfile != nil:
		o = a.Mkfile.Owner
	case a.Mkdir != nil:
		o = a.Mkdir.Owner
	case a.Symlink != nil:
		o = a.Symlink.Owner
	}
	users, groups = op.NoInput, op.NoInput
	if o == nil {
		return users, groups
	}
	if n := o.UserTree - 1; o.User != "" && n >= 0 && n != a.Input {
		users = n
	}
	if n := o.GroupTree - 1; o.Group != "" && n >= 0 && n != a.Input {
		groups = n
	}
	return users, groups
}
