package buildkit

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// histories returns the records that the daemon has.
func (d *daemon) histories(req *controlapi.BuildHistoryRequest) []*controlapi.BuildHistoryRecord {
	d.t.Helper()
	req.EarlyExit = true
	stream, err := d.c.ControlClient().ListenBuildHistory(d.t.Context(), req)
	if err != nil {
		d.t.Fatal(err)
	}
	var out []*controlapi.BuildHistoryRecord
	for {
		ev, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			d.t.Fatal(err)
		}
		out = append(out, ev.GetRecord())
	}
}

// blob reads what a record refers to, through the content service.
func (d *daemon) blob(desc *controlapi.Descriptor) []byte {
	d.t.Helper()
	out, err := content.ReadBlob(d.t.Context(), proxy.NewContentStore(d.c.ContentClient()), ocispec.Descriptor{
		MediaType: desc.GetMediaType(), Digest: digest.Digest(desc.GetDigest()), Size: desc.GetSize(),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// TestHistory checks what BuildKit's client finds of its builds, and of the daemon's own: the request, the outcome, the
// error as it was, the log, the trace and the image.
func TestHistory(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nARG secret\nRUN echo hello > /x; echo out\n"})
	opt.Ref = "good"
	opt.FrontendAttrs["build-arg:A"] = "b"
	opt.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"name": "docker.io/library/made:1"}}}
	d.must(opt)
	opt = opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo no; exit 7\n"})
	opt.Ref = "bad"
	if _, _, err := d.solve(t.Context(), opt); err == nil {
		t.Fatal("it did not fail")
	}

	recs := d.histories(&controlapi.BuildHistoryRequest{Ref: "good"})
	if len(recs) != 1 {
		t.Fatalf("got %v", recs)
	}
	good := recs[0]
	if good.GetFrontend() != "dockerfile.v0" || good.GetFrontendAttrs()["build-arg:A"] != "b" || good.GetCompletedAt() == nil ||
		good.GetError() != nil || good.GetNumTotalSteps() == 0 || good.GetNumCompletedSteps() != good.GetNumTotalSteps() {
		t.Errorf("got %v", good)
	}
	if len(good.GetExporters()) != 1 || good.GetExporters()[0].GetAttrs()["name"] != "docker.io/library/made:1" {
		t.Errorf("the exporters are %v", good.GetExporters())
	}
	if res := good.GetResult().GetResults()[0]; res != nil {
		var m ocispec.Manifest
		if err := json.Unmarshal(d.blob(res), &m); err != nil || m.Config.Digest == "" {
			t.Errorf("the result is %v: %v", m, err)
		}
	}
	if !strings.Contains(string(d.blob(good.GetLogs())), "out\n") || !strings.Contains(string(d.blob(good.GetTrace())), "RUN echo hello") {
		t.Error("the log or the trace has nothing of the step")
	}

	recs = d.histories(&controlapi.BuildHistoryRequest{Filter: []string{"status==error"}, Limit: 5})
	if len(recs) != 1 || recs[0].GetRef() != "bad" {
		t.Fatalf("got %v", recs)
	}
	var st spb.Status
	if err := proto.Unmarshal(d.blob(recs[0].GetExternalError()), &st); err != nil {
		t.Fatal(err)
	}
	err := grpcerrors.FromGRPC(status.ErrorProto(&st))
	if src := errdefs.Sources(err); len(src) != 1 || src[0].Ranges[0].Start.Line != 2 || !strings.Contains(err.Error(), "exit code: 7") {
		t.Errorf("the error is %v at %v", err, src)
	}

	if got := d.boxbuild("builds", "ls", "-q", "--no-trunc"); got != "bad\ngood\n" {
		t.Errorf("our own list: %q", got)
	}
	_, err = d.c.ControlClient().UpdateBuildHistory(t.Context(), &controlapi.UpdateBuildHistoryRequest{Ref: "bad", Delete: true})
	if err != nil {
		t.Error(err)
	}
	if left := d.histories(&controlapi.BuildHistoryRequest{}); len(left) != 1 || left[0].GetRef() != "good" {
		t.Errorf("left: %v", left)
	}
}

// TestStatusOfThePast checks that the progress of a build can be had after it has ended.
func TestStatusOfThePast(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo to be seen later\n"})
	opt.Ref = "past"
	d.must(opt)
	stream, err := d.c.ControlClient().Status(t.Context(), &controlapi.StatusRequest{Ref: "past"})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range m.GetLogs() {
			log.Write(l.GetMsg())
		}
	}
	if !strings.Contains(log.String(), "to be seen later\n") {
		t.Errorf("got %q", log.String())
	}
}
