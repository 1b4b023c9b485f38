package worker

import "context"

type policyKey struct{}

// WithPolicy returns a context in which the sources of a build are subject to what change makes of the build's own policy.
// Either may be nil, which allows all.
func WithPolicy(ctx context.Context, change func(own SourcePolicy) (SourcePolicy, error)) context.Context {
	return context.WithValue(ctx, policyKey{}, change)
}

// PolicyOf returns the policy that counts in ctx for a build with that policy of its own.
func PolicyOf(ctx context.Context, own SourcePolicy) (SourcePolicy, error) {
	change, ok := ctx.Value(policyKey{}).(func(SourcePolicy) (SourcePolicy, error))
	if !ok {
		return own, nil
	}
	return change(own)
}
