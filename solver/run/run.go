// Package run performs operations: it is the solver.Runner of the daemon. There is a file for each kind of operation.
//
// A result is named by what it is: "snapshot:<id>" for a committed snapshot, "scratch" for an empty tree, and
// "local:<root>" for a directory of a client's. The first two live in the store and are kept by the lease of the
// build; the last lives as long as a build that has registered it with AddTree.
//
// A step writes into a draft. It becomes a snapshot, under a new random ID, only when the step has succeeded, and is
// discarded otherwise, so a step that is killed leaves nothing. Root file systems are reached through detached mounts
// (package snapshot/mount) and never appear in the daemon's mount table.
package run

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/semaphore"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/proto/git"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run/httpsource"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// Images gives the root file systems of images.
type Images interface {
	// Root returns the snapshot that is the root file system of img, which is pinned; it pulls and applies the layers
	// that the store lacks. An image without layers has the ID "". What it returns is held by the lease in ctx.
	Root(ctx context.Context, img *op.Image, status func(solver.Status)) (snapshot.ID, error)
}

// DiffIDs computes the diff IDs of snapshots in the background.
type DiffIDs interface {
	// Start has the diff ID of id computed, unless it is known or being computed.
	Start(id snapshot.ID)
}

// Deps are what a Runner works with.
type Deps struct {
	Snapshots snapshot.Snapshotter
	Executor  executor.Executor
	// Emulators say how programs for other platforms run; nil if nothing is known of that.
	Emulators executor.Emulators
	Images    Images
	DiffIDs   DiffIDs
	CacheDir  string // cache mounts live below
	RecentDir string // what file operations have copied last, a hint
	FetchDir  string // what URLs have had, a hint
	// HTTP fetches files; nil for a client with its defaults.
	HTTP *httpsource.Client
	// Git fetches repositories; nil for a daemon that fetches none.
	Git       *git.Client
	SocketDir string // sockets that lead to clients' agents; "" for the machine's temporary directory
	// Hashes remembers the content digests of snapshots.
	Hashes *treehash.Cache
	// Devices are those that steps can be given by name; nil for none.
	Devices executor.Devices
	// Parallelism bounds the processes that run at once, over all builds.
	Parallelism int
	// CgroupPath is the parent of the cgroups of steps that name none.
	CgroupPath string
	// ResolvConf returns /etc/resolv.conf for sandboxes on the bridge, and HostResolvConf for all others. A nil func,
	// and nil for the content, leave the image's file.
	ResolvConf, HostResolvConf func() ([]byte, error)
}

// A Runner performs operations. It is safe for concurrent use.
type Runner struct {
	deps   Deps
	slots  *semaphore.Weighted
	trees  trees
	caches cacheLocks
	recent recent

	http       *httpsource.Client
	remembered *httpsource.Memory
	fetched    fetched
}

// New returns a Runner, after it has removed what an earlier one has left that is of no use any more.
func New(deps Deps) *Runner {
	if deps.Parallelism <= 0 {
		deps.Parallelism = 16
	}
	if deps.Hashes == nil {
		deps.Hashes = treehash.NewCache(0)
	}
	r := &Runner{deps: deps, slots: semaphore.NewWeighted(int64(deps.Parallelism)), recent: recent{deps.RecentDir}}
	if r.http = deps.HTTP; r.http == nil {
		r.http = httpsource.New(httpsource.Options{})
	}
	r.remembered = httpsource.OpenMemory(deps.FetchDir)
	r.sweepCaches()
	r.sweepSockets()
	r.recent.sweep(func(id snapshot.ID) bool {
		_, err := deps.Snapshots.Stat(context.Background(), id)
		return !errors.Is(err, snapshot.ErrNotFound)
	})
	return r
}

var (
	_ solver.Runner   = (*Runner)(nil)
	_ solver.Admitter = (*Runner)(nil)
)

// Admit implements solver.Admitter: processes take a slot each. Everything else is bounded where it happens (the
// registry client by host, file copies by their workers), and would only wait behind sleeping processes here.
func (r *Runner) Admit(ctx context.Context, step *solver.Step) (func(), error) {
	if _, ok := step.Vertex.Op().(*op.Exec); !ok {
		return func() {}, nil
	}
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { r.slots.Release(1) }, nil
}

// Run implements solver.Runner.
func (r *Runner) Run(ctx context.Context, step *solver.Step) ([]solver.Result, error) {
	switch o := step.Vertex.Op().(type) {
	case *op.Image:
		id, err := r.deps.Images.Root(ctx, o, step.Status)
		if err != nil {
			return nil, err
		}
		return []solver.Result{ResultOf(id)}, nil
	case *op.Local:
		return r.runLocal(o)
	case *op.HTTP:
		return r.runHTTP(ctx, o, step.Status)
	case *op.Git:
		return r.runGit(ctx, step, o)
	case *op.Exec:
		return r.runExec(ctx, step, o)
	case *op.File:
		return r.runFile(ctx, step, o)
	case *op.Merge:
		return r.runMerge(ctx, step)
	case *op.Blob:
		return r.runBlob(ctx, o, step.Status)
	case *op.Build:
		return r.runBuild(ctx, step, o)
	case *op.Diff:
		return r.runDiff(ctx, step, o)
	case *op.Passthrough:
		return passthrough(step, o)
	}
	return nil, fmt.Errorf("running %s: operation %T is not supported", step.Vertex.Name(), step.Vertex.Op())
}

// passthrough returns inputs of the step.
func passthrough(step *solver.Step, p *op.Passthrough) ([]solver.Result, error) {
	out := make([]solver.Result, len(p.Out))
	for i, n := range p.Out {
		if n < 0 || n >= len(step.Inputs) {
			return nil, fmt.Errorf("passing input %d through: there are %d", n, len(step.Inputs))
		}
		out[i] = step.Inputs[n]
	}
	return out, nil
}

// Results.

const (
	scratch        = solver.Result("scratch")
	snapshotPrefix = "snapshot:"
	localPrefix    = "local:"
)

// ResultOf returns the result that names a snapshot; "" is the empty tree.
func ResultOf(id snapshot.ID) solver.Result {
	if id == "" {
		return scratch
	}
	return solver.Result(snapshotPrefix + string(id))
}

// SnapshotOf returns the snapshot that r names, "" for an empty tree. ok is false if r is not a tree in the store.
func SnapshotOf(r solver.Result) (id snapshot.ID, ok bool) {
	if r == scratch {
		return "", true
	}
	s, ok := strings.CutPrefix(string(r), snapshotPrefix)
	return snapshot.ID(s), ok
}

// Hold implements solver.Runner.
func (r *Runner) Hold(ctx context.Context, res solver.Result) error {
	if root, ok := strings.CutPrefix(string(res), localPrefix); ok {
		if !r.trees.has(root) {
			return solver.ErrMiss
		}
		return nil
	}
	id, ok := SnapshotOf(res)
	if !ok {
		return solver.ErrMiss
	}
	if id == "" {
		return nil
	}
	l := lease.From(ctx)
	if l == nil {
		return fmt.Errorf("holding %s: the build has no lease", res)
	}
	if err := l.Hold(ctx, lease.ID(id)); err != nil {
		return missIfGone(err)
	}
	return nil
}

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// newName returns a random name that fits a snapshot, a draft and a sandbox.
func newName() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return strings.ToLower(idEncoding.EncodeToString(b[:]))
}
