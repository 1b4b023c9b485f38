package records

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/progress"
	"github.com/boxbuild/boxbuild/worker/history"
)

// TraceParent returns the span of the client's that a call is part of, as the header traceparent of W3C's Trace Context has
// it; "" if there is none.
func TraceParent(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("traceparent"); len(v) > 0 {
		if _, _, ok := parseParent(v[0]); ok {
			return v[0]
		}
	}
	return ""
}

// parseParent returns the trace and the span of a traceparent header.
func parseParent(header string) (trace, id string, ok bool) {
	f := strings.Split(header, "-")
	if len(f) < 4 || len(f[1]) != 32 || len(f[2]) != 16 {
		return "", "", false
	}
	for _, s := range f[1:3] {
		if _, err := hex.DecodeString(s); err != nil || strings.Trim(s, "0") == "" || strings.ToLower(s) != s {
			return "", "", false
		}
	}
	return f[1], f[2], true
}

// traceOf returns the trace that a build is part of, and the span of the client's above it: "" for a build that no client
// has traced, whose trace is its own.
func traceOf(rec *history.Record) (trace, parent string) {
	if trace, parent, ok := parseParent(rec.TraceParent); ok {
		return trace, parent
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "boxbuild trace %s %d", rec.ID, rec.Created.UnixNano()))
	return hex.EncodeToString(sum[:16]), ""
}

// spanID returns the ID of the span of a vertex, by its number, or of the whole build for 0. It is the same each time.
func spanID(trace string, rec *history.Record, number int) string {
	sum := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(trace+" "+rec.ID+" "), uint64(number)))
	return hex.EncodeToString(sum[:8])
}

// writeTrace writes the trace of a build, or, if there is one already, that and what clients have sent since.
func (s *Server) writeTrace(ctx context.Context, rec *history.Record, w io.Writer) error {
	if desc, ok := rec.Attachments[traceName]; ok {
		old, err := s.opt.History.OpenBlob(desc.Digest)
		if err != nil {
			return err
		}
		defer old.Close()
		if _, err := io.Copy(w, old); err != nil {
			return err
		}
	} else {
		spans, err := s.spans(ctx, rec)
		if err != nil {
			return err
		}
		if err := writeSpans(w, spans); err != nil {
			return err
		}
	}
	trace, _ := traceOf(rec)
	return writeSpans(w, s.takeStrays(trace, rec.ID))
}

// spans returns a span for the build, and one for each vertex that anything happened to.
func (s *Server) spans(ctx context.Context, rec *history.Record) ([]span, error) {
	trace, above := traceOf(rec)
	root := span{
		Name: "build", SpanContext: newContext(trace, spanID(trace, rec, 0)), Parent: noSpan, SpanKind: 2,
		StartTime: rec.Created, EndTime: rec.Ended, Status: spanStatus{Code: "Unset"},
		Attributes: []attribute{textAttribute("ref", rec.ID), textAttribute("frontend", rec.Origin.Frontend)},
		Resource:   []attribute{textAttribute("service.name", "boxbuildd")}, Scope: scope{Name: "boxbuild"},
	}
	if above != "" {
		root.Parent = newContext(trace, above)
		root.Parent.Remote = true
	}
	if rec.Error != nil {
		root.Status = spanStatus{"Error", rec.Error.Message}
	}
	t := &tracer{rec: rec, trace: trace, root: &root, numbers: map[*solver.Vertex]int{}}
	if err := s.opt.History.Read(ctx, rec.ID, history.ReadOptions{}, t.event); err != nil {
		return nil, err
	}
	return t.finish(), nil
}

// A tracer makes spans of events.
type tracer struct {
	rec     *history.Record
	trace   string
	root    *span
	numbers map[*solver.Vertex]int
	spans   []*span // by number, less 1; nil for vertices that nothing has happened to
}

func (t *tracer) event(ev solver.Event) error {
	if ev.Vertex == nil {
		return nil
	}
	n, ok := t.numbers[ev.Vertex]
	if !ok {
		n = len(t.spans) + 1
		t.numbers[ev.Vertex] = n
		t.spans = append(t.spans, nil)
	}
	sp := t.spans[n-1]
	if sp == nil && (ev.Kind == solver.Started || ev.Kind == solver.Cached) {
		sp = &span{
			Name: ev.Vertex.Name(), SpanContext: newContext(t.trace, spanID(t.trace, t.rec, n)), Parent: t.root.SpanContext,
			SpanKind: 1, StartTime: ev.Time, Status: spanStatus{Code: "Unset"}, Resource: t.root.Resource, Scope: t.root.Scope,
			Attributes: []attribute{textAttribute("vertex", progress.Digest(ev.Vertex).String())},
		}
		t.spans[n-1] = sp
	}
	if sp == nil {
		return nil
	}
	switch ev.Kind {
	case solver.Cached:
		sp.EndTime = ev.Time
		sp.Attributes = append(sp.Attributes, attribute{"cached", attributeValue{"BOOL", true}})
	case solver.Done:
		sp.EndTime = ev.Time
	case solver.Failed, solver.Canceled:
		sp.EndTime = ev.Time
		sp.Status = spanStatus{Code: "Error"}
		if ev.Err != nil {
			sp.Status.Description = ev.Err.Error()
		}
	case solver.Declared, solver.Started, solver.Logged, solver.Progress, solver.Warned:
	}
	return nil
}

// finish returns all spans, the build's first. What had no end ended with the build.
func (t *tracer) finish() []span {
	out := []span{*t.root}
	for _, sp := range t.spans {
		if sp == nil {
			continue
		}
		if sp.EndTime.IsZero() {
			sp.EndTime = t.rec.Ended
		}
		out = append(out, *sp)
		out[0].ChildSpanCount++
	}
	return out
}

// strayBytes bounds, in bytes as they came, the spans that wait for their build to end. What several have in common counts for
// each: that is how often it is written.
const strayBytes = 4 << 20

// A stray is a span that some record of its trace may not have yet: a client may have several builds in one.
type stray struct {
	trace string
	span  span
	size  int
	in    []string // the IDs of the records that have it
}

// takeStrays returns those of a trace that a record does not have, which has them from then on.
func (s *Server) takeStrays(trace, id string) []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []span
	for i := range s.strays {
		if st := &s.strays[i]; st.trace == trace && !slices.Contains(st.in, id) {
			st.in = append(st.in, id)
			out = append(out, st.span)
		}
	}
	return out
}

// dropStrays forgets those of a trace, all of whose records have them.
func (s *Server) dropStrays(trace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strays = slices.DeleteFunc(s.strays, func(st stray) bool {
		if st.trace == trace {
			s.bytes -= st.size
		}
		return st.trace == trace
	})
}

// claim says whether there are spans that the trace of rec lacks.
func (s *Server) claim(rec *history.Record) bool {
	trace, _ := traceOf(rec)
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.strays, func(st stray) bool { return st.trace == trace && !slices.Contains(st.in, rec.ID) })
}

// A traceServer implements OpenTelemetry's trace service.
type traceServer struct {
	tracev1.UnimplementedTraceServiceServer
	s *Server
}

// Export implements the service: the spans become part of the traces of their builds, if they are of one.
func (t *traceServer) Export(
	ctx context.Context, req *tracev1.ExportTraceServiceRequest,
) (*tracev1.ExportTraceServiceResponse, error) {
	traces := map[string]bool{} // whether its spans may be forgotten in the end
	for _, rs := range req.GetResourceSpans() {
		resource, common := attributes(rs.GetResource().GetAttributes()), proto.Size(rs.GetResource())
		for _, ss := range rs.GetScopeSpans() {
			for _, sp := range ss.GetSpans() {
				if len(sp.GetTraceId()) != 16 || len(sp.GetSpanId()) != 8 {
					continue
				}
				out := fromOTLP(sp, resource, ss.GetScope(), ss.GetSchemaUrl())
				t.s.stray(stray{trace: out.SpanContext.TraceID, span: out, size: proto.Size(sp) + common})
				traces[out.SpanContext.TraceID] = false
			}
		}
	}
	running := map[string]bool{}
	for _, rec := range t.s.opt.History.List() {
		trace, _ := traceOf(rec)
		if _, ours := traces[trace]; !ours {
			continue
		}
		if rec.Status == history.Running {
			running[trace] = true
			continue
		}
		traces[trace] = true
		if _, err := t.s.attachments(ctx, rec); err != nil && !errors.Is(err, history.ErrNotFound) {
			return nil, wire(err)
		}
	}
	for trace, told := range traces {
		if told && !running[trace] {
			t.s.dropStrays(trace)
		}
	}
	return &tracev1.ExportTraceServiceResponse{}, nil
}

// stray keeps a span until its build has ended. Of too many the oldest go.
func (s *Server) stray(st stray) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strays = append(s.strays, st)
	s.bytes += st.size
	for s.bytes > strayBytes && len(s.strays) > 1 {
		s.bytes -= s.strays[0].size
		s.strays = s.strays[1:]
	}
}
