package main

import (
	"runtime/debug"
	"time"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// restAfter is how long nothing has run when the daemon gives memory back.
const restAfter = 5 * time.Second

// limitMemory sets when the garbage collector works harder, unless GOMEMLIMIT has.
func limitMemory(limit int64, env config.Env) {
	if limit > 0 && env.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// rest gives the memory of past builds back to the machine once the daemon is at rest: a heap that grew during a build
// would otherwise stay for minutes.
type rest struct{ done time.Time }

// tick is called now and then.
func (r *rest) tick(now, since time.Time, quiet bool) {
	if quiet && now.Sub(since) >= restAfter && r.done != since {
		r.done = since
		debug.FreeOSMemory()
	}
}
