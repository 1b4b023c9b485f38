package executor

import (
	"context"
	"fmt"
	"strings"
)

// A Platform is one of the OCI image specification, from whose type it can be converted. It is not that type, as every process
// of a sandbox would pay for what its package does at the start of a program.
type Platform struct {
	Architecture, OS, OSVersion string
	OSFeatures                  []string
	Variant                     string
}

// Emulators know how programs for other platforms than the machine's are executed. They are safe for concurrent use.
type Emulators interface {
	// Emulator returns what has to be in a sandbox so that programs for platform p run there; nil if nothing has to,
	// because the processor or the kernel takes care of it. A *PlatformError says that they do not run.
	Emulator(ctx context.Context, p Platform) (*Emulator, error)
}

// An Emulator is a static program of this machine that executes programs for another one.
type Emulator struct {
	Path string // on this machine
	// Target is where it has to be in the sandbox: the kernel looks for it there, unless Prefix says that it has to be
	// put before the command.
	Target string
	Prefix bool
}

// A PlatformError says that programs for a platform do not run on this machine.
type PlatformError struct {
	Platform string
	// Supported are the platforms of the same architecture that do, if the processor is just too old; else nil.
	Supported []string
	// Arch is what the user has to install an emulator for.
	Arch string
}

// Error says how to get an emulator, where one would help.
func (e *PlatformError) Error() string {
	if e.Supported != nil {
		return fmt.Sprintf("no support for running processes with %s platform, supported: %v", e.Platform, e.Supported)
	}
	if strings.HasPrefix(e.Platform, "windows/") {
		return fmt.Sprintf("programs for %s run on a machine with Windows only, and this one has Linux: build there, or make the "+
			"files in a stage `FROM --platform=$BUILDPLATFORM` and COPY --from it", e.Platform)
	}
	return fmt.Sprintf("this machine has no emulator for %s; get one with %s, and build again", e.Platform, GetEmulator(e.Arch))
}

// GetEmulator says which commands register an emulator for an architecture, which the kernel then holds open.
func GetEmulator(arch string) string {
	return fmt.Sprintf("`apt-get install qemu-user-static`, or with `docker run --privileged --rm tonistiigi/binfmt --install %s`", arch)
}
