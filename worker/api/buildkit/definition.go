package buildkit

import (
	"context"

	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/worker"
)

// definition is the frontend for a graph that the client has made.
func (b *build) definition(def *pb.Definition) (frontend.Frontend, error) {
	return nil, &frontend.UsageError{Message: "definitions are not built"}
}

// policy is what the request says of sources.
func (b *build) policy(context.Context) (worker.SourcePolicy, error) { return nil, nil }
