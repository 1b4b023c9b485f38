package sandbox

import (
	"fmt"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

// filters remembers the default profile for each set of capabilities, which is all that it depends on. The profiles are
// shared and never changed; that the pointer is the same lets the runtime remember its own form of them.
var filters sync.Map // string -> *specs.LinuxSeccomp

// filter returns the system call filter of spec, whose capabilities out holds already.
func filter(spec *executor.Spec, out *specs.Spec) (*specs.LinuxSeccomp, error) {
	if spec.Seccomp.Unconfined {
		return nil, nil
	}
	if spec.Seccomp.Profile != nil {
		f, err := seccomp.LoadProfile(string(spec.Seccomp.Profile), out)
		if err != nil {
			return nil, fmt.Errorf("reading the seccomp profile: %w", err)
		}
		return f, nil
	}
	key := strings.Join(out.Process.Capabilities.Bounding, ",")
	if f, ok := filters.Load(key); ok {
		return f.(*specs.LinuxSeccomp), nil
	}
	f, err := seccomp.GetDefaultProfile(out)
	if err != nil {
		return nil, fmt.Errorf("making the default seccomp profile: %w", err)
	}
	shared, _ := filters.LoadOrStore(key, f)
	return shared.(*specs.LinuxSeccomp), nil
}
