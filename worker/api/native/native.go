// Package native serves our own protocol, proto/boxbuild/v1. It is a thin adapter: a call becomes a method of
// worker.Builder or worker.Images, and what that reports becomes messages.
//
// A build lives as long as its stream: when the client goes, the build is cancelled. Its events pass through an outbox,
// which takes them at once, so that a slow client holds up neither the solver nor other builds that share its steps; a
// client that stops reading altogether loses its build. A detached build goes on without its client; Watch tells of it, and of
// any other build, from the history.
//
// What the daemon may do on a client's behalf with its own rights (read the client's directories, write to them) it
// does only for a peer on a local socket whose user is the daemon's own or root, and only if both see the same
// directory there. Everything else goes over channels, where the client uses its own rights.
//
// Life cycle: New, Register, serve; Refuse refuses what is new, Drain also cancels what runs; Wait returns when nothing
// runs.
// Lock order: Server.mu is a leaf, as are those of asker, outbox and channels.
package native

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/history"
)

// Options are what a Server needs.
type Options struct {
	Builder worker.Builder
	Images  worker.Images
	// Platform is the daemon's own, for requests that name none.
	Platform op.Platform
	// Platforms returns those whose programs run here, the daemon's own first; nil if that is the only one.
	Platforms func(ctx context.Context) []op.Platform
	// About is what Info answers, but for what changes while the daemon runs. It may be nil.
	About *boxbuildv1.InfoResponse
	// OpenDirectory opens a directory of this machine for a client that may have it read.
	OpenDirectory func(path string) (filesync.Source, error)
	// ReceiveDirectory returns the directory of a client's that is at the other end of stream, which ends with the
	// build. It is nil if the daemon cannot: then only directories that it may read itself can be built from.
	ReceiveDirectory func(ctx context.Context, stream filesync.Stream) (filesync.Source, error)
	// Login asks registry whether it takes auth, and returns the identity token that it gave, if any. It may be nil.
	Login func(ctx context.Context, registry string, auth authn.AuthConfig) (identityToken string, err error)
	// History has the builds, those of the past too; nil if nobody records them.
	History *history.Store
	Log     *slog.Logger // slog.Default() if nil
}

// ErrDraining is the cause with which builds of a daemon that goes down are cancelled.
var ErrDraining = worker.ErrDraining

// A Server implements the services. It is safe for concurrent use.
type Server struct {
	boxbuildv1.UnimplementedBuildsServer
	boxbuildv1.UnimplementedImagesServer
	boxbuildv1.UnimplementedSystemServer

	opt      Options
	channels channels

	mu        sync.Mutex // guards all below
	draining  bool       // nothing is begun any more
	cancelled bool       // and what runs has been cancelled
	calls     int
	builds    map[string]struct{}
	cancels   map[*context.CancelCauseFunc]struct{}
	idle      chan struct{} // closed once draining and calls is 0
	late      chan struct{} // closed lastWords after Drain
	last      time.Time     // when calls became 0
}

// New returns a Server.
func New(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	return &Server{
		opt:     opt,
		builds:  map[string]struct{}{},
		cancels: map[*context.CancelCauseFunc]struct{}{},
		idle:    make(chan struct{}),
		late:    make(chan struct{}),
		last:    time.Now(),
	}
}

// Register adds the services to g, which should have been made with GRPCOptions.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	boxbuildv1.RegisterBuildsServer(g, s)
	boxbuildv1.RegisterImagesServer(g, s)
	boxbuildv1.RegisterSystemServer(g, s)
}

// lastWords is how long a call may take after Drain until it is ended whatever its client does.
const lastWords = time.Second

// begin counts a call in. It returns the call's context, which Drain cancels, and what counts it out.
func (s *Server) begin(parent context.Context) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(parent)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		cancel(ErrDraining)
		return nil, nil, failure(boxbuildv1.ErrorKind_ERROR_KIND_UNAVAILABLE, "%v", ErrDraining)
	}
	s.calls++
	s.cancels[&cancel] = struct{}{}
	return ctx, func() {
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.cancels, &cancel)
		s.calls--
		if s.calls == 0 {
			s.last = time.Now()
			if s.draining {
				close(s.idle)
			}
		}
	}, nil
}

// Refuse refuses calls from now on; those that run go on, and Wait waits for them. It may be called more than once.
func (s *Server) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseLocked()
}

func (s *Server) refuseLocked() {
	if !s.draining && s.calls == 0 {
		close(s.idle)
	}
	s.draining = true
}

// Drain refuses calls from now on and cancels those that run. It may be called more than once.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseLocked()
	if s.cancelled {
		return
	}
	s.cancelled = true
	time.AfterFunc(lastWords, func() { close(s.late) })
	for cancel := range s.cancels {
		(*cancel)(ErrDraining)
	}
}

// perform counts a call in and does its work. What work sends or receives waits for the client, who may do nothing for
// ever, and only the end of the call ends that: so a call that goes on for lastWords after Drain is returned from. It
// counts until work returns.
func (s *Server) perform(parent context.Context, method string, work func(ctx context.Context) error) error {
	ctx, end, err := s.begin(parent)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }()
		defer end()
		defer recovered(s.opt.Log, method, &err)
		if err = work(ctx); err != nil && errors.Is(context.Cause(ctx), ErrDraining) {
			err = ErrDraining
		}
	}()
	select {
	case err := <-done:
		return err
	case <-s.late:
		return ErrDraining
	}
}

// Wait returns once a draining server has no call left, or ctx is done.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Idle returns since when no call has been running; false if one is.
func (s *Server) Idle() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.calls == 0
}

// claim takes a build's id; false if it is taken.
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

// running returns how many builds run.
func (s *Server) running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.builds)
}

// Ping implements the service.
func (s *Server) Ping(context.Context, *boxbuildv1.PingRequest) (*boxbuildv1.PingResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancelled { // while builds finish, whoever follows them is answered
		return nil, failure(boxbuildv1.ErrorKind_ERROR_KIND_UNAVAILABLE, "%v", ErrDraining)
	}
	return &boxbuildv1.PingResponse{Version: s.opt.About.GetVersion()}, nil
}

// Info implements the service.
func (s *Server) Info(ctx context.Context, _ *boxbuildv1.InfoRequest) (*boxbuildv1.InfoResponse, error) {
	info := &boxbuildv1.InfoResponse{}
	if s.opt.About != nil {
		info = proto.CloneOf(s.opt.About)
	}
	info.Builds = int32(s.running())
	info.Time, info.Goroutines = timestamppb.Now(), int32(runtime.NumGoroutine())
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		info.Files = int32(len(fds))
	}
	info.Platforms = []*boxbuildv1.Platform{wirePlatform(s.opt.Platform)}
	if s.opt.Platforms != nil {
		info.Platforms = nil
		for _, p := range s.opt.Platforms(ctx) {
			info.Platforms = append(info.Platforms, wirePlatform(p))
		}
	}
	list, err := s.opt.Images.List(ctx)
	if err != nil {
		info.Warnings = append(info.Warnings, "listing images: "+err.Error())
	}
	info.Images = int32(len(list))
	return info, nil
}
