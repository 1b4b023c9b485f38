// Package bridge serves moby.buildkit.v1.frontend.LLBBridge, by which somebody else than the daemon directs a build: a
// client (client.Build of BuildKit's Go package, docker buildx), or a frontend that is a program in an image (gateway.v0,
// and "# syntax=" of a Dockerfile).
//
// A conversation is one side of such a build. It has graphs solved and frontends run, looks at files, runs processes
// beside the graph, and ends with Return. To the builder it is a frontend.Frontend: Translate lasts as long as the
// conversation, and what Return gave is its output. So everything else about the build (its client's session, progress,
// outputs, cancellation, the lease that keeps what it has seen) is as for every other build.
//
// A client's calls come in on the daemon's own server, with the ID of the build among their metadata; a program's come
// from its standard output.
//
// Whatever a conversation holds is the build's, and is given back when Translate returns: containers are closed, and calls
// that are under way are cancelled and waited for. A call is the caller's as well: when that leaves, it is cancelled.
//
// Lock order: Bridge.mu is a leaf; a conversation's mu comes before that of the one that has asked for it. No call is made while
// one is held.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/distribution/reference"
	apitypes "github.com/moby/buildkit/api/types"
	pb "github.com/moby/buildkit/frontend/gateway/pb"
	opspb "github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// Options are what a Bridge needs.
type Options struct {
	// Dockerfile is the frontend dockerfile.v0.
	Dockerfile frontend.Frontend
	// Platform is the daemon's own.
	Platform op.Platform
	// Workers describe the daemon to those who ask. It may be nil.
	Workers func(ctx context.Context) []*apitypes.WorkerRecord
	// AllowedRepositories are those that frontends may come from, without tags; none for any.
	AllowedRepositories []string
	// NoImages refuses frontends in images altogether.
	NoImages bool
	// MaxDepth is how many frontends may ask one another for a result; 0 for 16.
	MaxDepth int
	Log      *slog.Logger // slog.Default() if nil
}

// defaultDepth is how deep frontends may be nested. A Dockerfile whose frontend reads a Dockerfile has a depth of 2.
const defaultDepth = 16

// A Bridge has the conversations of all builds of a daemon. It is safe for concurrent use.
type Bridge struct {
	opt     Options
	allowed map[string]bool

	mu     sync.Mutex
	builds map[string]*entry // guarded by mu
}

// New returns a Bridge, or says what is wrong with the options.
func New(opt Options) (*Bridge, error) {
	if opt.Dockerfile == nil {
		return nil, errors.New("bridge: no frontend for Dockerfiles")
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if opt.MaxDepth <= 0 {
		opt.MaxDepth = defaultDepth
	}
	b := &Bridge{opt: opt, allowed: make(map[string]bool), builds: make(map[string]*entry)}
	for _, r := range opt.AllowedRepositories {
		named, err := reference.ParseNormalizedNamed(r)
		if err != nil {
			return nil, fmt.Errorf("bridge: repository %q: %w", r, err)
		}
		b.allowed[reference.TrimNamed(named).Name()] = true
	}
	return b, nil
}

// Register adds the service to g.
func (b *Bridge) Register(g grpc.ServiceRegistrar) { pb.RegisterLLBBridgeServer(g, service{Bridge: b}) }

// Direct returns the frontend of a build that its client directs, under the ID that the client's calls bring along. The
// calls are waited for from now on. done ends that, and is to be called when the build is over. returned, which may be nil, is
// told the metadata of the result and the IDs of its refs, which the client may look at until it is back.
func (b *Bridge) Direct(id string, inputs map[string]*opspb.Definition, returned func(ctx context.Context, metadata map[string][]byte, refs []string),
) (use frontend.Frontend, done func(), err error) {
	if id == "" {
		return nil, nil, &frontend.UsageError{Message: "a build that its client directs needs an ID"}
	}
	e, err := b.announce(id)
	if err != nil {
		return nil, nil, err
	}
	return &direct{b: b, entry: e, inputs: inputs, returned: returned}, func() { b.forget(id, e) }, nil
}

// A direct is the frontend of a build that its client directs.
type direct struct {
	b        *Bridge
	entry    *entry
	inputs   map[string]*opspb.Definition
	returned func(ctx context.Context, metadata map[string][]byte, refs []string) // may be nil
}

// Translate implements frontend.Frontend: it lasts until the client has returned a result, or ctx ends.
func (d *direct) Translate(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Output, error) {
	c := d.b.converse(ctx, req, env)
	c.inputs = d.inputs
	defer c.end()
	if err := d.entry.open(c); err != nil {
		return nil, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	out, err := c.output()
	if err == nil && d.returned != nil {
		ids := refIDs(c.result) // nobody writes it any more
		slices.Sort(ids)
		d.returned(ctx, c.result.GetMetadata(), ids)
	}
	return out, err
}

// depthKey is the key of how deep in frontends a context is.
type depthKey struct{}

// deeper returns the context for a frontend that another one asks for, or an error if there are too many.
func (b *Bridge) deeper(ctx context.Context) (context.Context, error) {
	depth, _ := ctx.Value(depthKey{}).(int)
	if depth++; depth > b.opt.MaxDepth {
		return nil, &frontend.UsageError{Message: fmt.Sprintf("more than %d frontends ask one another for a result", b.opt.MaxDepth)}
	}
	return context.WithValue(ctx, depthKey{}, depth), nil
}
