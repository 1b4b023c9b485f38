package builder

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/worker"
)

// env is the frontend.Env of one build.
type env struct {
	b   *Builder
	id  string
	req *worker.BuildRequest
	em  *emitter
	// grants are what steps may have that run while the graph is being made.
	grants *frontend.Grants

	mu      sync.Mutex // guards what follows
	dirs    map[string]filesync.Source
	pins    map[solver.Key]*pin
	refs    map[[2]string]*run.GitMeta // by remote and ref
	cleanup []func()
	reads   int
	closed  bool
	// containers are those that have not been closed.
	containers map[*container]bool

	settled settled
}

// close gives back what the build has pinned, after it has ended what still runs.
func (e *env) close() {
	e.mu.Lock()
	e.closed = true
	cleanup, dirs := e.cleanup, e.dirs
	e.cleanup, e.dirs = nil, nil
	left := slices.Collect(maps.Keys(e.containers))
	e.mu.Unlock()
	for _, c := range left {
		_ = c.Close() // that something is not quite gone changes nothing of what was built
	}
	for _, f := range cleanup {
		f()
	}
	for _, d := range dirs {
		d.Close()
	}
}

// atClose has f called by close, or at once if that has been called.
func (e *env) atClose(f func()) {
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.cleanup = append(e.cleanup, f)
	}
	e.mu.Unlock()
	if closed {
		f()
	}
}

// errOver says that a build has ended.
var errOver = errors.New("the build is over")

var (
	_ frontend.Env           = (*env)(nil)
	_ frontend.HeadReader    = (*env)(nil)
	_ frontend.Logger        = (*env)(nil)
	_ frontend.SourceStepper = (*env)(nil)
	_ frontend.Asker         = (*env)(nil)
)

// isCanceled says whether err is the end of a context.
func isCanceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
