//go:build cgo

// Package libcontainer carries out what package executor/sandbox decided, with the library of that name. Only boxshim
// links it.
//
// Life of a sandbox: Runtime.Start makes mount point stubs in the root, gives libcontainer the specification, and sends
// the file descriptors of the root and of bind sources to the new process, which attaches them in its own mount
// namespace before libcontainer looks at them (prepare). Container.Wait reaps the first process, takes the stubs away
// again, reads what the cgroup knows, and lets the root go; Destroy removes the cgroup and the state.
//
// So no mount of any sandbox is ever in the mount namespace of the runtime, or in that of another sandbox: not for an
// instant, since a mount namespace starts as a copy of its parent's. Enter gives the runtime a mount namespace of its
// own that holds nothing of the host but the cgroup hierarchies.
//
// The process of the sandbox after the next is started ahead, see spare.
//
// Locks: spares.mu is not held during I/O. Container.mu guards its fields and is not held while waiting for a process.
package libcontainer

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // without it, no rule of a device cgroup is set
	lc "github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor/cgroup"
)

// Directories in the runtime's private file system.
const (
	stateDir = "/run/state" // libcontainer's: state.json and the fifo of each sandbox
	boxDir   = "/run/box"   // ours: where root and sources of each sandbox are attached
)

// A Runtime runs sandboxes. It is safe for concurrent use.
type Runtime struct {
	// Single says that there will be one sandbox only; it is set before the first.
	Single bool

	profiles profiles
	cgroups  cgroup.Tree
	spares   spares
}

// NewRuntime returns a Runtime. Enter must have been called.
func NewRuntime() (*Runtime, error) {
	for _, d := range []string{stateDir, boxDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("making %s: %w", d, err)
		}
	}
	if err := makeSkeletonDirs(); err != nil {
		return nil, err
	}
	// For the processes that libcontainer starts, which have one thing to do at a time.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return nil, err
	}
	return &Runtime{cgroups: cgroup.At(cgroup.Root)}, nil
}

// Dir returns the directory of the sandbox id, where its root and sources are attached.
func Dir(id string) string { return filepath.Join(boxDir, id) }

// config converts spec for libcontainer. The compiled filter, if there is one, is for the new process to use; ready is it,
// if another Runtime has compiled it before.
func (r *Runtime) config(spec *specs.Spec, ready *CompiledFilter) (*configs.Config, *os.File, error) {
	linux := *spec.Linux
	linux.Seccomp = nil
	plain := *spec
	plain.Linux = &linux
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{Spec: &plain})
	if err != nil {
		return nil, nil, fmt.Errorf("converting the specification: %w", err)
	}
	config.Labels = nil
	config.AppArmorProfile = spec.Process.ApparmorProfile // which the library's conversion leaves to its caller
	profile, err := r.profiles.get(spec.Linux.Seccomp, ready)
	if err != nil {
		return nil, nil, err
	}
	config.Seccomp = profile.config
	config.Rlimits, err = rlimits(spec.Process.Rlimits)
	return config, profile.program, err
}

// Prepare compiles a filter that a sandbox is likely to have, unless that has been done.
func (r *Runtime) Prepare(filter *specs.LinuxSeccomp) { _, _ = r.profiles.get(filter, nil) }

// isV2 says whether the machine has only the unified cgroup hierarchy.
func isV2() bool { return cgroups.IsCgroup2UnifiedMode() }

// Init is the re-executed program: it becomes a process of a sandbox. It does not return.
func Init() {
	// It ends, or executes something else, long before its garbage would be worth collecting.
	debug.SetGCPercent(-1)
	resetSlack()
	prepare()
	lc.Init()
}
