package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// A Bundle is the directory that the hooks of one sandbox are told of, and the hooks.
type Bundle struct {
	dir   string
	id    string
	hooks []executor.Hook
}

// NewBundle makes the bundle dir, in place of one that was left, for the sandbox with that ID and those hooks. config is an
// OCI runtime specification, as JSON.
func NewBundle(dir, id string, hooks []executor.Hook, config []byte) (*Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("making the bundle for hooks: %w", err)
	}
	b := At(dir, id, hooks)
	if config, err = b.config(config); err == nil {
		err = os.RemoveAll(dir)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("making the bundle for hooks: %w", err)
	}
	return b, nil
}

// At is the bundle that NewBundle has made, perhaps in another process.
func At(dir, id string, hooks []executor.Hook) *Bundle {
	return &Bundle{dir: dir, id: id, hooks: hooks}
}

// config puts the root's path into a specification.
func (b *Bundle) config(spec []byte) ([]byte, error) {
	var doc, root map[string]any
	if err := json.Unmarshal(spec, &doc); err != nil {
		return nil, err
	}
	root, _ = doc["root"].(map[string]any)
	if root == nil {
		root = make(map[string]any)
	}
	root["path"] = filepath.Join(b.dir, "rootfs")
	doc["root"] = root
	return json.Marshal(doc)
}

// Remove removes the bundle.
func (b *Bundle) Remove() error {
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("removing the bundle for hooks: %w", err)
	}
	return nil
}

// A Waiting is the first process of a sandbox, which waits before it enters its root.
type Waiting struct {
	PidFD *os.File
	Pid   int    // in this process's pid namespace
	Place string // where its root is, in its mount namespace
}

// Create runs the hooks of prestart, createRuntime and createContainer. After an error the sandbox must not run.
func (b *Bundle) Create(ctx context.Context, w *Waiting) error {
	err := onThread(func() error {
		in, err := enter(b, w)
		if err != nil {
			return fmt.Errorf("getting ready for hooks: %w", err)
		}
		err = b.inside(ctx, w, in)
		if lerr := in.leave(); lerr != nil {
			err = errors.Join(err, fmt.Errorf("clearing up after hooks: %w", lerr))
		}
		return err
	})
	if kerr := killLeft(w); kerr != nil {
		err = errors.Join(err, fmt.Errorf("clearing up after hooks: %w", kerr))
	}
	return err
}

func (b *Bundle) inside(ctx context.Context, w *Waiting, in *inside) error {
	err := b.outside(ctx, w.Pid, in.root, executor.Prestart, executor.CreateRuntime)
	if err != nil {
		return err
	}
	list := executor.HooksOf(b.hooks, executor.CreateContainer)
	state, err := State(b.id, executor.CreateContainer, in.pid, b.dir)
	if err != nil {
		return err
	}
	return run(ctx, list, state, 0)
}

// Started runs the hooks of poststart, for a sandbox whose command runs with that number.
func (b *Bundle) Started(ctx context.Context, pid int) error {
	return b.outside(ctx, pid, nil, executor.Poststart)
}

// Stopped runs the hooks of poststop. Each is run whatever the others did.
func (b *Bundle) Stopped(ctx context.Context) error {
	var errs []error
	for _, h := range executor.HooksOf(b.hooks, executor.Poststop) {
		one := *b
		one.hooks = []executor.Hook{h}
		errs = append(errs, one.outside(ctx, 0, nil, executor.Poststop))
	}
	return errors.Join(errs...)
}

// outside runs hooks in a mount namespace that begins as a copy of this process's. There, the detached mount root, if it is
// not nil, is at rootfs.
func (b *Bundle) outside(ctx context.Context, pid int, root *os.File, stages ...executor.HookStage) error {
	n := 0
	for _, s := range stages {
		n += len(executor.HooksOf(b.hooks, s))
	}
	if n == 0 {
		return nil
	}
	return onThread(func() error {
		if err := b.ownMounts(root); err != nil {
			return fmt.Errorf("getting ready for hooks: %w", err)
		}
		for _, s := range stages {
			state, err := State(b.id, s, pid, b.dir)
			if err == nil {
				err = run(ctx, executor.HooksOf(b.hooks, s), state, syscall.SIGKILL)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// ownMounts gives the calling thread a mount namespace of its own, with root at rootfs.
func (b *Bundle) ownMounts(root *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	// What is mounted on the host meanwhile is seen here, and not the other way round.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("making mounts follow the host's: %w", err)
	}
	if root == nil {
		return nil
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(int(root.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("protecting the host from links in the root: %w", err)
	}
	err := unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, filepath.Join(b.dir, "rootfs"), unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attaching the root: %w", err)
	}
	return nil
}
