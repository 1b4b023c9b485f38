package builder

import (
	"context"
	"time"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/run"
)

// transferEvery is how often the progress of a transfer is told.
const transferEvery = 100 * time.Millisecond

// counting returns a context in which the transfer of a client's directory is told as a part of the step that needs it, and
// what tells its end.
func counting(ctx context.Context, name string) (context.Context, func()) {
	tell := run.StatusOf(ctx)
	if tell == nil {
		return ctx, func() {}
	}
	st := solver.Status{ID: "transferring " + name + ":", Started: time.Now()}
	var told time.Time
	ctx = filesync.WithCounter(ctx, func(total int64) {
		st.Current = total
		if now := time.Now(); now.Sub(told) >= transferEvery {
			told = now
			tell(st)
		}
	})
	return ctx, func() {
		if st.Current > 0 {
			st.Ended = time.Now()
			tell(st)
		}
	}
}
