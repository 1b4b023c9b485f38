package telemetry

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// A collector takes spans, over gRPC or HTTP.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	mu    sync.Mutex // guards all below
	spans []*tracepb.Span
	names []string // of the services, as they came
}

func (c *collector) Export(_ context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.GetResourceSpans() {
		for _, a := range r.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				c.names = append(c.names, a.GetValue().GetStringValue())
			}
		}
		for _, s := range r.GetScopeSpans() {
			c.spans = append(c.spans, s.GetSpans()...)
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// ServeHTTP implements OTLP over HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	req := &collectorpb.ExportTraceServiceRequest{}
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, req) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = c.Export(r.Context(), req) // cannot fail
}

// startCollector returns the variables for it.
func startCollector(t *testing.T, protocol string) (*collector, map[string]string) {
	t.Helper()
	c := &collector{}
	vars := map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_SERVICE_NAME": "my-builder"}
	if protocol == "http/protobuf" {
		srv := httptest.NewServer(c)
		t.Cleanup(srv.Close)
		vars["OTEL_EXPORTER_OTLP_ENDPOINT"] = srv.URL
		return c, vars
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(g, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() { g.Stop(); serving.Wait() })
	vars["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://" + l.Addr().String()
	return c, vars
}

const (
	clientTrace = "0af7651916cd43dd8448eb211c80319c"
	clientSpan  = "b7ad6b7169203331"
)

// building is a service of one call, which builds.
type building struct {
	collectorpb.UnimplementedTraceServiceServer
	builder worker.Builder
}

func (b *building) Export(ctx context.Context, _ *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	_, _ = b.builder.Build(ctx, &worker.BuildRequest{ID: "b1"}, func(solver.Event) {}) // fails as it should
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// A client's span is the parent of the build's, and that one of those of the steps, with what became of each, by both
// protocols of OTLP. What the client tells of its own span, as buildctl and buildx do, goes where the others go.
func TestSpans(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(strings.ReplaceAll(protocol, "/", "-"), func(t *testing.T) {
			c, vars := startCollector(t, protocol)
			for k, v := range vars {
				t.Setenv(k, v)
			}
			tel, err := New(t.Context(), Options{Log: slog.New(slog.DiscardHandler), Getenv: os.Getenv})
			if err != nil || tel.Tracer == nil {
				t.Fatal(tel, err)
			}
			call(t, tel, example())
			if err := tel.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if slices.Sort(c.names); !slices.Equal(slices.Compact(c.names), []string{"my-builder", "my-client"}) {
				t.Errorf("the services are called %q", c.names)
			}
			checkSpans(t, c.spans)
		})
	}
}

// call performs a build for a client that is traced.
func call(t *testing.T, tel *Telemetry, p *play) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(tel.ServerOptions()...)
	collectorpb.RegisterTraceServiceServer(g, &building{builder: tel.Wrap(p)})
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	defer serving.Wait()
	defer g.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+clientTrace+"-"+clientSpan+"-01")
	if _, err := collectorpb.NewTraceServiceClient(conn).Export(ctx, ofClient()); err != nil {
		t.Fatal(err)
	}
}

// ofClient is what the client tells of its own span.
func ofClient() *collectorpb.ExportTraceServiceRequest {
	trace, _ := hex.DecodeString(clientTrace)
	span, _ := hex.DecodeString(clientSpan)
	return &collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{{
			Key: "service.name", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: "my-client"}},
		}}},
		ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{TraceId: trace, SpanId: span, Name: "client"}}}},
	}}}
}

func checkSpans(t *testing.T, spans []*tracepb.Span) {
	t.Helper()
	byName := map[string]*tracepb.Span{}
	for _, s := range spans {
		if hex.EncodeToString(s.GetTraceId()) != clientTrace {
			t.Errorf("%s is of another trace", s.GetName())
		}
		byName[s.GetName()] = s
	}
	build := byName["build"]
	if len(spans) != 6 || hex.EncodeToString(build.GetParentSpanId()) != clientSpan {
		t.Fatalf("%d spans, the build's has the parent %x", len(spans), build.GetParentSpanId())
	}
	if c := byName["client"]; hex.EncodeToString(c.GetSpanId()) != clientSpan {
		t.Errorf("the client's span is %v", c)
	}
	if got := attributes(build); got["boxbuild.build.id"] != "b1" || got["boxbuild.outcome"] != "error" || got["boxbuild.steps.cached"] != "1" {
		t.Errorf("the build has %v", got)
	}
	for name, want := range map[string]struct {
		seconds uint64
		status  string
		events  int
	}{"run": {2, "", 1}, "found": {0, "", 0}, "failed": {1, "exit code: 3", 1}, "gone": {1, "canceled", 0}} {
		s := byName[name]
		if s == nil || string(s.GetParentSpanId()) != string(build.GetSpanId()) {
			t.Errorf("%s is not below the build: %v", name, s)
			continue
		}
		if d := s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano(); d != want.seconds*1e9 || s.GetStatus().GetMessage() != want.status ||
			len(s.GetEvents()) != want.events || (attributes(s)["boxbuild.cached"] == "true") != (name == "found") {
			t.Errorf("%s: %d ns, %v, %d events, %v", name, d, s.GetStatus(), len(s.GetEvents()), attributes(s))
		}
	}
}

func attributes(s *tracepb.Span) map[string]string {
	out := map[string]string{}
	for _, a := range s.GetAttributes() {
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[a.GetKey()] = v.StringValue
		case *commonpb.AnyValue_BoolValue:
			out[a.GetKey()] = strconv.FormatBool(v.BoolValue)
		case *commonpb.AnyValue_IntValue:
			out[a.GetKey()] = strconv.FormatInt(v.IntValue, 10)
		}
	}
	return out
}

// Whether there are spans, and how they are sent, is what the variables of OpenTelemetry say.
func TestProtocol(t *testing.T) {
	type vars = map[string]string
	for _, c := range []struct {
		vars vars
		want string
		err  bool
	}{
		{nil, "", false},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "grpc", false},
		{vars{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, "grpc", false},
		{vars{"OTEL_TRACES_EXPORTER": "otlp"}, "grpc", false},
		{vars{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "", false},
		{vars{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, "", false},
		{vars{"OTEL_TRACES_EXPORTER": "jaeger"}, "", true},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http/protobuf", false},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "http/protobuf", false},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "", true},
	} {
		got, err := protocolOf(func(k string) string { return c.vars[k] })
		if got != c.want || (err != nil) != c.err {
			t.Errorf("%v: got %q, %v", c.vars, got, err)
		}
	}
}

// Without those variables nothing is added to a build but the log.
func TestNothingWanted(t *testing.T) {
	tel, err := New(t.Context(), Options{Log: slog.New(slog.DiscardHandler), Getenv: func(string) string { return "" }})
	if err != nil || tel.Tracer != nil || tel.Metrics != nil || len(tel.ServerOptions()) != 0 {
		t.Errorf("got %+v, %v", tel, err)
	}
	if l, ok := tel.Wrap(&play{}).(*logged); !ok || l.builder == nil {
		t.Error("there is more than the log")
	}
	if err := tel.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A deaf collector answers when it is told to.
type deaf struct {
	otlptrace.Client
	got    int // spans
	asked  chan struct{}
	answer chan struct{}
}

// UploadTraces implements otlptrace.Client.
func (d *deaf) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	d.asked <- struct{}{}
	d.got += len(spans)
	select {
	case <-d.answer:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A collector that does not answer holds up no client: what fits waits, and what is too much is dropped. At the end what waits
// is sent, and a collector that still does not answer is given up when the daemon will not wait any more.
func TestDeafCollector(t *testing.T) {
	d := &deaf{asked: make(chan struct{}, 2), answer: make(chan struct{})}
	f := newForwarder(t.Context(), d, slog.New(slog.DiscardHandler))
	f.add(ofClient())
	<-d.asked
	large := ofClient()
	large.ResourceSpans[0].SchemaUrl = strings.Repeat("x", forwardBytes)
	f.add(ofClient())
	f.add(large)
	f.add(ofClient())
	if len(f.waiting) != 2 || f.bytes != 2*proto.Size(ofClient()) {
		t.Errorf("%d wait, %d bytes", len(f.waiting), f.bytes)
	}
	d.answer <- struct{}{}
	<-d.asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.close(ctx)
	f.add(ofClient())
	if d.got != 3 || len(f.waiting) != 0 {
		t.Errorf("%d were sent, %d wait", d.got, len(f.waiting))
	}
}
