package container

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/snapshot"
)

// A ctr is a container while the daemon runs.
type ctr struct {
	m  *Manager
	id string
	// turn is a lock that can be waited for with a context: who has it changes the container.
	turn chan struct{}

	mu      sync.Mutex // guards what follows
	rec     *record    // is replaced, and never changed
	box     executor.Container
	run     *run // the run that lasts, or the last one; nil before the first of this daemon
	pending []*pending
	waiters []*waiter
	wake    chan struct{} // closed, and replaced, when the status has changed
	execs   []string      // their IDs
	health  *prober
	// restarting is how many users restart it: its end is a part of that, on which AutoRemove does not act.
	restarting int
}

// A run is the life of a container's processes from one Start on.
type run struct {
	box  executor.Container
	done chan struct{} // closed when the end has been dealt with
	// over says that the end has been dealt with; it is guarded by ctr.turn.
	over bool
	// oom says that the kernel has killed a process of the run for want of memory. It is told of when it happens.
	oom atomic.Bool
	// deaf ends the watch over the memory of the processes; nil before there is one. It is guarded by ctr.turn.
	deaf func()
	// cancel ends the restart that is waited for; nil if there is none. It is guarded by ctr.turn.
	cancel context.CancelFunc
}

func newCtr(m *Manager, rec *record) *ctr {
	return &ctr{m: m, id: rec.ID, turn: make(chan struct{}, 1), rec: rec, wake: make(chan struct{})}
}

// lock takes the container's turn. It fails only if ctx is done.
func (c *ctr) lock(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *ctr) unlock() { <-c.turn }

// get returns the record, which is not to be changed.
func (c *ctr) get() *record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec
}

func (c *ctr) status() Status { return c.get().Status }

// change replaces the record with what f makes of a copy, and returns it. The turn is held, or what f changes is nobody
// else's.
func (c *ctr) change(f func(rec *record)) *record {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := *c.rec
	f(&rec)
	c.rec = &rec
	close(c.wake)
	c.wake = make(chan struct{})
	return c.rec
}

// save is change that is on the disk when it returns. With an error the container is as it was.
func (c *ctr) save(f func(rec *record)) error {
	old := c.get()
	if err := c.m.records.put(c.change(f)); err != nil {
		// What could not be written is tried again later, and must then be what the container is.
		c.note(func(rec *record) { *rec = *old })
		return err
	}
	return nil
}

// note is change that is written down soon.
func (c *ctr) note(f func(rec *record)) {
	rec := c.change(f)
	if err := c.m.records.note(rec); err != nil {
		c.m.log.Error("writing down what has become of a container", "container", c.id, "error", err)
	}
}

// changed returns a channel that is closed at the next change.
func (c *ctr) changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wake
}

// restart begins, or with -1 ends, a restart by a user.
func (c *ctr) restart(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restarting += n
}

// stays says whether an end is a part of a restart.
func (c *ctr) stays() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.restarting > 0
}

func (c *ctr) draft() snapshot.Draft { return snapshot.Draft(c.id) }

func (c *ctr) dir() string { return filepath.Join(c.m.deps.Dir, c.id) }

func (c *ctr) path(name string) string { return filepath.Join(c.dir(), name) }

// running returns the executor's container, or docker's error if none runs.
func (c *ctr) running() (executor.Container, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.box == nil || !c.rec.Status.Alive() {
		return nil, notRunning(c.id)
	}
	return c.box, nil
}

// autoRemove says whether the container goes when it ends.
func (rec *record) autoRemove() bool { return rec.HostConfig.AutoRemove }

func (rec *record) policy() container.RestartPolicy { return rec.HostConfig.RestartPolicy }

// command returns what the container executes.
func (rec *record) command() (path string, args []string) {
	argv := slices.Clone(rec.Config.Cmd)
	if e := rec.Config.Entrypoint; len(e) > 0 && (len(e) > 1 || e[0] != "") {
		argv = slices.Concat(e, argv)
	}
	if len(argv) == 0 {
		return "", nil
	}
	return argv[0], argv[1:]
}

func sortedByAge(m map[string]*ctr) []*ctr {
	out := slices.Collect(maps.Values(m))
	slices.SortFunc(out, func(a, b *ctr) int {
		x, y := a.get(), b.get()
		if d := x.Created.Compare(y.Created); d != 0 {
			return d
		}
		return strings.Compare(x.ID, y.ID)
	})
	return out
}

// short is the beginning of an ID, as docker prints it.
func short(id string) string { return id[:min(12, len(id))] }
