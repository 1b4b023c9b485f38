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
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/mount"
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

// cacheName names the directory of a cache mount by the hashes of its ID and of what it starts from, so no ID, however
// odd, can name anything outside of CacheDir. The selector is no part of it: it is a path inside the directory.
func cacheName(step *solver.Step, x *op.ExecMount) string {
	name := hashName(x.Cache.ID)
	if base := cacheBase(step, x); base != scratch {
		name += basedMark + hashName(string(base))
	}
	return name
}

// basedMark is between the two hashes in the name of a directory that starts from something.
const basedMark = "."

func hashName(s string) string {
	sum := sha256.Sum256([]byte(s))
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

// cacheMount opens what a cache mount shows of its directory, which the step has entered. The path is resolved inside the
// directory, and what is found is mounted by its descriptor: another step that swaps it for a link to elsewhere, at
// whatever moment, gains nothing (CVE-2024-23651).
func (r *Runner) cacheMount(ctx context.Context, step *solver.Step, x *op.ExecMount, use cacheUse) (*os.File, error) {
	dir := filepath.Join(r.deps.CacheDir, use.name)
	if err := r.fillCache(ctx, dir, cacheBase(step, x)); err != nil {
		return nil, lost(err, x.Input)
	}
	r.noteCacheUse(use.name, describeCache(step, x))
	f, err := openDir(dir)
	if err != nil || path.Clean("/"+x.Selector) == "/" {
		return f, err
	}
	defer f.Close()
	sub, err := mount.Sub(f, x.Selector)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &os.PathError{Op: "open", Path: path.Clean("/" + x.Selector), Err: unix.ENOENT} // the user's path
	}
	return sub, err
}

// freshCache begins the names of directories that are being filled, goneCache of those that are being removed.
const (
	freshCache = "new-"
	goneCache  = "gone-"
)

// fillCache makes dir, with the content that the cache mount starts from, if it does not exist. Several steps may do
// so at once: the first rename wins.
func (r *Runner) fillCache(ctx context.Context, dir string, base solver.Result) error {
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
		if err := r.copyOut(ctx, base, "/", tmp); err != nil {
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

// sweepCaches removes what a daemon that was killed has left half filled or half removed.
func (r *Runner) sweepCaches() {
	if r.deps.CacheDir == "" {
		return
	}
	for _, dir := range namesIn(r.deps.CacheDir, freshCache, goneCache) {
		discardCache(dir)
	}
}

// namesIn returns the paths of what in dir has a name that begins with one of prefixes; none if it cannot be read.
func namesIn(dir string, prefixes ...string) (paths []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// discardCache removes a directory that has no name any more.
func discardCache(dir string) {
	_ = os.RemoveAll(dir) // what stays takes space, and is swept at the next start
}

// PruneCaches empties the cache mounts of steps that are to run without the cache: who enters one from now on finds a new
// directory, which later builds use too. Whoever is in an old one keeps it until leaving. As in BuildKit, a mount that
// starts from something stands for all of its ID that do, and another one for those that do not. It is called once for a
// build, before it runs: its steps are to find what earlier ones have left.
func (r *Runner) PruneCaches(steps []*op.Exec) error {
	type class struct {
		id    string
		based bool
	}
	pruned := make(map[class]bool)
	for _, e := range steps {
		for i := range e.Mounts {
			if x := &e.Mounts[i]; x.Type == op.MountCache {
				pruned[class{hashName(x.Cache.ID), x.Input != op.NoInput}] = true
			}
		}
	}
	if len(pruned) == 0 {
		return nil
	}
	entries, err := os.ReadDir(r.deps.CacheDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("looking for cache mounts: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		private, _, _ := strings.Cut(name, "-") // the name without the number of a private one
		id, _, based := strings.Cut(private, basedMark)
		if !pruned[class{id, based}] {
			continue
		}
		gone := filepath.Join(r.deps.CacheDir, goneCache+newName())
		r.removeNote(name)
		switch err := os.Rename(filepath.Join(r.deps.CacheDir, name), gone); {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return fmt.Errorf("emptying a cache mount: %w", err)
		case !r.caches.retire(name, gone):
			discardCache(gone)
		}
	}
	return nil
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
