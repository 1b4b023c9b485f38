package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run/fileop"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A cacheUse is a cache directory that a step is in.
type cacheUse struct {
	name    string // of the directory below CacheDir
	sharing op.CacheSharing
}

// cacheName names the directory of a cache mount by the hash of its ID and of what it starts from, so no ID, however
// odd, can name anything outside of CacheDir.
func cacheName(step *solver.Step, x *op.ExecMount) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", x.Cache.ID, cacheBase(step, x), x.Selector))
	return hex.EncodeToString(sum[:16])
}

// cacheBase is what a cache mount starts from.
func cacheBase(step *solver.Step, x *op.ExecMount) solver.Result {
	if x.Input == op.NoInput {
		return scratch
	}
	return step.Inputs[x.Input]
}

// enterCaches enters the directories of the step's cache mounts, and returns which they are, by cacheName. leave leaves
// them, also after an error.
//
// A directory is entered once however many mounts of the step show it, as the strictest of them wants, and all steps
// enter in the same order: so no step waits for itself, nor two for each other.
func (r *Runner) enterCaches(ctx context.Context, step *solver.Step, e *op.Exec) (uses map[string]cacheUse, leave func(), err error) {
	wanted := make(map[string]op.CacheSharing)
	for i := range e.Mounts {
		if x := &e.Mounts[i]; x.Type == op.MountCache {
			name := cacheName(step, x)
			wanted[name] = max(wanted[name], x.Cache.Sharing) // they are numbered in this order
		}
	}
	uses = make(map[string]cacheUse, len(wanted))
	leave = func() {
		for _, u := range uses {
			r.caches.release(u.name, u.sharing)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		u := cacheUse{name, wanted[name]}
		for n := 1; ; n++ {
			ok, err := r.caches.acquire(ctx, u.name, u.sharing)
			if err != nil {
				return uses, leave, err
			}
			if ok {
				break
			}
			u.name = name + "-" + strconv.Itoa(n)
		}
		uses[name] = u
	}
	return uses, leave, nil
}

// cacheMount opens the directory of a cache mount, which the step has entered.
func (r *Runner) cacheMount(ctx context.Context, step *solver.Step, x *op.ExecMount, use cacheUse) (*os.File, error) {
	dir := filepath.Join(r.deps.CacheDir, use.name)
	if err := r.fillCache(ctx, dir, cacheBase(step, x), x); err != nil {
		return nil, lost(err, x.Input)
	}
	return openDir(dir)
}

// freshCache begins the names of directories that are being filled.
const freshCache = "new-"

// fillCache makes dir, with the content that the cache mount starts from, if it does not exist. Several steps may do
// so at once: the first rename wins.
func (r *Runner) fillCache(ctx context.Context, dir string, base solver.Result, x *op.ExecMount) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(r.deps.CacheDir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(r.deps.CacheDir, freshCache)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if base != scratch {
		if err := r.copyOut(ctx, base, x.Selector, tmp); err != nil {
			return fmt.Errorf("filling it from its base: %w", err)
		}
	}
	return install(tmp, dir)
}

// install renames tmp to dir, unless dir exists. A plain rename would replace an empty directory, under a step which has
// opened that.
func install(tmp, dir string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.LinkError{Op: "rename", Old: tmp, New: dir, Err: err}
	}
	return nil
}

// sweepCaches removes what a daemon that was killed has left half filled.
func (r *Runner) sweepCaches() {
	left, err := filepath.Glob(filepath.Join(r.deps.CacheDir, freshCache+"*"))
	if err != nil || r.deps.CacheDir == "" {
		return
	}
	for _, dir := range left {
		_ = os.RemoveAll(dir) // what stays takes space, and nothing else
	}
}

// copyOut copies the directory dir of a result, with its mode and owner, into an empty directory of the machine.
func (r *Runner) copyOut(ctx context.Context, res solver.Result, dir, dest string) error {
	dir = path.Join("/", dir)
	tree, done, err := r.Open(ctx, res)
	if err != nil {
		return err
	}
	defer done()
	root, err := treehash.Resolve(ctx, tree, dir, true)
	if err != nil {
		return err
	}
	if !root.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	contents := &op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: 0, Output: 0,
		Copy: &op.Copy{Src: root.Path, Dst: "/", DirContents: true, MkdirDst: true},
	}}}
	if _, err := fileop.Do(ctx, &destEnv{dest: dest, tree: tree}, contents, []solver.Result{res}); err != nil {
		return err
	}
	if err := os.Lchown(dest, int(root.UID), int(root.GID)); err != nil {
		return err
	}
	return unix.Chmod(dest, root.Mode&0o7777)
}

// A destEnv is a fileop.Env whose only draft is a directory of the machine.
type destEnv struct {
	dest string
	tree treehash.Tree
}

func (e *destEnv) Tree(context.Context, solver.Result) (treehash.Tree, func(), error) {
	return e.tree, func() {}, nil
}

func (e *destEnv) Begin(context.Context, solver.Result, bool) (*fileop.Draft, error) {
	f, err := openDir(e.dest)
	if err != nil {
		return nil, err
	}
	return &fileop.Draft{Root: f}, nil
}

func (e *destEnv) Commit(context.Context, *fileop.Draft) (solver.Result, error) {
	return localPrefix, nil // a name that nothing looks at
}

func (e *destEnv) Discard(context.Context, *fileop.Draft) {}

func (e *destEnv) Warn(solver.Warning) {}
