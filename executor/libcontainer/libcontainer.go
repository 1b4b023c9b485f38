//go:build cgo

// Package libcontainer carries out what package executor/sandbox decided, with the library of that name. Only boxshim
// links it.
//
// Life of a sandbox: Runtime.Start makes mount point stubs in the root, gives libcontainer the specification, and sends
// the file descriptors of the root and of bind sources to the new process, which attaches them in its own mount
// namespace before libcontainer looks at them (Attach). Container.Wait reaps the first process, takes the stubs away
// again, reads what the cgroup knows, and lets the root go; Destroy removes the cgroup and the state.
//
// So no mount of any sandbox is ever in the mount namespace of the runtime, or in that of another sandbox: not for an
// instant, since a mount namespace starts as a copy of its parent's. Enter gives the runtime a mount namespace of its
// own that holds nothing of the host but the cgroup hierarchies.
//
// Locks: Container.mu guards its fields and is not held while waiting for a process.
package libcontainer

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // without it, no rule of a device cgroup is set
	lc "github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Directories in the runtime's private file system.
const (
	stateDir = "/run/state" // libcontainer's: state.json and the fifo of each sandbox
	boxDir   = "/run/box"   // ours: where root and sources of each sandbox are attached
)

// A Runtime runs sandboxes. It is safe for concurrent use.
type Runtime struct {
	mu       sync.Mutex
	profiles map[*specs.LinuxSeccomp]*configs.Seccomp // guarded by mu
	cgroups  hierarchy
}

// NewRuntime returns a Runtime. Enter must have been called.
func NewRuntime() (*Runtime, error) {
	for _, d := range []string{stateDir, boxDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("making %s: %w", d, err)
		}
	}
	return &Runtime{profiles: make(map[*specs.LinuxSeccomp]*configs.Seccomp), cgroups: findHierarchy()}, nil
}

// Dir returns the directory of the sandbox id, where its root and sources are attached.
func Dir(id string) string { return filepath.Join(boxDir, id) }

// config converts spec for libcontainer. The filter is converted once for each profile, as that takes longer than all
// the rest.
func (r *Runtime) config(spec *specs.Spec) (*configs.Config, error) {
	filter := spec.Linux.Seccomp
	linux := *spec.Linux
	linux.Seccomp = nil
	plain := *spec
	plain.Linux = &linux
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{Spec: &plain})
	if err != nil {
		return nil, fmt.Errorf("converting the specification: %w", err)
	}
	config.Labels = nil
	if config.Seccomp, err = r.profile(filter); err != nil {
		return nil, fmt.Errorf("converting the seccomp profile: %w", err)
	}
	config.Rlimits, err = rlimits(spec.Process.Rlimits)
	return config, err
}

func (r *Runtime) profile(filter *specs.LinuxSeccomp) (*configs.Seccomp, error) {
	if filter == nil {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.profiles[filter]; ok {
		return p, nil
	}
	p, err := specconv.SetupSeccomp(filter)
	if err != nil {
		return nil, err
	}
	// Profiles that came with one sandbox are not worth keeping: the default ones are few.
	if len(r.profiles) < 64 {
		r.profiles[filter] = p
	}
	return p, nil
}

// isV2 says whether the machine has only the unified cgroup hierarchy.
func isV2() bool { return cgroups.IsCgroup2UnifiedMode() }

// Init is the rest of the re-executed program: it becomes the sandbox's process. It does not return.
func Init() { lc.Init() }
