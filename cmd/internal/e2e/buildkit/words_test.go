package buildkit

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

var hash = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// parts are the parts of a vertex, each once, in the order in which they were told of; without digests.
func (p *progress) parts(name string) (out []string) {
	for _, s := range p.statuses {
		id := hash.ReplaceAllString(s.ID, "HASH")
		if p.names[s.Vertex.String()] == name && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// TestExportParts checks that an export is one vertex, and that its parts are BuildKit's, in their order, and end.
func TestExportParts(t *testing.T) {
	d := start(t)
	host := registrytest.Start(t, registrytest.New(registrytest.Behaviour{}))
	made := []string{"exporting layers", "exporting manifest HASH", "exporting config HASH"}
	var oci, docker, files sink
	for name, tc := range map[string]struct {
		export client.ExportEntry
		vertex string
		want   []string
	}{
		"image": {
			client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{"name": "a:1"}},
			"exporting to image",
			slices.Concat(made, []string{"writing image HASH", "naming to docker.io/library/a:1"}),
		},
		"push": {
			client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{"name": host + "/a:1", "push": "true"}},
			"exporting to image",
			slices.Concat(made, []string{"pushing layers", "pushing manifest for " + host + "/a:1@HASH"}),
		},
		"oci":    {oci.to(client.ExporterOCI, nil), "exporting to oci image format", append(slices.Clone(made), "sending tarball")},
		"docker": {docker.to(client.ExporterDocker, nil), "exporting to docker image format", append(slices.Clone(made), "sending tarball")},
		"tar":    {files.to(client.ExporterTar, nil), "exporting to client tarball", []string{"sending tarball"}},
	} {
		opt := opts(t, small)
		opt.Exports = []client.ExportEntry{tc.export}
		_, p := d.must(opt)
		if last := p.order[len(p.order)-1]; last != tc.vertex {
			t.Errorf("%s: the last vertex is %q", name, last)
		}
		got := slices.DeleteFunc(p.parts(tc.vertex), func(s string) bool { // BuildKit's push tells nothing of single blobs
			return strings.HasPrefix(s, "pushing layer ") || strings.HasPrefix(s, "pushing config ")
		})
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: the parts are %q, want %q", name, got, tc.want)
		}
		open := map[string]bool{}
		for _, s := range p.statuses {
			open[s.ID] = s.Completed == nil
		}
		for id := range open {
			if open[id] {
				t.Errorf("%s: %q does not end", name, id)
			}
		}
	}
}

// TestStepError checks that the error of a step of a client's own graph has nothing before what the step says, however the
// client has it built.
func TestStepError(t *testing.T) {
	d := start(t)
	d.load()
	const want = `process "/bin/sh -c exit 3" did not complete successfully: exit code: 3`
	state := shell(llb.Image("busybox"), "exit 3")
	_, _, defined := d.define(state, client.SolveOpt{})
	var inner error
	_, _, directed := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		_, inner = solved(ctx, c, state, true)
		return nil, inner
	})
	for name, err := range map[string]error{"definition": defined, "directed": directed, "inside": inner} {
		if err == nil || strings.TrimPrefix(err.Error(), "failed to solve: ") != want {
			t.Errorf("%s: got %q, want %q", name, err, want)
		}
	}
}

// TestUsedID checks that a build's ID is not taken again, by whomever, while the history has it: of the first build nothing
// is lost. A build without an ID is refused.
func TestUsedID(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo of the first\n"})
	opt.Ref = "used"
	d.must(opt)
	before := d.histories(&controlapi.BuildHistoryRequest{Ref: "used"})
	again := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo of the second\n"})
	again.Ref = "used"
	if _, err := d.c.Solve(t.Context(), nil, again, drained()); err == nil || !strings.HasSuffix(err.Error(), "job ID used exists") {
		t.Errorf("got %v", err)
	}
	after := d.histories(&controlapi.BuildHistoryRequest{Ref: "used"})
	if len(before) != 1 || len(after) != 1 || !before[0].GetCreatedAt().AsTime().Equal(after[0].GetCreatedAt().AsTime()) ||
		after[0].GetLogs().GetDigest() != before[0].GetLogs().GetDigest() {
		t.Errorf("got %v after %v", after, before)
	}
	if log := d.boxbuild("builds", "logs", "used"); !strings.Contains(log, "of the first") || strings.Contains(log, "of the second") {
		t.Errorf("the log is %s", log)
	}
	_, err := d.c.ControlClient().Solve(t.Context(), &controlapi.SolveRequest{Frontend: "dockerfile.v0"})
	if status.Code(err) != codes.Internal || !strings.HasSuffix(err.Error(), "key required") {
		t.Errorf("without an ID: got %v", err)
	}
	if all := d.histories(&controlapi.BuildHistoryRequest{}); len(all) != 1 {
		t.Errorf("the history has %v", all)
	}
}

// TestSourceVertices checks that of a client's own graph nothing is shown but its operations, each as one vertex: that a
// source is found and fetched is told of under the digest that the client has for it.
func TestSourceVertices(t *testing.T) {
	d := start(t)
	d.load()
	state := llb.Image("busybox").Run(llb.Args([]string{"/bin/sh", "-c", "true"}), llb.AddMount("/c", llb.Local("context"))).Root()
	def, p, err := d.define(state, client.SolveOpt{LocalMounts: map[string]fsutil.FS{"context": tree(t, small)}})
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(slices.Values(p.order))
	if want := []string{"/bin/sh -c true", "docker-image://docker.io/library/busybox:latest", "local://context"}; !slices.Equal(got, want) {
		t.Errorf("the vertices are %q, want %q", got, want)
	}
	for _, v := range p.vertices {
		if _, ok := def.Metadata[v.Digest]; !ok || v.Completed == nil || v.Error != "" {
			t.Errorf("%s is no operation of the client's, or has not ended well: %+v", v.Name, v)
		}
	}
	const part = "resolve docker.io/library/busybox:latest"
	if parts := p.parts("docker-image://docker.io/library/busybox:latest"); !slices.Contains(parts, part) {
		t.Errorf("the parts of the image are %q", parts)
	}
}
