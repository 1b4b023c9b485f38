// Package engine serves the Docker Engine API (version 1.56, and what older clients expect of older versions) over
// HTTP/1.1, so that the docker command line, compose and the libraries for docker work with the daemon as they are.
//
// It is a thin adapter: every endpoint reads its request (query.go, body.go), calls one of the interfaces of package
// worker, and writes what these return, which is of the API's own types. What differs between versions of the API is
// decided here and nowhere else. route.go has all paths; a file each has the endpoints of a kind of objects.
//
// # Life cycle
//
// A Server is made once and serves until Close, which ends the requests under way (streams of logs and events last as long
// as their clients like) and the connections that were taken over for attaching, and waits for them.
//
// # What is trusted
//
// Whoever may connect may do anything, as with docker: Options.Authorize says who may. What comes over a connection is
// read within bounds, except where it is a stream by nature, and a panic ends one request.
//
// Server.mu and hangups.mu are leaves, and nothing is called while they are held.
package engine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/moby/api/types/system"

	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// Options are what a Server stands on. Images, Builder and Events must be set.
type Options struct {
	Images  worker.Images
	Builder worker.Builder
	Events  worker.Events
	// Containers, Volumes and Networks are nil on a daemon that runs no containers; what needs them is refused there.
	Containers worker.Containers
	Volumes    worker.Volumes
	Networks   worker.Networks

	Platform op.Platform // the machine's own
	// MinVersion is the oldest version of the API that clients may speak, "1.24" if empty.
	MinVersion string
	// ID is the daemon's own; it survives restarts.
	ID string
	// Version and Commit are the daemon's, BuildTime is when it was made, in RFC 3339; Components are named beside it.
	Version, Commit, BuildTime string
	Components                 []system.ComponentVersion
	// Info is what docker info shows of the daemon and its machine; the Server sets what it counts. It may be nil.
	Info func(ctx context.Context) *system.Info
	// FreeSpace is how many bytes are free where the store is; nil if nobody knows.
	FreeSpace func() (int64, error)

	// Login checks credentials with a registry and returns an identity token, if it gives one; nil if it cannot be done.
	Login func(ctx context.Context, registry string, auth authn.AuthConfig) (string, error)
	// Registry answers what images in registries are; nil if it cannot be done. Search searches a registry.
	Registry *registry.Client
	Search   func(ctx context.Context, host, term string, limit int) ([]registry.Found, error)

	// Decompress opens an archive that may be compressed; nil if none may.
	Decompress func(r io.Reader) (io.ReadCloser, error)

	// Sessions are those of BuildKit's clients, which open them at /session. Solve is a build in their words, and Watch
	// reports a build's events; without them a build that needs a session is refused.
	Sessions *bksession.Manager
	Solve    func(ctx context.Context, in *controlapi.SolveRequest) (*controlapi.SolveResponse, error)
	Watch    func(ctx context.Context, id string, wait time.Duration, fn func(solver.Event) error) error
	// GRPC serves a connection that speaks HTTP/2 from now on; first is what has been read from it. It may be nil.
	GRPC func(conn net.Conn, first []byte)

	// HostInfo counts an answer to what the daemon is and runs on, which took so long: system_info or system_version. It does
	// not block, and may be nil.
	HostInfo func(function string, took time.Duration)

	// Authorize refuses a request with an error; nil lets all in.
	Authorize func(r *http.Request) error
	Log       *slog.Logger // none if nil
}

// A Server serves the API. It is safe for concurrent use.
type Server struct {
	opt     Options
	min     version
	builds  running // builds that may be cancelled by their ID
	hangups hangups

	mu     sync.Mutex // guards what follows
	closed bool
	calls  map[*context.CancelCauseFunc]struct{}
	conns  map[io.Closer]struct{} // taken over from HTTP
	empty  *sync.Cond             // calls has become empty
}

// errClosing is why requests end that were under way.
var errClosing = errors.New("the daemon is going down")

// New returns a Server.
func New(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Info == nil {
		opt.Info = func(context.Context) *system.Info { return &system.Info{} }
	}
	s := &Server{
		opt: opt, min: version{1, 24},
		calls: map[*context.CancelCauseFunc]struct{}{}, conns: map[io.Closer]struct{}{},
	}
	if v, ok := parseVersion(opt.MinVersion); ok {
		s.min = v
	}
	s.empty = sync.NewCond(&s.mu)
	return s
}

// begin counts a request until end is called. It returns false once the Server is closed.
func (s *Server) begin(ctx context.Context) (_ context.Context, end func(), ok bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel(errClosing)
		return ctx, func() {}, false
	}
	s.calls[&cancel] = struct{}{}
	return ctx, func() {
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.calls, &cancel)
		if len(s.calls) == 0 {
			s.empty.Broadcast()
		}
	}, true
}

// own has a connection closed by Close; the caller disowns it when it has closed it itself.
func (s *Server) own(c io.Closer) (disown func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close() // who uses it finds out
		return func() {}
	}
	s.conns[c] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}
}

// Close ends all requests and waits until they have.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for cancel := range s.calls {
		(*cancel)(errClosing)
	}
	for c := range s.conns {
		_ = c.Close() // who uses it finds out
	}
	for len(s.calls) > 0 {
		s.empty.Wait()
	}
	s.mu.Unlock()
	s.hangups.close()
}

// Busy returns how many requests are under way.
func (s *Server) Busy() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}
