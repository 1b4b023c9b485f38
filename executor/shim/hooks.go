package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/hook"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// hooksDir is where, in Options.Dir, the bundles of an Executor's sandboxes are.
const hooksDir = "hooks"

// stopTime is how long a hook of poststop may take that has no timeout: there is nobody who could give up waiting for it.
const stopTime = time.Minute

// boxHooks are the hooks of one sandbox. A nil one has none.
type boxHooks struct {
	e    *Executor
	dir  string
	list []executor.Hook
	work sync.WaitGroup // of create

	bundle *hook.Bundle // set by create, as all below; nil if there was none
	pid    int
}

// useHooks has the hooks of spec run for c. Those of before its start are given up with ctx, or when the sandbox ends.
func (e *Executor) useHooks(ctx context.Context, c *call, spec *executor.Spec, req *wire.Request) *boxHooks {
	if len(spec.Hooks) == 0 {
		return nil
	}
	h := &boxHooks{e: e, list: limited(spec.Hooks), dir: filepath.Join(e.opts.Dir, hooksDir, spec.ID)}
	req.Bundle = h.dir
	c.hooks = func(w *wire.HooksWait, pidfd *os.File) {
		ctx, cancel := context.WithCancel(ctx)
		h.work.Go(func() {
			defer cancel()
			err := h.create(ctx, spec.ID, w, pidfd)
			_ = e.conn.Send(&wire.Request{Op: wire.Hooked, ID: c.id, Err: wire.ErrorOf(err)}, nil)
		})
		e.work.Go(func() {
			select {
			case <-c.ended:
				cancel()
			case <-ctx.Done():
			}
		})
	}
	return h
}

func (h *boxHooks) create(ctx context.Context, id string, w *wire.HooksWait, pidfd *os.File) (err error) {
	defer pidfd.Close()
	h.pid = wire.Number(pidfd)
	if h.bundle, err = hook.NewBundle(h.dir, id, h.list, w.Config); err != nil {
		return err
	}
	return h.bundle.Create(ctx, &hook.Waiting{PidFD: pidfd, Pid: h.pid, Place: w.Place})
}

// started runs the hooks of a sandbox whose command runs.
func (h *boxHooks) started(ctx context.Context) error {
	if h == nil || h.bundle == nil {
		return nil
	}
	return h.bundle.Started(ctx, h.pid)
}

// stop runs the hooks of a sandbox that has ended or was not to be. What they fail with is for the log.
func (h *boxHooks) stop() {
	if h == nil {
		return
	}
	h.work.Wait()
	if h.bundle == nil {
		return
	}
	err := errors.Join(h.bundle.Stopped(context.Background()), h.bundle.Remove())
	if err != nil && h.e.opts.Log != nil {
		fmt.Fprintln(h.e.opts.Log, "boxshim:", err)
	}
}

// limited gives hooks of poststop a timeout.
func limited(list []executor.Hook) []executor.Hook {
	out := append([]executor.Hook(nil), list...)
	for i := range out {
		if out[i].Stage == executor.Poststop && out[i].Timeout == 0 {
			out[i].Timeout = stopTime
		}
	}
	return out
}

// Of a container, its directory has the bundle, and a file with the hooks, for whichever daemon is there at its end.
const (
	bundleDir = "bundle"
	hooksFile = "hooks.json"
)

// A keptHooks is the content of that file.
type keptHooks struct {
	ID    string
	Hooks []executor.Hook
}

// createHooks runs the hooks of before the start of the container of dir.
func (h *Host) createHooks(ctx context.Context, dir string, spec *executor.Spec, w *wire.HooksWait, pidfd *os.File) error {
	kept := &keptHooks{ID: spec.ID, Hooks: limited(spec.Hooks)}
	text, err := json.Marshal(kept)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, hooksFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keeping the hooks of a container: %w", err)
	}
	b, err := hook.NewBundle(filepath.Join(dir, bundleDir), kept.ID, kept.Hooks, w.Config)
	if err != nil {
		return err
	}
	return b.Create(ctx, &hook.Waiting{PidFD: pidfd, Pid: wire.Number(pidfd), Place: w.Place})
}

// hooksOf returns the bundle of dir; nil if the container has no hooks, or none of it were run.
func hooksOf(dir string) (*hook.Bundle, error) {
	text, err := os.ReadFile(filepath.Join(dir, hooksFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var kept keptHooks
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the hooks of a container: %w", err)
	}
	return hook.At(filepath.Join(dir, bundleDir), kept.ID, kept.Hooks), nil
}

// stopHooks runs the hooks of a container that has ended, unless that was done.
func (h *Host) stopHooks(dir string) {
	b, err := hooksOf(dir)
	if b != nil {
		err = errors.Join(b.Stopped(context.Background()), b.Remove(), os.Remove(filepath.Join(dir, hooksFile)))
	}
	if err != nil {
		h.note(err)
	}
}
