// Package telemetry tells operators what a daemon does: a line in the log for each build, numbers for Prometheus, and
// spans for OpenTelemetry, with those that clients send of their own. Each is a decorator of worker.Builder, which reads
// the events that pass, and an interceptor of gRPC; none changes what a build does, and one that is not wanted is not there.
//
// Life cycle: New, then Wrap and ServerOptions; Close, when no build runs any more, sends the last spans.
//
// Lock order: both mutexes are leaves. That of the store's usage is held while the usage is counted: whoever asks for the
// numbers meanwhile waits for that one count. The other one guards what clients have sent of their own spans, to be sent on.
package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// Options say what is wanted.
type Options struct {
	Version string
	Log     *slog.Logger
	// Metrics says that numbers are kept.
	Metrics bool
	// Usage counts the store for the numbers; it may be nil.
	Usage func(ctx context.Context) (*worker.DiskUsage, error)
	// Getenv reads the variables of OpenTelemetry (OTEL_…) that say whether there are spans.
	Getenv func(string) string
}

// Telemetry is what is wanted.
type Telemetry struct {
	Metrics *Metrics // nil if no numbers are kept
	Tracer  *Tracer  // nil if there are no spans
	log     *slog.Logger
}

// New returns what opt asks for. An error is one of the variables for OpenTelemetry.
func New(ctx context.Context, opt Options) (*Telemetry, error) {
	t := &Telemetry{log: opt.Log}
	if opt.Metrics {
		t.Metrics = newMetrics(opt.Version, opt.Usage)
	}
	var err error
	t.Tracer, err = newTracer(ctx, opt)
	return t, err
}

// Wrap returns b with its builds told of.
func (t *Telemetry) Wrap(b worker.Builder) worker.Builder {
	b = &logged{builder: b, log: t.log}
	if t.Metrics != nil {
		b = &measured{builder: b, metrics: t.Metrics}
	}
	if t.Tracer != nil {
		b = &traced{builder: b, tracer: t.Tracer}
	}
	return b
}

// ServerOptions are what a gRPC server needs for it, before all others.
func (t *Telemetry) ServerOptions() []grpc.ServerOption {
	var opts []grpc.ServerOption
	if t.Tracer != nil {
		opts = append(opts, t.Tracer.serverOptions()...)
	}
	if t.Metrics != nil {
		opts = append(opts, t.Metrics.serverOptions()...)
	}
	return opts
}

// Close sends what has not been sent.
func (t *Telemetry) Close(ctx context.Context) error {
	if t.Tracer == nil {
		return nil
	}
	return t.Tracer.close(ctx)
}

// outcome is how a build has ended, in one word.
func outcome(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return "success"
	case errors.Is(err, context.Canceled), errors.Is(err, worker.ErrDraining), ctx.Err() != nil:
		return "canceled"
	}
	return "error"
}

// A tally counts the steps of a build. Events come from one goroutine at a time.
type tally struct{ run, cached, failed, canceled int }

func (t *tally) add(ev *solver.Event) {
	switch ev.Kind {
	case solver.Done:
		t.run++
	case solver.Cached:
		t.cached++
	case solver.Failed:
		t.failed++
	case solver.Canceled:
		t.canceled++
	default: // the step goes on
	}
}

// frontendName is how a request calls its frontend.
func frontendName(req *worker.BuildRequest) string {
	switch {
	case req.Origin.Frontend != "":
		return req.Origin.Frontend
	case req.Use == nil:
		return "dockerfile.v0"
	}
	return "client"
}

// logged writes a line about each build when it begins and when it ends.
type logged struct {
	builder worker.Builder
	log     *slog.Logger
}

// Build implements worker.Builder.
func (l *logged) Build(
	ctx context.Context, req *worker.BuildRequest, events func(solver.Event),
) (*worker.BuildResult, error) {
	begin := time.Now()
	var steps tally
	log := l.log.With("build", req.ID)
	log.Info("build began", "frontend", frontendName(req), "target", req.Frontend.Target, "tags", req.Tags)
	res, err := l.builder.Build(ctx, req, func(ev solver.Event) {
		steps.add(&ev)
		if ev.Kind == solver.Failed {
			log.Info("step failed", "step", ev.Vertex.Name(), "error", ev.Err)
		}
		events(ev)
	})
	attrs := []any{
		"outcome", outcome(ctx, err), "seconds", time.Since(begin).Seconds(),
		"run", steps.run, "cached", steps.cached, "failed", steps.failed, "canceled", steps.canceled,
	}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	log.Info("build ended", attrs...)
	return res, err
}
