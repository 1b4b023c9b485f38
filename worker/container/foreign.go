package container

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/platforms"

	"github.com/boxbuild/boxbuild/executor"
)

// execFailed is the exit code of a container whose command the kernel did not execute, after everything else was done.
const execFailed = 255

// foreign says why programs of the container's image are not executed here, and what to do; "" if they are. The kernel
// reports an emulator that it does not find as it does a program that is missing.
func (m *Manager) foreign(ctx context.Context, rec *record) string {
	if m.deps.Emulators == nil || platforms.Only(m.deps.Platform).Match(rec.Platform) {
		return ""
	}
	em, err := m.deps.Emulators.Emulator(ctx, executor.Platform(rec.Platform))
	var platform *executor.PlatformError
	name := platforms.Format(rec.Platform)
	switch {
	case errors.As(err, &platform) && platform.Supported == nil && rec.Platform.OS == m.deps.Platform.OS:
		return fmt.Sprintf("this machine has no emulator for %s; get one with %s, and start the container again", name,
			executor.GetEmulator(platform.Arch))
	case platform != nil:
		return platform.Error()
	case em == nil:
		return ""
	case em.Prefix:
		return fmt.Sprintf("the emulator for %s, %s, serves builds only; get one for containers with %s", name, em.Path,
			executor.GetEmulator(rec.Platform.Architecture))
	case slices.ContainsFunc(rec.Mounts, func(p mountPoint) bool { return p.Target == em.Target }):
		return ""
	}
	return fmt.Sprintf("the kernel's handler for %s looks for its emulator, %s, in the container: have it held open (flag F of "+
		"binfmt_misc) with %s, or run with `-v %s:%s:ro`", name, em.Path, executor.GetEmulator(rec.Platform.Architecture), em.Path, em.Target)
}
