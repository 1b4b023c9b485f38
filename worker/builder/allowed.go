package builder

import (
	"context"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

var _ frontend.Ruler = (*env)(nil)

// A checking context is one in which a policy looks at a source, to which it does not apply itself.
type checking struct{}

// Allowed implements frontend.Ruler.
func (e *env) Allowed(ctx context.Context, src op.Source) (op.Source, error) {
	if ctx.Value(checking{}) != nil {
		return src, nil
	}
	p, err := worker.PolicyOf(ctx, e.req.Policy)
	if p == nil || err != nil {
		return src, err
	}
	return p.Apply(context.WithValue(ctx, checking{}, true), src, e)
}
