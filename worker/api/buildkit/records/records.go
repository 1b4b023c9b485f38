// Package records serves what BuildKit's API says of builds of the past: ListenBuildHistory and UpdateBuildHistory of its
// Control service, containerd's content service, from which clients read what records refer to, and OpenTelemetry's trace
// service, to which clients send their part of a build's trace.
//
// A record of package history becomes one of BuildKit's, with its log, its trace and its error as blobs. These are made when
// somebody asks for the record of a build that has ended, and then kept with it; a build that nobody asks for costs nothing.
//
// The content service only reads. It has the blobs of the daemon's store and, beside them, those of the history, which are
// found by their digests as the others are.
//
// Life cycle: New, Register, serve. Calls end with their clients, and with the history. Lock order: Server.mu is a leaf.
package records

import (
	"context"
	"log/slog"
	"sync"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	controlapi "github.com/moby/buildkit/api/services/control"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/worker/history"
)

// Options are what a Server needs.
type Options struct {
	History *history.Store
	Blobs   *blob.Store
	Log     *slog.Logger // slog.Default() if nil
}

// A Server implements the calls. It is safe for concurrent use.
type Server struct {
	opt   Options
	turns chan struct{} // has a token while somebody makes blobs of a record

	mu     sync.Mutex // guards what follows
	strays []stray    // spans that are not in all records of their traces yet, the oldest first
	bytes  int        // of them
}

// New returns a Server.
func New(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	return &Server{opt: opt, turns: make(chan struct{}, 1)}
}

// Register adds the content and the trace service to g. The calls of Control are its server's to pass on.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	contentapi.RegisterContentServer(g, &contentServer{s: s})
	tracev1.RegisterTraceServiceServer(g, &traceServer{s: s})
}

// UpdateBuildHistory implements the service.
func (s *Server) UpdateBuildHistory(
	ctx context.Context, req *controlapi.UpdateBuildHistoryRequest,
) (*controlapi.UpdateBuildHistoryResponse, error) {
	var err error
	switch id := req.GetRef(); {
	case req.GetDelete():
		err = s.opt.History.Remove(id)
	case req.GetFinalize():
		err = s.finalize(ctx, id)
	default:
		err = s.opt.History.Pin(id, req.GetPinned())
	}
	if err != nil {
		return nil, wire(err)
	}
	return &controlapi.UpdateBuildHistoryResponse{}, nil
}
