package filesync

import "context"

type counterKey struct{}

// WithCounter returns a context in which a Tree that has to come over a network reports how many bytes of it have come, as
// messages have them. It is called from one goroutine at a time, for every message, and must not block.
func WithCounter(ctx context.Context, report func(total int64)) context.Context {
	return context.WithValue(ctx, counterKey{}, report)
}

// Counter returns what WithCounter has put into ctx; nil if nobody wants to know.
func Counter(ctx context.Context) func(total int64) {
	f, _ := ctx.Value(counterKey{}).(func(int64))
	return f
}
