package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run/fileop"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// cacheMounts are the directories that persist between builds. A directory is named by the hash of its ID and of what
// it starts from, so no ID, however odd, can name anything outside of CacheDir.
type cacheMounts struct {
	mu sync.Mutex // guards m
	m  map[string]*cacheLock
}

// A cacheLock is who uses a cache directory now.
type cacheLock struct {
	users int           // shared and private users
	held  bool          // by a locked user
	free  chan struct{} // closed and replaced whenever a user leaves
}

// acquire enters the directory called name. A locked user waits until it is alone; a shared one until no locked one is
// there. A private one does not wait: it returns false if anybody is there.
func (c *cacheMounts) acquire(ctx context.Context, name string, sharing op.CacheSharing) (bool, error) {
	for {
		c.mu.Lock()
		if c.m == nil {
			c.m = make(map[string]*cacheLock)
		}
		l := c.m[name]
		if l == nil {
			l = &cacheLock{free: make(chan struct{})}
			c.m[name] = l
		}
		alone := !l.held && l.users == 0
		switch {
		case sharing == op.SharingLocked && alone:
			l.held = true
			c.mu.Unlock()
			return true, nil
		case sharing == op.SharingPrivate && alone, sharing == op.SharingShared && !l.held:
			l.users++
			c.mu.Unlock()
			return true, nil
		case sharing == op.SharingPrivate:
			c.mu.Unlock()
			return false, nil
		}
		free := l.free
		c.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

func (c *cacheMounts) release(name string, sharing op.CacheSharing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.m[name]
	if sharing == op.SharingLocked {
		l.held = false
	} else {
		l.users--
	}
	close(l.free)
	l.free = make(chan struct{})
	if !l.held && l.users == 0 {
		delete(c.m, name)
	}
}

// cacheMount opens the directory of a cache mount for a step. done gives it back.
func (r *Runner) cacheMount(ctx context.Context, step *solver.Step, x *op.ExecMount) (f *os.File, done func(), err error) {
	base := scratch
	if x.Input != op.NoInput {
		base = step.Inputs[x.Input]
	}
	sum := sha256.Sum256([]byte(x.Cache.ID + "\x00" + string(base) + "\x00" + x.Selector))
	name := hex.EncodeToString(sum[:16])
	taken := name
	for n := 0; ; n++ {
		if n > 0 {
			taken = name + "-" + strconv.Itoa(n)
		}
		ok, err := r.caches.acquire(ctx, taken, x.Cache.Sharing)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			break
		}
	}
	release := func() { r.caches.release(taken, x.Cache.Sharing) }
	defer func() {
		if err != nil {
			release()
		}
	}()
	dir := filepath.Join(r.deps.CacheDir, taken)
	if err := r.fillCache(ctx, dir, base, x); err != nil {
		return nil, nil, lost(err, x.Input)
	}
	f, err = os.OpenFile(dir, os.O_RDONLY, 0)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { f.Close(); release() }, nil
}

// fillCache makes dir, with the content that the cache mount starts from, if it does not exist. Several steps may do
// so at once: the first rename wins.
func (r *Runner) fillCache(ctx context.Context, dir string, base solver.Result, x *op.ExecMount) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(r.deps.CacheDir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(r.deps.CacheDir, "new-")
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
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
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
