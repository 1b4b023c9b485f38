// Package buildkit serves BuildKit's API, moby.buildkit.v1.Control, so that its clients (buildctl, docker buildx, the Go
// package) work unmodified. It is a thin adapter: a request for a build, whoever directs it, becomes one call of
// worker.Builder with another frontend, and events become the messages of the Status call.
//
// The client's side of a build (its directories, files that are sent to it, secrets, agents, registry credentials) is a
// session that the client opens with the Session call, on the same connection or another; a build names it by ID.
//
// A build lives as long as its Solve call and its session: when either ends it is cancelled, and Solve returns once
// everything that it had started has ended. Who listens to its Status does not matter to it.
//
// What a request asks for and this service does not do yet (caches to export and import, attestations) is said in a
// warning of the build, which clients print; it is never silently left out.
//
// Life cycle: New, Register, serve. Calls end with their clients; builds also when the Builder refuses or cancels them.
// Lock order: Server.mu is a leaf.
package buildkit

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/failure"
)

// Options are what a Server needs.
type Options struct {
	Builder  worker.Builder
	Images   worker.Images
	Sessions *bksession.Manager
	// Watch calls fn with the events of the build of that ID, from its first to its last, waiting at most wait for the
	// build to begin, and returns nil at its end. An unknown build is an error of fs.ErrNotExist or worker.ErrNotFound.
	Watch func(ctx context.Context, id string, wait time.Duration, fn func(solver.Event) error) error
	// Platform is the daemon's own; Platforms are those whose programs run here, it first. The latter may be nil.
	Platform  op.Platform
	Platforms func(ctx context.Context) []op.Platform
	// Entitlements are those that the daemon's configuration allows.
	Entitlements []string
	// Worker describes the daemon to those who ask for its workers.
	Worker Worker
	// Gateway returns the frontend that runs an image, by what the request says of it; nil if there is none.
	Gateway func(attrs map[string]string, inputs map[string]*pb.Definition) (frontend.Frontend, error)
	// Direct returns the frontend of a build that its client directs itself, and what is called after the build. It is
	// called before the build begins. returned, which may be nil, is called with the metadata of the result and the IDs by which
	// the client knows its trees, and can look at them until it is back. It is nil if there is none.
	Direct func(id string, inputs map[string]*pb.Definition, returned func(ctx context.Context, metadata map[string][]byte, refs []string),
	) (frontend.Frontend, func(), error)
	// FreeSpace returns how many bytes are free where the cache is.
	FreeSpace func() (int64, error)
	// Inputs returns the frontend for Dockerfiles with trees that the client has made, as definitions.
	Inputs func(inputs map[string]*pb.Definition) frontend.Frontend
	// History serves the calls about builds of the past; nil if there is no history.
	History History
	Log     *slog.Logger // slog.Default() if nil
}

// A History serves the calls of Control that are about builds of the past.
type History interface {
	ListenBuildHistory(*controlapi.BuildHistoryRequest, controlapi.Control_ListenBuildHistoryServer) error
	UpdateBuildHistory(context.Context, *controlapi.UpdateBuildHistoryRequest) (*controlapi.UpdateBuildHistoryResponse, error)
}

// A Server implements moby.buildkit.v1.Control. It is safe for concurrent use.
type Server struct {
	opt Options

	mu     sync.Mutex          // guards builds
	builds map[string]struct{} // IDs of those that run
}

var _ controlapi.ControlServer = (*Server)(nil)

// New returns a Server.
func New(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	return &Server{opt: opt, builds: map[string]struct{}{}}
}

// Register adds the service to g.
func (s *Server) Register(g grpc.ServiceRegistrar) { controlapi.RegisterControlServer(g, s) }

// claim takes a build's ID; false if it is taken.
func (s *Server) claim(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.builds[id]; taken {
		return false
	}
	s.builds[id] = struct{}{}
	return true
}

func (s *Server) unclaim(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.builds, id)
}

// perform does the work of a call and makes its error one for BuildKit's clients. A panic is the error of this call.
func (s *Server) perform(ctx context.Context, method string, work func(ctx context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.opt.Log.Error("handler panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, fmt.Sprintf("internal error in %s: %v", method, r))
		}
	}()
	return failure.Status(work(ctx))
}

// ListenBuildHistory implements the service.
func (s *Server) ListenBuildHistory(req *controlapi.BuildHistoryRequest, stream controlapi.Control_ListenBuildHistoryServer) error {
	if s.opt.History == nil {
		return status.Error(codes.Unimplemented, "this daemon keeps no history")
	}
	return s.opt.History.ListenBuildHistory(req, stream)
}

// UpdateBuildHistory implements the service.
func (s *Server) UpdateBuildHistory(
	ctx context.Context, req *controlapi.UpdateBuildHistoryRequest,
) (*controlapi.UpdateBuildHistoryResponse, error) {
	if s.opt.History == nil {
		return nil, status.Error(codes.Unimplemented, "this daemon keeps no history")
	}
	return s.opt.History.UpdateBuildHistory(ctx, req)
}
