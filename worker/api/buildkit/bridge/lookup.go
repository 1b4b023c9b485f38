package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/buildkit/client/buildid"
	pb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"

	"github.com/boxbuild/boxbuild/worker/api/buildkit/failure"
)

// patience is how long a call waits for its build to begin, as BuildKit's do: a client starts both at once.
const patience = 3 * time.Second

// An entry is what is known of a build by its ID.
type entry struct {
	ready chan struct{} // closed when c is set, or the build is over
	c     *conversation // set before ready is closed; nil if there never was one
	mine  bool          // guarded by Bridge.mu; announced, and not only waited for
	b     *Bridge
	shut  bool // guarded by Bridge.mu; ready is closed
	calls int  // guarded by Bridge.mu; how many wait for it
}

// entryForLocked returns the entry of a build, which may be nobody's yet.
func (b *Bridge) entryForLocked(id string) *entry {
	e := b.builds[id]
	if e == nil {
		e = &entry{ready: make(chan struct{}), b: b}
		b.builds[id] = e
	}
	return e
}

// announce makes the entry of a build that is to begin.
func (b *Bridge) announce(id string) (*entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entryForLocked(id)
	if e.mine {
		return nil, fmt.Errorf("the build %s is directed by a client already", id)
	}
	e.mine = true
	return e, nil
}

// open lets calls through to c.
func (e *entry) open(c *conversation) error {
	e.b.mu.Lock()
	defer e.b.mu.Unlock()
	if e.shut {
		return errors.New("the build is over")
	}
	e.c, e.shut = c, true
	close(e.ready)
	return nil
}

// forget removes the entry of a build that is over, or that did not come.
func (b *Bridge) forget(id string, e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.builds[id] == e {
		delete(b.builds, id)
	}
	if !e.shut {
		e.shut = true
		close(e.ready)
	}
}

// lookup returns the conversation that a call is part of, waiting for it if need be.
func (b *Bridge) lookup(ctx context.Context) (*conversation, error) {
	id := buildid.FromIncomingContext(ctx)
	if id == "" {
		return nil, errors.New("no buildid found in context")
	}
	b.mu.Lock()
	e := b.entryForLocked(id)
	e.calls++
	b.mu.Unlock()
	defer b.leave(id, e)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-e.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.c == nil {
		return nil, errdefs.NewUnknownJobError(id)
	}
	return e.c, nil
}

// leave ends a call's waiting. The last one to leave takes the entry of a build along that nobody has begun.
func (b *Bridge) leave(id string, e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.calls--; e.calls == 0 && !e.mine && b.builds[id] == e {
		delete(b.builds, id)
	}
}

// forward has the conversation of a call answer it.
func forward[Q, R any](ctx context.Context, b *Bridge, name string, q Q, answer func(*conversation, context.Context, Q) (R, error)) (R, error) {
	c, err := b.lookup(ctx)
	if err != nil {
		var none R
		return none, failure.Status(fmt.Errorf("forwarding %s: %w", name, err))
	}
	return answer(c, ctx, q)
}

// A service is LLBBridge on the daemon's server: each call is answered by the conversation that it is part of.
type service struct {
	pb.UnimplementedLLBBridgeServer
	*Bridge
}

func (b service) ResolveImageConfig(ctx context.Context, in *pb.ResolveImageConfigRequest) (*pb.ResolveImageConfigResponse, error) {
	return forward(ctx, b.Bridge, "ResolveImageConfig", in, (*conversation).ResolveImageConfig)
}

func (b service) ResolveSourceMeta(ctx context.Context, in *pb.ResolveSourceMetaRequest) (*pb.ResolveSourceMetaResponse, error) {
	return forward(ctx, b.Bridge, "ResolveSourceMeta", in, (*conversation).ResolveSourceMeta)
}

func (b service) Solve(ctx context.Context, in *pb.SolveRequest) (*pb.SolveResponse, error) {
	return forward(ctx, b.Bridge, "Solve", in, (*conversation).Solve)
}

func (b service) ReadFile(ctx context.Context, in *pb.ReadFileRequest) (*pb.ReadFileResponse, error) {
	return forward(ctx, b.Bridge, "ReadFile", in, (*conversation).ReadFile)
}

func (b service) ReadDir(ctx context.Context, in *pb.ReadDirRequest) (*pb.ReadDirResponse, error) {
	return forward(ctx, b.Bridge, "ReadDir", in, (*conversation).ReadDir)
}

func (b service) StatFile(ctx context.Context, in *pb.StatFileRequest) (*pb.StatFileResponse, error) {
	return forward(ctx, b.Bridge, "StatFile", in, (*conversation).StatFile)
}

func (b service) Evaluate(ctx context.Context, in *pb.EvaluateRequest) (*pb.EvaluateResponse, error) {
	return forward(ctx, b.Bridge, "Evaluate", in, (*conversation).Evaluate)
}

func (b service) Ping(ctx context.Context, in *pb.PingRequest) (*pb.PongResponse, error) {
	return forward(ctx, b.Bridge, "Ping", in, (*conversation).Ping)
}

func (b service) Return(ctx context.Context, in *pb.ReturnRequest) (*pb.ReturnResponse, error) {
	return forward(ctx, b.Bridge, "Return", in, (*conversation).Return)
}

func (b service) Inputs(ctx context.Context, in *pb.InputsRequest) (*pb.InputsResponse, error) {
	return forward(ctx, b.Bridge, "Inputs", in, (*conversation).Inputs)
}

func (b service) NewContainer(ctx context.Context, in *pb.NewContainerRequest) (*pb.NewContainerResponse, error) {
	return forward(ctx, b.Bridge, "NewContainer", in, (*conversation).NewContainer)
}

func (b service) ReleaseContainer(ctx context.Context, in *pb.ReleaseContainerRequest) (*pb.ReleaseContainerResponse, error) {
	return forward(ctx, b.Bridge, "ReleaseContainer", in, (*conversation).ReleaseContainer)
}

func (b service) ReadFileContainer(ctx context.Context, in *pb.ReadFileRequest) (*pb.ReadFileResponse, error) {
	return forward(ctx, b.Bridge, "ReadFileContainer", in, (*conversation).ReadFileContainer)
}

func (b service) ReadDirContainer(ctx context.Context, in *pb.ReadDirRequest) (*pb.ReadDirResponse, error) {
	return forward(ctx, b.Bridge, "ReadDirContainer", in, (*conversation).ReadDirContainer)
}

func (b service) StatFileContainer(ctx context.Context, in *pb.StatFileRequest) (*pb.StatFileResponse, error) {
	return forward(ctx, b.Bridge, "StatFileContainer", in, (*conversation).StatFileContainer)
}

func (b service) Warn(ctx context.Context, in *pb.WarnRequest) (*pb.WarnResponse, error) {
	return forward(ctx, b.Bridge, "Warn", in, (*conversation).Warn)
}

func (b service) ExecProcess(s pb.LLBBridge_ExecProcessServer) error {
	c, err := b.lookup(s.Context())
	if err != nil {
		return failure.Status(fmt.Errorf("forwarding ExecProcess: %w", err))
	}
	return c.ExecProcess(s)
}
