package shim

import "github.com/boxbuild/boxbuild/executor"

// Trace returns how long the phases of a start took in the shim, in nanoseconds.
func Trace(b executor.Sandbox) map[string]int64 { return b.(*box).c.trace }
