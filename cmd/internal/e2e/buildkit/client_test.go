package buildkit

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/exporter"
	"github.com/moby/buildkit/session/exporter/exporterprovider"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestSecret checks that a step reads the client's secret, and that without it the step fails.
func TestSecret(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{
		"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=key,required=true echo \"<$(cat /run/secrets/key)>\"\n",
	})
	if _, _, err := d.solve(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "secret key: not found") {
		t.Errorf("without a secret: got %v", err)
	}
	opt.Session = []session.Attachable{secretsprovider.FromMap(map[string][]byte{"key": []byte("value")})}
	_, p := d.must(opt)
	if run := p.has("RUN"); run == nil || !strings.Contains(p.logs[run.Name], "<value>") {
		t.Errorf("the logs are %q", p.logs)
	}
}

// TestReplay checks that who comes when a build has ended hears all of it, and that an unknown build is named.
func TestReplay(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo hello\nFROB\n"})
	opt.Ref = "failed"
	_, _, err := d.solve(t.Context(), opt)
	if err == nil {
		t.Fatal("the build succeeded")
	}
	opt = opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo hello\n"})
	opt.Ref = "done"
	_, live := d.must(opt)
	for id, want := range map[string]string{"failed": "[internal] load build definition from Dockerfile", "done": "[2/2] RUN echo hello"} {
		p := d.replay(id)
		if p.vertices[want] == nil {
			t.Errorf("of build %s there are only %q", id, p.order)
		}
		if id == "done" && (!maps.Equal(p.logs, live.logs) || len(p.vertices) != len(live.vertices)) {
			t.Errorf("got %q with %q, live it was %q with %q", p.order, p.logs, live.order, live.logs)
		}
	}
}

// replay returns what Status has of a build.
func (d *daemon) replay(id string) *progress {
	d.t.Helper()
	stream, err := d.c.ControlClient().Status(d.t.Context(), &controlapi.StatusRequest{Ref: id})
	if err != nil {
		d.t.Fatal(err)
	}
	ch := make(chan *client.SolveStatus)
	done := make(chan *progress)
	go func() { done <- take(ch) }()
	for {
		m, err := stream.Recv()
		if err != nil {
			break // the end, or the test sees what is missing
		}
		ch <- client.NewSolveStatus(m)
	}
	close(ch)
	if md, err := stream.Header(); err != nil || len(md.Get("buildkit-current-timestamp")) != 1 {
		d.t.Errorf("the headers are %v, %v", md, err)
	}
	return <-done
}

// TestDuplicate checks that two builds of one ID do not run at once.
func TestDuplicate(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo up; sleep 8312543\n"})
	opt.Ref = "twin"
	ctx, cancel := context.WithCancel(t.Context())
	ch := make(chan *client.SolveStatus)
	up := make(chan struct{})
	go func() {
		for s := range ch {
			if len(s.Logs) > 0 {
				close(up)
			}
		}
	}()
	done := make(chan error, 1)
	go func() {
		_, err := d.c.Solve(ctx, nil, opt, ch)
		done <- err
	}()
	<-up
	_, err := d.c.ControlClient().Solve(t.Context(), &controlapi.SolveRequest{Ref: "twin", Frontend: "dockerfile.v0"})
	if err == nil || !strings.Contains(err.Error(), "job ID twin exists") {
		t.Errorf("got %v", err)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the cancelled build succeeded")
	}
}

// TestSourcePolicy checks that a source which the request denies is not used, and that one is replaced.
func TestSourcePolicy(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM docker.io/library/nothing:1\nRUN echo from busybox\n"})
	rule := func(a spb.PolicyAction, id, to string) *spb.Rule {
		return &spb.Rule{Action: a, Selector: &spb.Selector{Identifier: id}, Updates: &spb.Update{Identifier: to}}
	}
	opt.SourcePolicy = &spb.Policy{Rules: []*spb.Rule{
		rule(spb.PolicyAction_CONVERT, "docker-image://docker.io/library/nothing:*", "docker-image://docker.io/library/busybox:latest"),
	}}
	if _, p := d.must(opt); p.has("RUN echo") == nil {
		t.Errorf("the steps are %q", p.order)
	}
	opt.SourcePolicy.Rules = append(opt.SourcePolicy.Rules, rule(spb.PolicyAction_DENY, "docker-image://docker.io/library/busybox:latest", ""))
	if _, _, err := d.solve(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "denied by policy") {
		t.Errorf("got %v", err)
	}
}

// TestUndone checks that what the daemon does not do is said in the build.
func TestUndone(t *testing.T) {
	d := start(t)
	opt := opts(t, small)
	opt.FrontendAttrs["attest:provenance"] = "mode=max"
	opt.CacheExports = []client.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "r/c"}}}
	opt.CacheImports = []client.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "r/i"}}}
	_, p := d.must(opt)
	var got strings.Builder
	for _, w := range p.warnings {
		got.Write(w.Short)
		got.WriteByte('\n')
	}
	for _, want := range []string{"no provenance attestation was made", "no cache was exported to r/c", "no cache was imported from r/i"} {
		if strings.Count(got.String(), want) != 1 {
			t.Errorf("%q is not once in the warnings:\n%s", want, got.String())
		}
	}
}

// A chooser is a client that chooses its outputs after the build.
type chooser struct {
	exporter.UnimplementedExporterServer
	list  []*exporter.ExporterRequest
	final map[string]string
}

func (c *chooser) Register(s *grpc.Server) { exporter.RegisterExporterServer(s, c) }

func (c *chooser) FindExporters(context.Context, *exporter.FindExportersRequest) (*exporter.FindExportersResponse, error) {
	return &exporter.FindExportersResponse{Exporters: c.list}, nil
}

func (c *chooser) FinalizeExport(_ context.Context, req *exporter.FinalizeExportRequest) (*exporter.FinalizeExportResponse, error) {
	c.final = req.ExporterResponse
	return &exporter.FinalizeExportResponse{}, nil
}

// TestChosenOutputs checks outputs that the client chooses after the build.
func TestChosenOutputs(t *testing.T) {
	d := start(t)
	opt := opts(t, small)
	c := &chooser{list: []*exporter.ExporterRequest{{Type: "image", Attrs: map[string]string{"name": "chosen:1", "glitter": "1"}}}}
	opt.Session, opt.EnableSessionExporter = []session.Attachable{c}, true
	resp, p := d.must(opt)
	if len(p.warnings) != 1 || !strings.Contains(string(p.warnings[0].Short), `"glitter"`) {
		t.Errorf("the warnings are %v", p.warnings)
	}
	if got := resp.ExporterResponse["image.name"]; got != "chosen:1" || c.final["image.name"] != got {
		t.Errorf("the response is %v, the client was told %v", resp.ExporterResponse, c.final)
	}
}

// TestChosenByDirector checks that a client which directs a build can look at the result when it is asked for outputs, and that
// it may have no answer to one half of the questions.
func TestChosenByDirector(t *testing.T) {
	d := start(t)
	var seen []string
	ask := func(ctx context.Context, _ map[string][]byte, refs []string) ([]*exporter.ExporterRequest, error) {
		for _, r := range refs {
			resp, err := d.c.GatewayClientForBuild("directed").ReadDir(ctx, &gatewaypb.ReadDirRequest{Ref: r, DirPath: "/"})
			if err != nil {
				return nil, err
			}
			for _, e := range resp.GetEntries() {
				seen = append(seen, e.GetPath())
			}
		}
		return []*exporter.ExporterRequest{{Type: "image", Attrs: map[string]string{"name": "directed:1"}}}, nil
	}
	build := func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		return c.Solve(ctx, gateway.SolveRequest{Definition: definition(ctx, t, llb.Scratch().File(llb.Mkfile("/made", 0o644, nil)))})
	}
	opt := client.SolveOpt{Ref: "directed", EnableSessionExporter: true, Session: []session.Attachable{exporterprovider.New(ask)}}
	resp, _, err := d.direct(t.Context(), opt, build)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.ExporterResponse["image.name"]; got != "directed:1" || !slices.Equal(seen, []string{"made"}) {
		t.Errorf("the image is %q, the client has seen %q", got, seen)
	}
	told := false
	opt.Ref, opt.Session = "told", []session.Attachable{exporterprovider.New(nil, exporterprovider.WithFinalizeCallback(
		func(context.Context, map[string]string) error {
			told = true
			return nil
		}))}
	if _, _, err := d.direct(t.Context(), opt, build); err != nil || !told {
		t.Errorf("a client that is only told the end: %v, told %v", err, told)
	}
}

// TestCache checks what is told of the cache, and that pruning removes what the filters say and tells it.
func TestCache(t *testing.T) {
	d := start(t)
	d.load()
	d.must(opts(t, map[string]string{
		"Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c echo x > /c/x\nRUN echo step > /step\n",
	}))
	all, err := d.c.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[client.UsageRecordType]int{}
	for _, u := range all {
		kinds[u.RecordType]++
		if u.Mutable != (u.RecordType == client.UsageRecordTypeCacheMount) {
			t.Errorf("the record %+v", u)
		}
	}
	if kinds[client.UsageRecordTypeCacheMount] != 1 || kinds[client.UsageRecordTypeRegular] < 2 {
		t.Errorf("the records are of %v", kinds)
	}
	mounts, err := d.c.DiskUsage(t.Context(), client.WithFilter([]string{"type==exec.cachemount"}))
	if err != nil || len(mounts) != 1 {
		t.Fatalf("got %v, %v", mounts, err)
	}
	ch := make(chan client.UsageInfo)
	var gone []client.UsageInfo
	done := make(chan struct{})
	go func() {
		defer close(done)
		for u := range ch {
			gone = append(gone, u)
		}
	}()
	if err := d.c.Prune(t.Context(), ch, client.WithFilter([]string{"type==exec.cachemount"})); err != nil {
		t.Fatal(err)
	}
	close(ch)
	<-done
	if len(gone) != 1 || gone[0].ID != mounts[0].ID {
		t.Errorf("removed were %v", gone)
	}
	left, err := d.c.DiskUsage(t.Context())
	if err != nil || len(left) != len(all)-1 {
		t.Errorf("left are %d of %d, %v", len(left), len(all), err)
	}
	if err := d.c.Prune(t.Context(), nil, client.WithFilter([]string{"type=="})); err == nil {
		t.Error("a bad filter is no error")
	}
	if err := d.c.Prune(t.Context(), nil, client.PruneAll); err != nil {
		t.Fatal(err)
	}
	if left, err := d.c.DiskUsage(t.Context()); err != nil || len(left) >= len(all)-1 {
		t.Errorf("left are %d of %d, %v", len(left), len(all), err)
	}
}

// TestWorkers checks what the daemon says of itself.
func TestWorkers(t *testing.T) {
	d := start(t)
	list, err := d.c.ListWorkers(t.Context())
	if err != nil || len(list) != 1 || len(list[0].Platforms) == 0 || list[0].ID == "" || list[0].BuildkitVersion.Version == "" {
		t.Fatalf("got %+v, %v", list, err)
	}
	if list[0].Labels["org.mobyproject.buildkit.worker.executor"] != "oci" {
		t.Errorf("the labels are %v", list[0].Labels)
	}
	for filter, want := range map[string]int{
		`id==` + list[0].ID: 1, "id==x": 0, `labels."org.mobyproject.buildkit.worker.executor"==oci`: 1,
	} {
		if got, err := d.c.ListWorkers(t.Context(), client.WithFilter([]string{filter})); err != nil || len(got) != want {
			t.Errorf("%s: got %d, %v, want %d", filter, len(got), err, want)
		}
	}
	info, err := d.c.Info(t.Context())
	if err != nil || info.BuildkitVersion.Package != "github.com/boxbuild/boxbuild" {
		t.Errorf("got %+v, %v", info, err)
	}
}

// TestNoSession checks that a session which does not come is an error that names it, and does not keep the client waiting
// for long.
func TestNoSession(t *testing.T) {
	d := start(t)
	_, err := d.c.ControlClient().Solve(t.Context(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0", Session: "nobody"})
	if err == nil || !strings.Contains(err.Error(), "nobody") || status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

// TestSessionNotNeeded checks that a build waits for its session only if it needs something of the client's, and then, if the
// session comes late, gets it. A definition of nothing is a build of nothing, and no record is finalised at once.
func TestSessionNotNeeded(t *testing.T) {
	d := start(t)
	def, err := llb.Scratch().File(llb.Mkfile("/a", 0o644, []byte("x"))).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	control := d.c.ControlClient()
	for name, def := range map[string]*pb.Definition{"nothing": {}, "a file": def.ToPB()} {
		if _, err := control.Solve(t.Context(), &controlapi.SolveRequest{Ref: name, Session: "nobody", Definition: def}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	res, err := control.Solve(t.Context(), &controlapi.SolveRequest{
		Ref: "image", Definition: &pb.Definition{}, Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "empty:1"}}},
	})
	if err != nil || res.GetExporterResponse()["containerimage.digest"] == "" {
		t.Errorf("an image of nothing: %v, %v", res, err)
	}
	if _, err := control.UpdateBuildHistory(t.Context(), &controlapi.UpdateBuildHistoryRequest{Ref: "nobody", Finalize: true}); err != nil {
		t.Errorf("finalising no record: %v", err)
	}

	s, err := session.NewSession(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	fs := tree(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	s.Allow(filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": fs, "dockerfile": fs}))
	solved := make(chan error, 1)
	go func() {
		_, err := control.Solve(t.Context(), &controlapi.SolveRequest{Ref: "late", Session: s.ID(), Frontend: "dockerfile.v0"})
		solved <- err
	}()
	for len(d.histories(&controlapi.BuildHistoryRequest{Ref: "late"})) == 0 { // until it has begun
		time.Sleep(time.Millisecond)
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(t.Context(), d.c.Dialer()) }()
	if err := <-solved; err != nil {
		t.Errorf("with a session that comes late: %v", err)
	}
	if err := errors.Join(s.Close(), <-ran); err != nil {
		t.Error(err)
	}
}
