package buildkit

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// TestHistoryResults checks that the record of a build has what each of its outputs has made, by the place of the output, as
// content: also of what left the store at once, and for as long as there is the record.
func TestHistoryResults(t *testing.T) {
	d := start(t)
	addr := registrytest.Start(t, registrytest.New(registrytest.Behaviour{}))
	opt := opts(t, small)
	opt.Ref = "all"
	var files, oci, docker sink
	opt.Exports = []client.ExportEntry{
		files.to(client.ExporterTar, nil),
		oci.to(client.ExporterOCI, map[string]string{"annotation.a": "b"}),
		docker.to(client.ExporterDocker, nil),
		{Type: client.ExporterImage, Attrs: map[string]string{"name": addr + "/app:1", "push": "true", "compression": "zstd", "force-compression": "true"}},
	}
	resp, _ := d.must(opt)
	several := opts(t, small)
	several.Ref = "several"
	several.FrontendAttrs["platform"] = "linux/amd64,linux/arm64"
	several.Exports = []client.ExportEntry{oci.to(client.ExporterOCI, nil)}
	d.must(several)
	none := opts(t, small)
	none.Ref = "none"
	none.Exports = []client.ExportEntry{files.to(client.ExporterTar, nil)}
	d.must(none)

	if err := d.c.Prune(t.Context(), nil, client.PruneAll); err != nil {
		t.Fatal(err)
	}
	res := d.result("all")
	if got := slices.Sorted(maps.Keys(res.GetResults())); !slices.Equal(got, []int64{1, 2, 3}) {
		t.Fatalf("there are results of the outputs %v", got)
	}
	if res.GetResultDeprecated().GetDigest() != res.GetResults()[1].GetDigest() {
		t.Error("the first is not what old clients are told")
	}
	if got := res.GetResults()[3].GetDigest(); got != resp.ExporterResponse["containerimage.digest"] {
		t.Errorf("what was pushed is %s, and the client was told %v", got, resp.ExporterResponse)
	}
	seen := map[string]bool{}
	for _, desc := range res.GetResults() {
		seen[desc.GetDigest()] = true
		d.manifest(desc)
	}
	if len(seen) != 3 {
		t.Errorf("%d of the manifests are different", len(seen))
	}

	res = d.result("several")
	var idx ocispec.Index
	if err := json.Unmarshal(d.blob(res.GetResults()[0]), &idx); err != nil || len(idx.Manifests) != 2 {
		t.Fatalf("the index is %v: %v", idx, err)
	}
	for _, m := range idx.Manifests {
		d.manifest(&controlapi.Descriptor{MediaType: m.MediaType, Digest: m.Digest.String(), Size: m.Size})
	}
	if res := d.result("none"); res != nil {
		t.Errorf("files are %v", res)
	}
}

// TestHistoryUnpushed checks that the record of a build whose push fails has what its outputs had made till then, the one that
// was to be pushed too, and that of one which has made nothing has no results.
func TestHistoryUnpushed(t *testing.T) {
	d := start(t)
	closed := registrytest.Start(t, registrytest.New(registrytest.Behaviour{Auth: &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}}))
	opt := opts(t, small)
	opt.Ref = "unpushed"
	var oci, late sink
	opt.Exports = []client.ExportEntry{
		oci.to(client.ExporterOCI, map[string]string{"annotation.a": "b"}),
		{Type: client.ExporterImage, Attrs: map[string]string{"name": closed + "/app:1", "push": "true", "compression": "zstd", "force-compression": "true"}},
		late.to(client.ExporterTar, nil),
	}
	if _, _, err := d.solve(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "401") {
		t.Fatalf("the build ends with %v", err)
	}
	unmade := opts(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY nothing /\n"})
	unmade.Ref = "unmade"
	unmade.Exports = opt.Exports
	if _, _, err := d.solve(t.Context(), unmade); err == nil {
		t.Fatal("a build that cannot be made succeeds")
	}
	if err := d.c.Prune(t.Context(), nil, client.PruneAll); err != nil {
		t.Fatal(err)
	}
	res := d.result("unpushed")
	if got := slices.Sorted(maps.Keys(res.GetResults())); !slices.Equal(got, []int64{0, 1}) {
		t.Fatalf("there are results of the outputs %v", got)
	}
	for _, desc := range res.GetResults() {
		d.manifest(desc)
	}
	if res.GetResults()[0].GetDigest() == res.GetResults()[1].GetDigest() {
		t.Error("both outputs have one manifest")
	}
	if res := d.result("unmade"); res != nil {
		t.Errorf("what was never made is %v", res)
	}
}

// result returns what the record of a build says that was made.
func (d *daemon) result(ref string) *controlapi.BuildResultInfo {
	d.t.Helper()
	recs := d.histories(&controlapi.BuildHistoryRequest{Ref: ref})
	if len(recs) != 1 {
		d.t.Fatalf("the records of %s are %v", ref, recs)
	}
	return recs[0].GetResult()
}

// manifest reads a manifest, and the configuration that it names.
func (d *daemon) manifest(desc *controlapi.Descriptor) {
	d.t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(d.blob(desc), &m); err != nil || m.MediaType != desc.GetMediaType() {
		d.t.Fatalf("%s is %v: %v", desc.GetDigest(), m, err)
	}
	c := m.Config
	var img ocispec.Image
	doc := d.blob(&controlapi.Descriptor{MediaType: c.MediaType, Digest: c.Digest.String(), Size: c.Size})
	if err := json.Unmarshal(doc, &img); err != nil || img.OS != "linux" {
		d.t.Errorf("the configuration of %s is %s: %v", desc.GetDigest(), doc, err)
	}
}

// TestIndexAnnotations checks that annotations of an index have one for a place where the client asks for attestations, for
// which an image has an index, as buildx does unless it is told not to; and that they are refused where there is none.
func TestIndexAnnotations(t *testing.T) {
	d := start(t)
	addr := registrytest.Start(t, registrytest.New(registrytest.Behaviour{}))
	for _, tt := range []struct {
		name, kind, attest, inline string
		index                      bool
	}{
		{"provenance", client.ExporterImage, "mode=max", "", true},
		{"provenance for the image only", client.ExporterImage, "mode=min,inline-only=true", "", true},
		{"not beside the image", client.ExporterImage, "inline-only=true", "false", false},
		{"none", client.ExporterImage, "disabled=true", "", false},
		{"archive", client.ExporterOCI, "mode=min", "", true},
		{"archive, for the image only", client.ExporterOCI, "inline-only=true", "", false},
		{"archive, beside it all the same", client.ExporterOCI, "inline-only=true", "true", true},
		{"docker's archive", client.ExporterDocker, "mode=max", "", true},
	} {
		opt := opts(t, small)
		opt.Ref = tt.name
		opt.FrontendAttrs["attest:provenance"] = tt.attest
		attrs := map[string]string{"annotation-index.a": "b", "name": addr + "/app:1"}
		if tt.inline != "" {
			attrs["attestation-inline"] = tt.inline
		}
		var s sink
		if opt.Exports = []client.ExportEntry{s.to(tt.kind, attrs)}; tt.kind == client.ExporterImage {
			attrs["push"] = "true"
			opt.Exports = []client.ExportEntry{{Type: tt.kind, Attrs: attrs}}
		}
		_, _, err := d.solve(t.Context(), opt)
		if !tt.index {
			if err == nil || !strings.Contains(err.Error(), "index annotations not supported for single platform export") {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var idx ocispec.Index
		if err := json.Unmarshal(d.blob(d.result(tt.name).GetResults()[0]), &idx); err != nil || len(idx.Manifests) != 1 || idx.Annotations["a"] != "b" {
			t.Errorf("%s: the index is %v, %v", tt.name, idx, err)
		}
	}
}

// TestImageName checks which name the response has: of several outputs the last one's, as the client has written it, and of a
// name that is left to the frontend the frontend's.
func TestImageName(t *testing.T) {
	d := start(t)
	image := func(name string) client.ExportEntry {
		return client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{"name": name}}
	}
	archive := func(name string) client.ExportEntry {
		return (&sink{}).to(client.ExporterOCI, map[string]string{"name": name})
	}
	for _, tc := range []struct {
		exports []client.ExportEntry
		want    string
	}{
		{[]client.ExportEntry{image("*")}, "said:1"},
		{[]client.ExportEntry{archive("*")}, "docker.io/library/said:1"},
		{[]client.ExportEntry{image("a:1"), image("b:1,b:2")}, "b:1,b:2"},
		{[]client.ExportEntry{image("a:1"), image("*")}, "said:1"},
		{[]client.ExportEntry{image("a:1"), archive("b:1")}, "docker.io/library/b:1"},
		{[]client.ExportEntry{image("a:1"), image("")}, "a:1"},
	} {
		resp, _, err := d.direct(t.Context(), client.SolveOpt{Exports: tc.exports}, func(context.Context, gateway.Client) (*gateway.Result, error) {
			res := gateway.NewResult()
			res.AddMeta("image.name", []byte("said:1"))
			return res, nil
		})
		if err != nil {
			t.Errorf("%v: %v", tc.exports, err)
			continue
		}
		if got := resp.ExporterResponse["image.name"]; got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.exports, got, tc.want)
		}
	}
}

// TestPlatformsOfResult checks that a client is warned whose build is not for the platforms that it asks for.
func TestPlatformsOfResult(t *testing.T) {
	d := start(t)
	for asked, want := range map[string]string{
		"":                        "",
		"linux/amd64,linux/arm64": "Multiple platforms requested but result is not multi-platform",
	} {
		opt := client.SolveOpt{FrontendAttrs: map[string]string{}}
		if asked != "" {
			opt.FrontendAttrs["platform"] = asked
		}
		_, p, err := d.direct(t.Context(), opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			return c.Solve(ctx, gateway.SolveRequest{Definition: definition(ctx, t, llb.Scratch().File(llb.Mkfile("/a", 0o600, nil)))})
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range p.warnings {
			got = append(got, string(w.Short))
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%q: got %q, want %q", asked, got, want)
		}
	}
}
