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
	"strconv"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
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
	name  string // of the service
}

func (c *collector) Export(_ context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.GetResourceSpans() {
		for _, a := range r.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				c.name = a.GetValue().GetStringValue()
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
// protocols of OTLP.
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
			if c.name != "my-builder" {
				t.Errorf("the service is called %q", c.name)
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
	if _, err := collectorpb.NewTraceServiceClient(conn).Export(ctx, &collectorpb.ExportTraceServiceRequest{}); err != nil {
		t.Fatal(err)
	}
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
	if len(spans) != 5 || hex.EncodeToString(build.GetParentSpanId()) != clientSpan {
		t.Fatalf("%d spans, the build's has the parent %x", len(spans), build.GetParentSpanId())
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
