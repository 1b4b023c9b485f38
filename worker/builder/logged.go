package builder

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/boxbuild/boxbuild/solver"
)

// A logged is the output of a step of which nothing else is to be told: it is shown once there is some.
type logged struct {
	e     *emitter
	v     *solver.Vertex
	began time.Time
	first sync.Once
	told  atomic.Bool
}

// Write shows output of the step to the user.
func (l *logged) Write(b []byte) (int, error) {
	l.first.Do(func() {
		l.told.Store(true)
		l.e.emit(solver.Event{Kind: solver.Declared, Vertex: l.v, Time: l.began})
		l.e.emit(solver.Event{Kind: solver.Started, Vertex: l.v, Time: l.began})
	})
	l.e.emit(solver.Event{Kind: solver.Logged, Vertex: l.v, Stream: solver.Stderr, Data: slices.Clone(b)})
	return len(b), nil
}
