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

// counting returns a context in which a transfer from or to the client is told as a part of the step that needs it, called
// id, and what tells its end. Of one that moves no bytes nothing is told.
func counting(ctx context.Context, id string) (context.Context, func()) {
	tell := run.StatusOf(ctx)
	if tell == nil {
		return ctx, func() {}
	}
	st := solver.Status{ID: id, Started: time.Now()}
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
