package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/reflection"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/executor/cdi"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/engine"
	"github.com/boxbuild/boxbuild/worker/api/native"
	"github.com/boxbuild/boxbuild/worker/history"
	"github.com/boxbuild/boxbuild/worker/telemetry"
)

const (
	// stopTimeout is how long all may take once the builds have finished, or are not waited for any more.
	stopTimeout = 9 * time.Second
	// cancelTimeout is how much of that the calls under way have to end.
	cancelTimeout = 5 * time.Second
	// lastWords is how long clients may take to hear that their calls have ended.
	lastWords = time.Second
)

// A daemon is what newWorker makes: all that the services stand on.
type daemon struct {
	Builder worker.Builder
	Images  worker.Images
	// History has the builds of Builder, those of the past too; it may be nil.
	History *history.Store
	// Gate is what all services have for a builder; one on Builder if nil.
	Gate     *gate
	Platform op.Platform // the machine's own
	// Platforms, OpenDirectory, ReceiveDirectory and Login are as in native.Options.
	Platforms        func(ctx context.Context) []op.Platform
	OpenDirectory    func(path string) (filesync.Source, error)
	ReceiveDirectory func(ctx context.Context, stream filesync.Stream) (filesync.Source, error)
	Login            func(ctx context.Context, registry string, auth authn.AuthConfig) (string, error)
	// Engine is what the Docker API stands on beside Builder and Images; the server fills in what it knows itself.
	Engine engine.Options
	// Devices are shown by docker info; nil if there are none.
	Devices *cdi.Devices
	// Busy says that containers run, with which an idle daemon stays; it may be nil.
	Busy func() bool
	// Telemetry is told of builds by Builder already; nil if nothing is.
	Telemetry *telemetry.Telemetry
	// Counters are of what containers and images do; nil if nobody counts.
	Counters *telemetry.Engine
	// Register adds more services to the socket's gRPC server; it may be nil.
	Register func(grpc.ServiceRegistrar)
	// About is added to what Info answers; it may be nil.
	About *boxbuildv1.InfoResponse
	// Close ends everything. No call is under way then.
	Close func() error
}

// serve runs the daemon until it is told to stop, or has been idle for long enough.
func serve(cfg *config.Daemon, p process, lock *rootLock, log *slog.Logger) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
	// What a daemon needs to know of its worker it knows before anybody can connect.
	d, err := p.worker(ctx, cfg, log)
	if err != nil {
		return err
	}
	if d.Gate == nil {
		d.Gate = newGate(d.Builder)
	}
	s := &server{cfg: cfg, daemon: d, log: log, presence: &presence{last: time.Now()}, ended: make(chan error, 3)}
	calm := func() {}
	defer func() {
		lock.leave()
		err = errors.Join(err, s.close())
		calm()
	}()
	if s.endpoints, err = listenAll(cfg, p.env, log); err != nil {
		return err
	}
	if err := s.startDebug(); err != nil {
		return err
	}
	defer s.debug.close()
	s.start()
	log.Info("serving", "version", version, "root", cfg.Root, "addr", addresses(s.endpoints), "pid", os.Getpid())
	notify(p.env, "READY=1")
	stopDog := watchdog(p.env, func() { s.native.Idle() })
	defer stopDog()
	reason, signalled, err := s.wait(p.signals)
	log.Info("stopping", "reason", reason)
	asked := 0
	if signalled {
		lock.drain()
		asked = 1 + s.drain(p)
	}
	notify(p.env, "STOPPING=1")
	lock.leave()
	calm = insist(p, asked, log)
	return errors.Join(err, s.stop())
}

// A server is the daemon while it serves.
type server struct {
	cfg       *config.Daemon
	daemon    *daemon
	log       *slog.Logger
	presence  *presence
	endpoints []*endpoint
	split     *splitter
	native    *native.Server
	engine    *engine.Server
	grpc      *grpc.Server
	health    *health.Server
	http      *http.Server
	debug     *debugServer // nil if there is none
	ended     chan error   // of the splitter and of both servers
	started   int          // how many of them will report
}

// start serves in the background.
func (s *server) start() {
	d := s.daemon
	info := about(s.cfg, d.About)
	s.native = native.New(native.Options{
		Builder: d.Gate, Images: d.Images, Platform: d.Platform, Platforms: d.Platforms, About: info,
		OpenDirectory: d.OpenDirectory, ReceiveDirectory: d.ReceiveDirectory, Login: d.Login, History: d.History, Log: s.log,
	})
	var told []grpc.ServerOption
	if d.Telemetry != nil {
		told = d.Telemetry.ServerOptions()
	}
	s.grpc, s.health = newGRPC(s.log, told...)
	s.native.Register(s.grpc)
	if d.Register != nil {
		d.Register(s.grpc)
	}
	reflection.Register(s.grpc)
	s.split = newSplitter(s.endpoints, s.presence, s.log)
	opts := s.engineOptions(info)
	if d.Telemetry != nil && d.Telemetry.Metrics != nil && d.Counters != nil {
		d.Telemetry.Metrics.Engine(d.Counters, telemetry.EngineInfo{
			ID: opts.ID, Version: opts.Version, Commit: opts.Commit, Info: opts.Info(context.Background()), Containers: opts.Containers,
		})
	}
	s.engine = engine.New(opts)
	s.http = newHTTP(s.engine)
	s.http.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	s.started = 3
	go func() { s.ended <- s.split.run() }()
	go func() { s.ended <- s.grpc.Serve(s.split.grpc) }()
	go func() { s.ended <- s.http.Serve(s.split.http) }()
}

// startDebug serves what operators ask for, if the configuration says where.
func (s *server) startDebug() error {
	if s.cfg.GRPC.DebugAddress == "" {
		return nil
	}
	a, err := s.cfg.GRPC.Debug()
	if err != nil {
		return err
	}
	if t := s.daemon.Telemetry; t != nil && t.Metrics != nil {
		t.Metrics.Gauge("connections", "Connections of clients.", func() float64 { return float64(s.presence.count()) })
	}
	s.debug, err = startDebug(a, s.daemon.Telemetry, probes{
		alive: func(context.Context) error { s.daemon.Gate.idle(); return nil },
		ready: func(context.Context) error {
			if s.daemon.Gate.draining() {
				return worker.ErrDraining
			}
			return nil
		},
	}, s.log)
	return err
}

// wait returns when the daemon is to stop, why, and whether somebody has told it to.
func (s *server) wait(signals <-chan os.Signal) (reason string, signalled bool, err error) {
	idle := s.cfg.Idle()
	tick := time.Hour
	if idle > 0 {
		tick = max(idle/8, 10*time.Millisecond)
	}
	tick = min(tick, restAfter)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var rest rest
	for {
		select {
		case sig := <-signals:
			return sig.String(), true, nil
		case err := <-s.ended:
			s.started--
			return "no longer serving", false, fmt.Errorf("serving: %w", err)
		case now := <-ticker.C:
			since, resting := s.restSince()
			rest.tick(now, since, resting)
			if resting && s.unused() && idle > 0 && now.Sub(since) >= idle && s.presence.shut(since) {
				return "idle", false, nil
			}
		}
	}
}

// restSince returns since when nothing has been built or called for, and nobody has left; false if that is not so. Somebody
// may still be there, with a container, or to see what happens.
func (s *server) restSince() (time.Time, bool) {
	called, quiet := s.native.Idle()
	left, _ := s.presence.since()
	built, none := s.daemon.Gate.idle() // a build may outlive its client
	for _, t := range []time.Time{left, built} {
		if t.After(called) {
			called = t
		}
	}
	return called, quiet && none
}

// unused says whether nobody is there and no container runs.
func (s *server) unused() bool {
	_, empty := s.presence.since()
	return empty && (s.daemon.Busy == nil || !s.daemon.Busy())
}

// stop takes no more calls, cancels those under way, and waits for them.
func (s *server) stop() error {
	s.daemon.Gate.shut()
	s.daemon.Gate.cancel()
	s.health.Shutdown()
	for _, e := range s.endpoints {
		e.remove()
	}
	s.native.Drain()
	if s.daemon.History != nil {
		s.daemon.History.Hush()
	}
	for _, e := range s.endpoints {
		_ = e.Close() // the splitter reports
	}
	ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.engine.Close()
	}()
	err := s.native.Wait(ctx)
	if err == nil {
		err = s.daemon.Gate.wait(ctx)
	}
	select {
	case <-ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		err = errors.New("stopping: calls are still under way")
	}
	// Graceful, so that a call's last words reach its client; forced, so that no client holds the daemon.
	force := time.AfterFunc(lastWords, s.grpc.Stop)
	s.grpc.GracefulStop()
	force.Stop()
	_ = s.http.Close()
	_ = s.split.grpc.Close()
	for ; s.started > 0; s.started-- {
		if e := <-s.ended; e != nil && !errors.Is(e, net.ErrClosed) && !errors.Is(e, http.ErrServerClosed) {
			s.log.Warn("stopping", "error", e)
		}
	}
	return err
}

// close ends the worker. A worker that does not end in time is left to the kernel, which ends it with the process.
func (s *server) close() error {
	for _, e := range s.endpoints { // which are closed, unless the daemon did not get to serve
		e.remove()
		_ = e.Close()
	}
	done := make(chan error, 1)
	go func() {
		err := s.daemon.Close()
		if t := s.daemon.Telemetry; t != nil {
			ctx, cancel := context.WithTimeout(context.Background(), lastWords)
			defer cancel()
			if err := t.Close(ctx); err != nil {
				s.log.Warn("stopping", "error", err)
			}
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(stopTimeout - cancelTimeout - lastWords):
		return errors.New("stopping: the worker does not end")
	}
}
