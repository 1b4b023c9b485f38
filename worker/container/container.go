// Package container keeps the containers of the daemon: it makes them, runs them, finds them again when the daemon is
// started, and reports on them as Docker's Engine API does.
//
// # Life cycle
//
//	Create ──> created ──Start──> running <──> paused
//	              ^                  │  end of the first process
//	              │                  ├──> restarting ── back-off ──> running
//	              │                  └──> exited ──Start──> running
//	              └── every state but running ──Remove──> removing ──> gone (dead, if that fails)
//
// What is wanted of a container (a Want) and what is the case (a Status) are two things. Step is the one function that
// takes a container from a status towards what is wanted, one transition at a time, and Ended the one that says what the
// end of its process leads to. Everything else calls these.
//
// A container exists when meta.db has its record, which is synced; its writable layer, a draft of the snapshotter, and
// its directory are made before and removed after. What happens to it later is written down a moment later, in one
// transaction with what else has happened, except for what a user was told. A daemon that is killed before that finds
// out from the container's keeper, which has outlived it.
//
// # Locks
//
// ctr.turn, one for each container, is held while it is changed, I/O included; whoever holds it takes no other's.
// Waiting for a process to end is done without it, so that a container can be killed while it is being stopped. ctr.mu
// guards the fields of a ctr, Manager.mu the tables of names and IDs; both are leaves, the latter taken first, and no I/O
// is done under them.
package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/worker"
)

// Deps are what a Manager works with.
type Deps struct {
	Dir string    // where each container has a directory: <root>/containers
	DB  *bbolt.DB // with synced transactions
	// Host starts containers. Executors that cannot have none.
	Host      executor.Host
	Snapshots snapshot.Snapshotter // one that is a snapshot.Keeper
	Driver    string               // the name of the snapshotter, as inspect shows it
	Images    *image.Store
	Leases    *lease.Manager
	Maker     Maker
	Volumes   Volumes
	Network   Network
	Devices   executor.Devices   // those that containers can ask for; nil for none
	Emulators executor.Emulators // how foreign programs come to run, for who is told that they do not; nil if nobody knows
	Events    worker.Events
	Platform  ocispec.Platform // the daemon's own
	Log       *slog.Logger     // nil means slog.Default()
	// Meter counts what is done; it may be nil.
	Meter Meter
	// LogDriver and LogOpts are for containers which ask for no driver; empty means json-file.
	LogDriver string
	LogOpts   map[string]string
}

// A Meter counts what is done with containers. Its methods do not block. What fails is not counted.
type Meter interface {
	// ContainerAction counts create, start, changes, commit and delete.
	ContainerAction(action string, took time.Duration)
	// NetworkAction counts allocate and release.
	NetworkAction(action string, took time.Duration)
	// HealthCheck counts a check, which took so long until its command ran.
	HealthCheck(prepared time.Duration, failed bool)
}

// noMeter counts nothing.
type noMeter struct{}

func (noMeter) ContainerAction(string, time.Duration) {}
func (noMeter) NetworkAction(string, time.Duration)   {}
func (noMeter) HealthCheck(time.Duration, bool)       {}

// meter counts an action, of one that began then, unless it has failed.
func (m *Manager) meter(action string, begin time.Time, err error) {
	if err == nil {
		m.deps.Meter.ContainerAction(action, time.Since(begin))
	}
}

// A Maker makes images of containers.
type Maker interface {
	// Derive stores an image, and returns its ID.
	Derive(ctx context.Context, d *worker.Derivation) (digest.Digest, error)
	// ApplyChanges applies instructions of a Dockerfile, as `docker commit --change` has them, to a config.
	ApplyChanges(c *frontend.ImageConfig, changes []string) error
}

// A Manager keeps containers. It is safe for concurrent use.
type Manager struct {
	deps    Deps
	log     *slog.Logger
	now     func() time.Time
	open    func(context.Context, []snapshot.Mount) (*os.File, error) // mount.Open, but in tests without root
	keeper  snapshot.Keeper
	records *recorder
	filling keyed
	// life ends when the daemon goes: what only watches over containers ends with it.
	life context.Context //nolint:containedctx // the Manager's own, whose goroutines it waits for
	end  context.CancelCauseFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	byID   map[string]*ctr
	byName map[string]*ctr
	execs  map[string]*process
	fresh  map[snapshot.ID]struct{} // bases that may not be on the disk yet
}

var _ worker.Containers = (*Manager)(nil)

// errClosing is the cause with which a Manager ends what it does.
var errClosing = errors.New("the daemon is going down")

// New opens the containers that the database has. They are found again by Restore.
func New(d Deps) (*Manager, error) {
	if d.Log == nil {
		d.Log = slog.Default()
	}
	if d.Meter == nil {
		d.Meter = noMeter{}
	}
	if d.LogDriver == "" {
		d.LogDriver = "json-file"
	}
	if err := os.MkdirAll(d.Dir, 0o710); err != nil {
		return nil, fmt.Errorf("opening the containers: %w", err)
	}
	keeper, ok := d.Snapshots.(snapshot.Keeper)
	if !ok {
		return nil, errors.New("opening the containers: the snapshotter keeps no drafts")
	}
	m := &Manager{
		deps: d, log: d.Log, now: time.Now, keeper: keeper,
		open: func(ctx context.Context, m []snapshot.Mount) (*os.File, error) { return mount.Open(ctx, m) },
		byID: make(map[string]*ctr), byName: make(map[string]*ctr), execs: make(map[string]*process), fresh: make(map[snapshot.ID]struct{}),
	}
	var err error
	if m.records, err = newRecorder(d.DB, d.Log); err != nil {
		return nil, fmt.Errorf("opening the containers: %w", err)
	}
	m.life, m.end = context.WithCancelCause(context.Background())
	recs, err := load(d.DB)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the containers: %w", err), m.Close())
	}
	for _, rec := range recs {
		c := newCtr(m, rec)
		m.byID[rec.ID], m.byName[rec.Name] = c, c
	}
	return m, nil
}

// Close ends what watches over the containers, which run on. What is to be written down is.
func (m *Manager) Close() error {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if closed {
		return nil
	}
	m.end(errClosing)
	m.wg.Wait()
	var errs []error
	for _, c := range m.all() {
		c.mu.Lock()
		box := c.box
		c.box = nil
		c.mu.Unlock()
		if box != nil {
			errs = append(errs, box.Close())
		}
	}
	return errors.Join(append(errs, m.records.close())...)
}

// all returns the containers, the oldest first.
func (m *Manager) all() []*ctr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return sortedByAge(m.byID)
}

// goOn runs f in a goroutine that Close waits for, unless it has been called.
func (m *Manager) goOn(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.wg.Go(f)
}
