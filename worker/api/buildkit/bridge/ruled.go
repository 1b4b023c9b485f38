package bridge

import (
	"context"
	"slices"

	pb "github.com/moby/buildkit/frontend/gateway/pb"
	opspb "github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/policy"
)

// ruled returns a context in which sources are subject to the policies of a call, too.
func ruled(ctx context.Context, added []*spb.Policy, order policy.Order) context.Context {
	if len(added) == 0 {
		return ctx
	}
	added = slices.Clone(added)
	return worker.WithPolicy(ctx, func(own worker.SourcePolicy) (worker.SourcePolicy, error) {
		return policy.Merge(own, added, order)
	})
}

// allowed returns what the policies make of the source of a question, as it is and as it is told; what is done in the context
// that it returns is not subject to them once more.
func (c *conversation) allowed(
	ctx context.Context, in *pb.ResolveSourceMetaRequest, src op.Source,
) (context.Context, op.Source, *opspb.SourceOp, error) {
	is := src
	if r, ok := c.env.(frontend.Ruler); ok {
		var err error
		if is, err = r.Allowed(ruled(ctx, in.GetSourcePolicies(), policy.AddedFirst), src); err != nil {
			return nil, nil, nil, err
		}
		ctx = worker.WithPolicy(ctx, func(worker.SourcePolicy) (worker.SourcePolicy, error) { return nil, nil })
	}
	told, err := policy.Written(is)
	if err != nil {
		return nil, nil, nil, err
	}
	if is == src { // as it was asked about, by its full name
		told = &opspb.SourceOp{Identifier: told.GetIdentifier(), Attrs: in.GetSource().GetAttrs()}
	}
	return ctx, is, told, nil
}
