package registry

import (
	"context"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Trace tells its owner how transfers get on. Its functions may be nil, may be called from several goroutines at once,
// and must not block.
type Trace struct {
	// Bytes is called as a blob's bytes come in or go out. done can go back when a transfer has to begin again.
	Bytes func(blob v1.Hash, done, total int64)
	// Retry is called before something is tried again: what failed, how often it has failed now, and how long the client
	// waits.
	Retry func(err error, failures int, wait time.Duration)
	// Mounted is called when a registry took a blob from another repository of its own.
	Mounted func(blob v1.Hash, from Repo)
}

type traceKey struct{}

// WithTrace returns a context whose calls report to t, and also to the trace that ctx has already.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	outer := traceOf(ctx)
	if outer == &noTrace {
		return context.WithValue(ctx, traceKey{}, t)
	}
	return context.WithValue(ctx, traceKey{}, &Trace{
		Bytes: func(blob v1.Hash, done, total int64) {
			t.bytes(blob, done, total)
			outer.bytes(blob, done, total)
		},
		Retry: func(err error, failures int, wait time.Duration) {
			t.retry(err, failures, wait)
			outer.retry(err, failures, wait)
		},
		Mounted: func(blob v1.Hash, from Repo) {
			t.mounted(blob, from)
			outer.mounted(blob, from)
		},
	})
}

var noTrace Trace

func traceOf(ctx context.Context) *Trace {
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok && t != nil {
		return t
	}
	return &noTrace
}

func (t *Trace) bytes(blob v1.Hash, done, total int64) {
	if t.Bytes != nil {
		t.Bytes(blob, done, total)
	}
}

func (t *Trace) retry(err error, failures int, wait time.Duration) {
	if t.Retry != nil {
		t.Retry(err, failures, wait)
	}
}

func (t *Trace) mounted(blob v1.Hash, from Repo) {
	if t.Mounted != nil {
		t.Mounted(blob, from)
	}
}
