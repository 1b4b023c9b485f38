package records

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/history"
)

// A text is an operation for tests.
type text string

func (t text) WriteKey(h *solver.Hasher) { h.Version("text", 1); h.Str("text", string(t)) }
func (t text) String() string            { return string(t) }

// A script is a builder whose builds are functions.
type script func(ctx context.Context, send func(solver.Event)) (*worker.BuildResult, error)

func (f script) Build(ctx context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
	return f(ctx, send)
}

// A control is the part of BuildKit's Control that is about builds of the past.
type control struct {
	controlapi.UnimplementedControlServer
	*Server
}

func (c control) ListenBuildHistory(r *controlapi.BuildHistoryRequest, s controlapi.Control_ListenBuildHistoryServer) error {
	return c.Server.ListenBuildHistory(r, s)
}

func (c control) UpdateBuildHistory(
	ctx context.Context, r *controlapi.UpdateBuildHistoryRequest,
) (*controlapi.UpdateBuildHistoryResponse, error) {
	return c.Server.UpdateBuildHistory(ctx, r)
}

// A world is a daemon's history with a client of it.
type world struct {
	t       *testing.T
	history *history.Store
	blobs   *blob.Store
	control controlapi.ControlClient
	content contentapi.ContentClient
	traces  tracev1.TraceServiceClient
	server  *Server
}

func newWorld(t *testing.T) *world {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	blobs, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store, err := history.Open(history.Options{
		Dir: t.TempDir(), Log: quiet, Errors: map[string]func(error) []byte{ErrorForm: EncodeError},
		TraceParent: func(ctx context.Context) string {
			parent, _ := ctx.Value(traceKey{}).(string)
			return parent
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{History: store, Blobs: blobs, Log: quiet})
	server := grpc.NewServer()
	s.Register(server)
	controlapi.RegisterControlServer(server, control{Server: s})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := errors.Join(<-served, store.Close()); err != nil {
			t.Error(err)
		}
	})
	return &world{
		t, store, blobs, controlapi.NewControlClient(conn), contentapi.NewContentClient(conn), tracev1.NewTraceServiceClient(conn), s,
	}
}

type traceKey struct{}

// build performs a build of one step.
func (w *world) build(req *worker.BuildRequest, err error) {
	w.t.Helper()
	_, got := w.history.Wrap(script(func(_ context.Context, send func(solver.Event)) (*worker.BuildResult, error) {
		v := solver.NewVertex(text("RUN x"), nil, solver.Meta{Name: "[1/1] RUN x"})
		send(solver.Event{Kind: solver.Declared, Vertex: v})
		send(solver.Event{Kind: solver.Started, Vertex: v})
		send(solver.Event{Kind: solver.Logged, Vertex: v, Stream: 1, Data: []byte("hello\n")})
		if err != nil {
			send(solver.Event{Kind: solver.Failed, Vertex: v, Err: err})
			return nil, err
		}
		send(solver.Event{Kind: solver.Done, Vertex: v})
		return &worker.BuildResult{Metadata: map[string]string{"image.name": "x"}}, nil
	})).Build(w.t.Context(), req, nil)
	if !errors.Is(got, err) {
		w.t.Fatal(got)
	}
}

// listen returns what there is.
func (w *world) listen(req *controlapi.BuildHistoryRequest) []*controlapi.BuildHistoryEvent {
	w.t.Helper()
	req.EarlyExit = true
	stream, err := w.control.ListenBuildHistory(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []*controlapi.BuildHistoryEvent
	for {
		ev, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, ev)
	}
}

func refs(evs []*controlapi.BuildHistoryEvent) string {
	var out []string
	for _, ev := range evs {
		out = append(out, ev.GetType().String()+" "+ev.GetRecord().GetRef())
	}
	return strings.Join(out, ", ")
}

// read returns a blob through the content service.
func (w *world) read(d string) []byte {
	w.t.Helper()
	stream, err := w.content.Read(w.t.Context(), &contentapi.ReadContentRequest{Digest: d})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, m.GetData()...)
	}
	if got := digest.FromBytes(out); got.String() != d {
		w.t.Errorf("read %s for %s", got, d)
	}
	return out
}

// A record says what the build was, and its log and its error can be read and are what BuildKit's clients expect.
func TestRecord(t *testing.T) {
	w := newWorld(t)
	w.build(&worker.BuildRequest{ID: "a", Origin: worker.Origin{
		Frontend: "dockerfile.v0", Attrs: map[string]string{"target": "t"},
		Outputs: []worker.OriginOutput{{Type: "image", Attrs: map[string]string{"name": "x"}}},
	}}, nil)
	w.build(&worker.BuildRequest{ID: "b"}, errors.New("it broke"))
	evs := w.listen(&controlapi.BuildHistoryRequest{})
	if got := refs(evs); got != "COMPLETE a, COMPLETE b" {
		t.Fatalf("got %s", got)
	}
	a, b := evs[0].GetRecord(), evs[1].GetRecord()
	if a.GetFrontend() != "dockerfile.v0" || a.GetFrontendAttrs()["target"] != "t" || a.GetExporters()[0].GetAttrs()["name"] != "x" ||
		a.GetExporterResponse()["image.name"] != "x" || a.GetNumTotalSteps() != 1 || a.GetNumCompletedSteps() != 1 ||
		a.GetError() != nil || a.GetExternalError() != nil || a.GetCompletedAt().AsTime().Before(a.GetCreatedAt().AsTime()) {
		t.Errorf("got %v", a)
	}
	raw := w.read(a.GetLogs().GetDigest())
	var logs string
	for len(raw) > 0 {
		n := binary.LittleEndian.Uint32(raw)
		var m controlapi.StatusResponse
		if err := proto.Unmarshal(raw[4:4+n], &m); err != nil {
			t.Fatal(err)
		}
		for _, l := range m.GetLogs() {
			logs += string(l.GetMsg())
		}
		raw = raw[4+n:]
	}
	if logs != "hello\n" {
		t.Errorf("the log is %q", logs)
	}
	var st spb.Status
	if err := proto.Unmarshal(w.read(b.GetExternalError().GetDigest()), &st); err != nil || st.GetMessage() != "it broke" ||
		b.GetError().GetMessage() != "it broke" {
		t.Errorf("got %v, %v: %v", &st, b.GetError(), err)
	}
	// The same again, from what was kept.
	if again := w.listen(&controlapi.BuildHistoryRequest{Ref: "b"})[0].GetRecord(); !proto.Equal(again, b) {
		t.Errorf("got %v, then %v", b, again)
	}
}

// Listening goes on with what happens: builds that come, end, change and go.
func TestListen(t *testing.T) {
	w := newWorld(t)
	w.build(&worker.BuildRequest{ID: "old"}, nil)
	stream, err := w.control.ListenBuildHistory(t.Context(), &controlapi.BuildHistoryRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *controlapi.BuildHistoryEvent {
		t.Helper()
		ev, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	expect := func(want string) {
		t.Helper()
		if got := refs([]*controlapi.BuildHistoryEvent{next()}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if md, err := stream.Header(); err != nil || len(md.Get(timestampHeader)) != 1 {
		t.Errorf("the header is %v, %v", md, err)
	}
	expect("COMPLETE old")
	release := make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := w.history.Wrap(script(func(context.Context, func(solver.Event)) (*worker.BuildResult, error) {
			<-release
			return &worker.BuildResult{}, nil
		})).Build(context.Background(), &worker.BuildRequest{ID: "new"}, nil)
		done <- err
	}()
	expect("STARTED new")
	if got := refs(w.listen(&controlapi.BuildHistoryRequest{ActiveOnly: true})); got != "STARTED new" {
		t.Errorf("active: %s", got)
	}
	if got := refs(w.listen(&controlapi.BuildHistoryRequest{})); got != "STARTED new, COMPLETE old" {
		t.Errorf("all: %s", got)
	}
	close(release)
	expect("COMPLETE new")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	update := func(req *controlapi.UpdateBuildHistoryRequest) {
		t.Helper()
		if _, err := w.control.UpdateBuildHistory(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	update(&controlapi.UpdateBuildHistoryRequest{Ref: "old", Pinned: true})
	if rec := next().GetRecord(); rec.GetRef() != "old" || !rec.GetPinned() || rec.GetGeneration() != 2 {
		t.Errorf("pinned: %v", rec)
	}
	update(&controlapi.UpdateBuildHistoryRequest{Ref: "new", Finalize: true})
	update(&controlapi.UpdateBuildHistoryRequest{Ref: "new", Delete: true})
	expect("DELETED new")
	_, err = w.control.UpdateBuildHistory(t.Context(), &controlapi.UpdateBuildHistoryRequest{Ref: "new", Delete: true})
	if status.Code(err) != codes.NotFound {
		t.Errorf("deleting it again: %v", err)
	}
	if err := w.history.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("when the daemon goes: %v", err)
	}
}

// Filters and limits choose records as BuildKit's do.
func TestFilter(t *testing.T) {
	now := time.Now()
	at := now.Add(-24 * time.Hour)
	recs := []*history.Record{
		{ID: "foo123", Status: history.Completed, Created: at, Ended: at.Add(time.Minute)},
		{ID: "bar456", Status: history.Running, Created: at.Add(time.Hour), Origin: worker.Origin{
			Attrs: map[string]string{"context": "https://github.com/user/repo.git#abcdef123"},
		}},
		{ID: "foo789", Status: history.Canceled, Created: at.Add(2 * time.Hour), Ended: at.Add(2*time.Hour + 10*time.Minute), Origin: worker.Origin{
			Attrs: map[string]string{"vcs:source": "testrepo"},
		}},
	}
	for _, c := range []struct {
		filters []string
		want    string
	}{
		{nil, "foo123 bar456 foo789"},
		{[]string{"ref==foo"}, ""},
		{[]string{"ref~=foo"}, "foo123 foo789"},
		{[]string{"ref~=^foo,status==canceled"}, "foo789"},
		{[]string{"status==running"}, "bar456"},
		{[]string{"status!=running"}, "foo123 foo789"},
		{[]string{"repository==https://github.com/user/repo.git"}, "bar456"},
		{[]string{"repository!=testrepo"}, "foo123 bar456"},
		{[]string{"completedAt>23h"}, "foo789"},
		{[]string{"startedAt<23h"}, "foo123"},
		{[]string{"startedAt<=23h"}, "foo123 bar456"},
		{[]string{"startedAt>=" + at.Add(90*time.Minute).Format(time.RFC3339)}, "foo789"},
		{[]string{"duration>5m"}, "foo789"},
		{[]string{"startedAt>=23h", "ref==foo123"}, "foo123 bar456 foo789"},
		{[]string{"startedAt>24h,completedAt>22h"}, "foo789"},
		{[]string{`ref=="foo123"`}, "foo123"},
	} {
		match, err := parseFilters(c.filters, now)
		if err != nil {
			t.Errorf("%v: %v", c.filters, err)
			continue
		}
		var got []string
		for _, r := range recs {
			if match(r) {
				got = append(got, r.ID)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: got %v, want %s", c.filters, got, c.want)
		}
	}
	for _, bad := range []string{"ref+foo", "startedAt>x", "duration<1", "", `ref=="a`} {
		if _, err := parseFilters([]string{bad}, now); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// FuzzFilter checks that no filter of a client's makes the daemon panic.
func FuzzFilter(f *testing.F) {
	f.Add("ref~=foo,startedAt>24h")
	f.Add(`status=="a"`)
	f.Fuzz(func(_ *testing.T, filter string) {
		match, err := parseFilters([]string{filter}, time.Unix(1, 0))
		if err == nil {
			match(&history.Record{ID: "x", Origin: worker.Origin{Attrs: map[string]string{"context": "git@x:y"}}})
		}
	})
}

// A limit gives the newest of those that match.
func TestLimit(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"a1", "b", "a2", "a3"} {
		w.build(&worker.BuildRequest{ID: id}, nil)
	}
	got := w.listen(&controlapi.BuildHistoryRequest{Limit: 2, Filter: []string{"ref~=a"}})
	if refs(got) != "COMPLETE a3, COMPLETE a2" {
		t.Errorf("got %s", refs(got))
	}
	for _, req := range []*controlapi.BuildHistoryRequest{{Limit: -1}, {Filter: []string{"ref+foo"}}} {
		stream, err := w.control.ListenBuildHistory(t.Context(), req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: got %v", req, err)
		}
	}
}

// The content service has the blobs of the store and those of the history, in whole or in part, and takes none.
func TestContent(t *testing.T) {
	w := newWorld(t)
	w.build(&worker.BuildRequest{ID: "a"}, nil)
	logs := w.listen(&controlapi.BuildHistoryRequest{})[0].GetRecord().GetLogs()
	big, err := w.blobs.Put("text/plain", []byte(strings.Repeat("0123456789", 300_000)), false)
	if err != nil {
		t.Fatal(err)
	}
	w.read(big.Digest.String())
	stream, err := w.content.Read(t.Context(), &contentapi.ReadContentRequest{Digest: big.Digest.String(), Offset: 2_000_005, Size: 3})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || string(m.GetData()) != "567" || m.GetOffset() != 2_000_005 {
		t.Errorf("got %v, %v", m, err)
	}
	info, err := w.content.Info(t.Context(), &contentapi.InfoRequest{Digest: logs.GetDigest()})
	if err != nil || info.GetInfo().GetSize() != logs.GetSize() {
		t.Errorf("got %v, %v", info, err)
	}
	list, err := w.content.List(t.Context(), &contentapi.ListContentRequest{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := list.Recv()
	var all []string
	for _, i := range m.GetInfo() {
		all = append(all, i.GetDigest())
	}
	if err != nil || !slices.Contains(all, logs.GetDigest()) || !slices.Contains(all, big.Digest.String()) {
		t.Errorf("listed %v, %v", all, err)
	}
	for d, want := range map[string]codes.Code{
		"sha256:../../x": codes.InvalidArgument, "": codes.InvalidArgument, digest.FromString("none").String(): codes.NotFound,
	} {
		if _, err := w.content.Info(t.Context(), &contentapi.InfoRequest{Digest: d}); status.Code(err) != want {
			t.Errorf("%q: got %v, want %v", d, err, want)
		}
	}
	_, err = w.content.Delete(t.Context(), &contentapi.DeleteContentRequest{Digest: big.Digest.String()})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("deleting: %v", err)
	}
	write, err := w.content.Write(t.Context())
	if err == nil {
		_, err = write.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("writing: %v", err)
	}
}

// spansOf reads a trace.
func spansOf(t *testing.T, raw []byte) map[string]span {
	t.Helper()
	out := map[string]span{}
	for dec := json.NewDecoder(strings.NewReader(string(raw))); ; {
		var sp span
		err := dec.Decode(&sp)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[sp.Name] = sp
	}
}

// The trace of a build has its steps below the span of the client's that asked for it, and the client's own spans,
// whenever they come.
func TestTrace(t *testing.T) {
	w := newWorld(t)
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	id := func(hex string) []byte {
		var out []byte
		for i := 0; i < len(hex); i += 2 {
			var b byte
			for _, c := range hex[i : i+2] {
				b = b<<4 | byte(strings.IndexRune("0123456789abcdef", c))
			}
			out = append(out, b)
		}
		return out
	}
	export := func(name string) {
		t.Helper()
		_, err := w.traces.Export(t.Context(), &tracev1.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
			Resource: &resourcepb.Resource{},
			ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{
				Name: name, TraceId: id(trace), SpanId: id(parent), StartTimeUnixNano: 1, EndTimeUnixNano: 2,
				Attributes: []*commonpb.KeyValue{
					{Key: "k", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: 5}}},
					{Key: "no number", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: math.NaN()}}},
				},
			}}}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	export("early")
	ctx := context.WithValue(t.Context(), traceKey{}, "00-"+trace+"-"+parent+"-01")
	for _, build := range []string{"a", "b"} {
		_, err := w.history.Wrap(script(func(_ context.Context, send func(solver.Event)) (*worker.BuildResult, error) {
			v := solver.NewVertex(text("x"), nil, solver.Meta{Name: "step"})
			send(solver.Event{Kind: solver.Started, Vertex: v})
			send(solver.Event{Kind: solver.Failed, Vertex: v, Err: errors.New("no")})
			return nil, errors.New("no")
		})).Build(ctx, &worker.BuildRequest{ID: build}, nil)
		if err == nil {
			t.Fatal("it did not fail")
		}
	}
	read := func(build string) map[string]span {
		return spansOf(t, w.read(w.listen(&controlapi.BuildHistoryRequest{Ref: build})[0].GetRecord().GetTrace().GetDigest()))
	}
	check := func(got map[string]span, want ...string) {
		t.Helper()
		var names []string
		for name, sp := range got {
			names = append(names, name)
			if sp.SpanContext.TraceID != trace {
				t.Errorf("%s is of trace %s", name, sp.SpanContext.TraceID)
			}
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			t.Errorf("got %v, want %v", names, want)
		}
	}
	got := read("a")
	check(got, "build", "early", "step")
	if got["build"].Parent.SpanID != parent || got["step"].Parent.SpanID != got["build"].SpanContext.SpanID ||
		got["step"].Status.Code != "Error" || got["early"].Attributes[0].Value.Type != "INT64" {
		t.Errorf("got %+v", got)
	}
	check(read("b"), "build", "early", "step")
	export("late")
	check(read("a"), "build", "early", "late", "step")
	check(read("b"), "build", "early", "late", "step")
	if n := len(w.server.strays); n != 0 || w.server.bytes != 0 {
		t.Errorf("%d spans of %d bytes are kept that all records have", n, w.server.bytes)
	}
}

// TestStrays checks that what spans have in common is bounded like the rest of them, and which values a span cannot have.
func TestStrays(t *testing.T) {
	w := newWorld(t)
	resource := &resourcepb.Resource{Attributes: []*commonpb.KeyValue{{
		Key: "k", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: strings.Repeat("x", strayBytes/10)}},
	}}}
	spans := &tracepb.ScopeSpans{}
	for i := range 100 {
		spans.Spans = append(spans.Spans, &tracepb.Span{TraceId: fmt.Appendf(nil, "%016d", i), SpanId: make([]byte, 8)})
	}
	req := &tracev1.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{Resource: resource, ScopeSpans: []*tracepb.ScopeSpans{spans}}}}
	if _, err := w.traces.Export(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if n := len(w.server.strays); n == 0 || n > 10 {
		t.Errorf("%d spans are kept", n)
	}
	list := func(in ...*commonpb.AnyValue) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{Values: in}}}
	}
	one := &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: true}}
	inf := &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: math.Inf(1)}}
	for _, tc := range []struct {
		name string
		in   *commonpb.AnyValue
		want string
	}{{"one", one, "BOOL"}, {"a list", list(one, one), "BOOLSLICE"}, {"lists", list(list(one)), ""}, {"no number", inf, ""}, {"nothing", list(), ""}} {
		if got, ok := value(tc.in); ok != (tc.want != "") || ok && got.Type != tc.want {
			t.Errorf("%s: got %v, %t, want %q", tc.name, got, ok, tc.want)
		}
	}
}

// TestTraceParent checks which headers are taken.
func TestTraceParent(t *testing.T) {
	for header, want := range map[string]bool{
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":   true,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x": true,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":   false,
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01":   false,
		"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01":   false,
		"00-0af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01":     false,
		"":   false,
		"--": false,
	} {
		if _, _, ok := parseParent(header); ok != want {
			t.Errorf("%q: got %v", header, ok)
		}
	}
}
