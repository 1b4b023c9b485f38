package telemetry

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// A Tracer makes spans: one for each build, below the client's if it has one, and below that one for each step. It is
// safe for concurrent use.
type Tracer struct {
	provider   *sdktrace.TracerProvider
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	clients    *forwarder // of what clients send of their own
}

// protocolOf returns how spans are sent, as the variables of OpenTelemetry say; "" if they are not.
func protocolOf(getenv func(string) string) (string, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v := strings.TrimSpace(getenv(n)); v != "" {
				return v
			}
		}
		return ""
	}
	endpoint := first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	switch exporter := first("OTEL_TRACES_EXPORTER"); {
	case strings.EqualFold(first("OTEL_SDK_DISABLED"), "true"), exporter == "none", exporter == "" && endpoint == "":
		return "", nil
	case exporter != "" && exporter != "otlp":
		return "", fmt.Errorf("OTEL_TRACES_EXPORTER: %q is none of otlp, none", exporter)
	}
	switch p := first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); p {
	case "": // as buildkitd
		return "grpc", nil
	case "grpc", "http/protobuf":
		return p, nil
	default:
		return "", fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL: %q is none of grpc, http/protobuf", p)
	}
}

// newTracer returns nil if no spans are wanted. Where they go is connected to when the first are sent; the exporters read
// the other variables themselves.
func newTracer(ctx context.Context, opt Options) (*Tracer, error) {
	if opt.Getenv == nil {
		return nil, nil //nolint:nilnil // nil is what no tracer is
	}
	protocol, err := protocolOf(opt.Getenv)
	if protocol == "" || err != nil {
		return nil, err
	}
	var client otlptrace.Client
	if protocol == "grpc" {
		client = otlptracegrpc.NewClient()
	} else {
		client = otlptracehttp.NewClient()
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("starting to send traces: %w", err)
	}
	// What the environment says of the service counts more than what is known of it.
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "boxbuildd"), attribute.String("service.version", opt.Version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		opt.Log.Warn("describing this daemon in traces", "error", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { opt.Log.Warn("sending traces", "error", err) }))
	t := newTracerTo(sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)))
	t.clients = newForwarder(ctx, client, opt.Log)
	opt.Log.Info("sending traces", "protocol", protocol)
	return t, nil
}

func newTracerTo(p *sdktrace.TracerProvider) *Tracer {
	return &Tracer{
		provider: p, tracer: p.Tracer("github.com/boxbuild/boxbuild"),
		propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
}

func (t *Tracer) close(ctx context.Context) error {
	if t.clients != nil {
		t.clients.close(ctx)
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last traces: %w", err)
	}
	return nil
}

// carrier is the metadata of a call as what propagators read.
type carrier metadata.MD

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

// Keys implements propagation.TextMapCarrier.
func (c carrier) Keys() []string {
	var keys []string
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// parent returns ctx with the span of the client whose call it is.
func (t *Tracer) parent(ctx context.Context) context.Context {
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return ctx
	}
	return t.propagator.Extract(ctx, carrier(md))
}

// serverOptions have the calls of a gRPC server know the client's span, and what a client sends of its own sent on. They have no spans themselves: a build's has all
// that one would want to know, and other calls are short.
func (t *Tracer) serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(
			ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
		) (any, error) {
			if spans, ok := req.(*tracev1.ExportTraceServiceRequest); ok && t.clients != nil {
				t.clients.add(spans)
			}
			return handler(t.parent(ctx), req)
		}),
		grpc.ChainStreamInterceptor(func(
			srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler,
		) error {
			return handler(srv, &tracedStream{ServerStream: stream, ctx: t.parent(stream.Context())})
		}),
	}
}

// A tracedStream has another context.
type tracedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream has one
}

// Context implements grpc.ServerStream.
func (s *tracedStream) Context() context.Context { return s.ctx }

// traced makes the spans of builds.
type traced struct {
	builder worker.Builder
	tracer  *Tracer
}

// Build implements worker.Builder.
func (t *traced) Build(
	ctx context.Context, req *worker.BuildRequest, events func(solver.Event),
) (*worker.BuildResult, error) {
	ctx, span := t.tracer.tracer.Start(ctx, "build", trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("boxbuild.build.id", req.ID),
		attribute.String("boxbuild.frontend", frontendName(req)),
		attribute.String("boxbuild.target", req.Frontend.Target),
		attribute.StringSlice("boxbuild.tags", req.Tags),
	))
	steps := &stepSpans{tracer: t.tracer.tracer, spans: map[*solver.Vertex]trace.Span{}}
	res, err := t.builder.Build(ctx, req, func(ev solver.Event) {
		steps.event(ctx, &ev)
		events(ev)
	})
	steps.end()
	span.SetAttributes(
		attribute.String("boxbuild.outcome", outcome(ctx, err)),
		attribute.Int("boxbuild.steps.run", steps.run), attribute.Int("boxbuild.steps.cached", steps.cached),
		attribute.Int("boxbuild.steps.failed", steps.failed),
	)
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
	return res, err
}

// stepSpans are the spans of one build's steps.
type stepSpans struct {
	tally
	tracer trace.Tracer
	spans  map[*solver.Vertex]trace.Span // those that have not ended
}

func (s *stepSpans) event(ctx context.Context, ev *solver.Event) {
	s.add(ev)
	switch ev.Kind {
	case solver.Started:
		s.start(ctx, ev)
	case solver.Cached:
		span := s.start(ctx, ev)
		span.SetAttributes(attribute.Bool("boxbuild.cached", true))
		s.finish(ev)
	case solver.Done:
		s.finish(ev)
	case solver.Failed:
		if span := s.spans[ev.Vertex]; span != nil && ev.Err != nil {
			span.RecordError(ev.Err)
			span.SetStatus(codes.Error, ev.Err.Error())
		}
		s.finish(ev)
	case solver.Canceled:
		if span := s.spans[ev.Vertex]; span != nil {
			span.SetStatus(codes.Error, "canceled")
		}
		s.finish(ev)
	case solver.Warned:
		if span := s.spans[ev.Vertex]; span != nil {
			span.AddEvent(ev.Warning.Short, trace.WithTimestamp(ev.Time))
		}
	default: // spans have no logs
	}
}

func (s *stepSpans) start(ctx context.Context, ev *solver.Event) trace.Span {
	if span := s.spans[ev.Vertex]; span != nil {
		return span
	}
	_, span := s.tracer.Start(ctx, ev.Vertex.Name(), trace.WithTimestamp(ev.Time), trace.WithAttributes(
		attribute.String("boxbuild.vertex", ev.Vertex.Recipe().String()),
	))
	s.spans[ev.Vertex] = span
	return span
}

func (s *stepSpans) finish(ev *solver.Event) {
	if span := s.spans[ev.Vertex]; span != nil {
		span.End(trace.WithTimestamp(ev.Time))
		delete(s.spans, ev.Vertex)
	}
}

// end ends what nothing was heard of any more.
func (s *stepSpans) end() {
	for _, span := range s.spans {
		span.End()
	}
}
