package buildkit

import (
	"context"

	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/policy"
)

// policy is what the request says of sources; nil if that is nothing.
func (b *build) policy(ctx context.Context) (worker.SourcePolicy, error) {
	in := b.in
	if in.GetSourcePolicy() == nil && in.GetSourcePolicySession() == "" {
		return nil, nil
	}
	var verifier grpc.ClientConnInterface
	if id := in.GetSourcePolicySession(); id != "" {
		sess, err := b.server.opt.Sessions.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		verifier = sess.Conn()
	}
	return policy.New(in.GetSourcePolicy(), verifier)
}
