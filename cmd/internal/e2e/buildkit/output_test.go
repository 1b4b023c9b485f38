package buildkit

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// small is a directory with a build that needs no base image.
var small = map[string]string{"Dockerfile": "FROM scratch\nCOPY file /\n", "file": "content"}

// readTar returns the files of a tar.
func readTar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			text, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			out[strings.TrimPrefix(h.Name, "./")] = string(text)
		}
	}
}

// A sink is an output that is kept.
type sink struct {
	bytes.Buffer
	closed bool
}

func (s *sink) Close() error {
	s.closed = true
	return nil
}

// to returns an output that goes to s.
func (s *sink) to(kind string, attrs map[string]string) client.ExportEntry {
	return client.ExportEntry{Type: kind, Attrs: attrs, Output: func(map[string]string) (io.WriteCloser, error) { return s, nil }}
}

// TestImage checks what the response of a build says whose image goes into the store.
func TestImage(t *testing.T) {
	d := start(t)
	opt := opts(t, small)
	opt.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"name": "app:1,app:2"}}}
	resp, p := d.must(opt)
	got := resp.ExporterResponse
	want := []string{"containerimage.config.digest", "containerimage.descriptor", "containerimage.digest", "image.name"}
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, want) {
		t.Errorf("the response has %q, want %q", keys, want)
	}
	if got["image.name"] != "app:1,app:2" {
		t.Errorf("the image is called %q", got["image.name"])
	}
	text, err := base64.StdEncoding.DecodeString(got["containerimage.descriptor"])
	if err != nil {
		t.Fatal(err)
	}
	var desc ocispec.Descriptor
	if err := json.Unmarshal(text, &desc); err != nil || desc.Digest.String() != got["containerimage.digest"] {
		t.Errorf("the descriptor is %s, %v, the digest %s", text, err, got["containerimage.digest"])
	}
	if desc.MediaType != ocispec.MediaTypeImageManifest || desc.Annotations["config.digest"] != "" && desc.Size == 0 {
		t.Errorf("the descriptor is %s", text)
	}
	if p.has("exporting to image") == nil {
		t.Errorf("the steps are %q", p.order)
	}
	if out := d.boxbuild("images"); !strings.Contains(out, "app") {
		t.Errorf("the images are:\n%s", out)
	}
}

// TestArchives checks the outputs that reach a client as one stream each, all of one build.
func TestArchives(t *testing.T) {
	d := start(t)
	opt := opts(t, small)
	var oci, docker, files sink
	opt.Exports = []client.ExportEntry{
		oci.to(client.ExporterOCI, map[string]string{"name": "app:1"}),
		docker.to(client.ExporterDocker, map[string]string{"name": "app:2"}),
		files.to(client.ExporterTar, nil),
	}
	resp, _ := d.must(opt)
	for name, s := range map[string]*sink{"oci": &oci, "docker": &docker, "tar": &files} {
		if !s.closed {
			t.Errorf("the output %s was not closed", name)
		}
	}
	if got := readTar(t, &files); !maps.Equal(got, map[string]string{"file": "content"}) {
		t.Errorf("the files are %q", got)
	}
	layout := readTar(t, &oci)
	var index ocispec.Index
	if err := json.Unmarshal([]byte(layout["index.json"]), &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("index.json is %q, %v", layout["index.json"], err)
	}
	top := index.Manifests[0]
	if _, ok := layout["blobs/sha256/"+top.Digest.Encoded()]; !ok || top.Annotations[ocispec.AnnotationRefName] != "1" {
		t.Errorf("the index names %v", top)
	}
	if layout := readTar(t, &docker); !strings.Contains(layout["manifest.json"], `"app:2"`) {
		t.Errorf("manifest.json is %q", layout["manifest.json"])
	}
	if resp.ExporterResponse["containerimage.digest"] != top.Digest.String() {
		t.Errorf("the response is %v, and the manifest %s", resp.ExporterResponse, top.Digest)
	}
}

// TestDeclined checks that a client is told of an archive before it takes the first byte, and may decline it then: that is no
// failure of the build, and the response says as much as when it has taken it. A tar of files has nothing to be told of.
func TestDeclined(t *testing.T) {
	d := start(t)
	for _, kind := range []string{client.ExporterOCI, client.ExporterDocker} {
		var told map[string]string
		opt := opts(t, small)
		opt.Exports = []client.ExportEntry{{
			Type: kind, Attrs: map[string]string{"name": "app:1"},
			Output: func(md map[string]string) (io.WriteCloser, error) {
				told = md
				return nil, nil
			},
		}}
		resp, _ := d.must(opt)
		if len(resp.ExporterResponse) != 4 || !maps.Equal(resp.ExporterResponse, told) {
			t.Errorf("%s: told %q, the response is %q", kind, told, resp.ExporterResponse)
		}
	}
	opt := opts(t, small)
	opt.Exports = []client.ExportEntry{{Type: client.ExporterTar, Output: func(map[string]string) (io.WriteCloser, error) { return nil, nil }}}
	if _, _, err := d.solve(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("a tar of files: %v", err)
	}
}

// TestLayout checks an OCI layout that the client has written into a directory of its own, by blobs.
func TestLayout(t *testing.T) {
	d := start(t)
	opt := opts(t, small)
	dir := t.TempDir()
	opt.Exports = []client.ExportEntry{{Type: client.ExporterOCI, Attrs: map[string]string{"tar": "false", "name": "app:1"}, OutputDir: dir}}
	resp, _ := d.must(opt)
	text, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil || len(index.Manifests) == 0 {
		t.Fatalf("index.json is %q, %v", text, err)
	}
	if got := index.Manifests[0].Digest.String(); got != resp.ExporterResponse["containerimage.digest"] {
		t.Errorf("index.json has %s, the response %v", got, resp.ExporterResponse)
	}
	text, err = os.ReadFile(filepath.Join(dir, "blobs", "sha256", index.Manifests[0].Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(text, &m); err != nil || len(m.Layers) != 1 {
		t.Fatalf("the manifest is %q, %v", text, err)
	}
	for _, b := range append(m.Layers, m.Config) {
		if st, err := os.Stat(filepath.Join(dir, "blobs", "sha256", b.Digest.Encoded())); err != nil || st.Size() != b.Size {
			t.Errorf("blob %s: %v, %v", b.Digest, st, err)
		}
	}
}

// TestUnknownOutput checks that an output which there is not is an error, and that an attribute which there is not is a
// warning: clients that are newer than the daemon send some.
func TestUnknownOutput(t *testing.T) {
	d := start(t)
	opt := opts(t, small)
	opt.Exports = []client.ExportEntry{{Type: "floppy"}}
	if _, _, err := d.solve(t.Context(), opt); err == nil || !strings.Contains(err.Error(), `exporter "floppy" could not be found`) {
		t.Errorf("got %v", err)
	}
	opt.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"glitter": "1"}}}
	_, p := d.must(opt)
	if len(p.warnings) != 1 || !strings.Contains(string(p.warnings[0].Short), `"glitter"`) {
		t.Errorf("the warnings are %v", p.warnings)
	}
}

// TestPushUnverified checks that an image is pushed to a registry which cannot prove who it is, or which speaks no TLS, if
// the output says so, and then by that output only.
func TestPushUnverified(t *testing.T) {
	d := start(t)
	reg := registrytest.New(registrytest.Behaviour{})
	secure := httptest.NewUnstartedServer(reg)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	for _, host := range []string{strings.TrimPrefix(secure.URL, "https://"), registrytest.Start(t, reg)} {
		push := func(attrs map[string]string) error {
			opt := opts(t, small)
			attrs["name"], attrs["push"] = host+"/app:1", "true"
			opt.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: attrs}}
			_, _, err := d.solve(t.Context(), opt)
			return err
		}
		if err := push(map[string]string{"registry.insecure": "true"}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if err := push(map[string]string{"registry.insecure": "false"}); (err != nil) != (host == strings.TrimPrefix(secure.URL, "https://")) {
			t.Errorf("%s, verified: %v", host, err)
		}
	}
}

// TestPushNowhere checks that an output which is to be pushed and has no name is exported all the same, as by BuildKit, and
// that the user is told.
func TestPushNowhere(t *testing.T) {
	d := start(t)
	for _, push := range []string{"true", ""} {
		opt := opts(t, small)
		opt.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"push": push}}}
		resp, p := d.must(opt)
		if resp.ExporterResponse["containerimage.digest"] == "" || resp.ExporterResponse["image.name"] != "" {
			t.Errorf("push=%s: the response is %v", push, resp.ExporterResponse)
		}
		if len(p.warnings) != 1 || !strings.Contains(string(p.warnings[0].Short), "nothing is pushed") {
			t.Errorf("push=%s: the warnings are %v", push, p.warnings)
		}
	}
}

// TestCompatibility checks what the versions of behaviour that a client may ask for mean for images, as with BuildKit
// 0.32.2: their media types, and what an old version has not.
func TestCompatibility(t *testing.T) {
	d := start(t)
	const docker, oci = "application/vnd.docker.distribution.manifest.v2+json", ocispec.MediaTypeImageManifest
	for _, c := range []struct {
		version int
		kind    string
		attrs   map[string]string
		want    string // the manifest's media type, or a part of the error after "!"
	}{
		{0, "image", nil, oci},
		{30, "image", nil, oci},
		{20, "image", nil, docker},
		{20, "image", map[string]string{"oci-mediatypes": "true"}, oci},
		{20, "image", map[string]string{"compression": "zstd"}, docker},
		{10, "image", map[string]string{"compression": "zstd"}, "!compatibility-version 10 feature image exporter compression=zstd"},
		{10, "docker", nil, docker},
		{10, "oci", nil, oci},
		{11, "image", nil, "!unsupported compatibility-version 11 (supported: [10 20 30])"},
		{40, "image", nil, "!unsupported compatibility-version 40: upgrade"},
	} {
		opt := opts(t, small)
		opt.CompatibilityVersion = c.version
		opt.Exports = []client.ExportEntry{{Type: c.kind, Attrs: c.attrs}}
		if c.kind != client.ExporterImage {
			opt.Exports[0] = (&sink{}).to(c.kind, c.attrs)
		}
		resp, _, err := d.solve(t.Context(), opt)
		if want, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%d, %s: got %v, want %q", c.version, c.kind, err, want)
			}
			var typed *errdefs.UnsupportedCompatibilityFeatureError
			if strings.Contains(want, "feature") && !errors.As(err, &typed) {
				t.Errorf("%d, %s: %v has no type", c.version, c.kind, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%d, %s: %v", c.version, c.kind, err)
			continue
		}
		text, err := base64.StdEncoding.DecodeString(resp.ExporterResponse["containerimage.descriptor"])
		var desc ocispec.Descriptor
		if err != nil || json.Unmarshal(text, &desc) != nil || desc.MediaType != c.want {
			t.Errorf("%d, %s %v: got %s, want %s", c.version, c.kind, c.attrs, text, c.want)
		}
	}
}

// TestTwice checks that a platform that is asked for twice is in the index twice, and that a user hears of it.
func TestTwice(t *testing.T) {
	d := start(t)
	for i, platform := range []string{"linux/amd64,linux/arm64,linux/amd64", "linux/arm64,linux/arm64/v8"} {
		opt := opts(t, small)
		var oci sink
		opt.Exports = []client.ExportEntry{oci.to(client.ExporterOCI, nil)}
		var p *progress
		var err error
		if attrs := map[string]string{"platform": platform}; i == 0 {
			opt.FrontendAttrs = attrs
			_, p = d.must(opt)
		} else { // as buildctl and buildx do it
			opt.Frontend = ""
			_, p, err = d.direct(t.Context(), opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
				return c.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: attrs})
			})
		}
		if err != nil || !slices.ContainsFunc(p.warnings, func(w *client.VertexWarning) bool {
			return strings.HasPrefix(string(w.Short), "Duplicate platform result requested ")
		}) {
			t.Errorf("%s: got %v, the warnings %v", platform, err, p.warnings)
		}
		layout := readTar(t, &oci)
		var outer, index ocispec.Index
		err = json.Unmarshal([]byte(layout["index.json"]), &outer)
		if err == nil && len(outer.Manifests) == 1 {
			err = json.Unmarshal([]byte(layout["blobs/sha256/"+outer.Manifests[0].Digest.Encoded()]), &index)
		}
		var got []string
		for _, m := range index.Manifests {
			got = append(got, m.Platform.OS+"/"+m.Platform.Architecture)
		}
		if want := strings.ReplaceAll(platform, "/v8", ""); err != nil || strings.Join(got, ",") != want {
			t.Errorf("got %q, %v, want %s", got, err, want)
		}
	}
}

// TestEpochByName checks that SOURCE_DATE_EPOCH may be the name of something that has a time: that of what was fetched
// counts for the image and its files. A directory has none.
func TestEpochByName(t *testing.T) {
	d := start(t)
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	for name, text := range small {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	changed := time.Unix(1700000000, 0).UTC()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "c.tar", changed, bytes.NewReader(file.Bytes()))
	}))
	t.Cleanup(srv.Close)
	for _, context := range []string{srv.URL + "/c.tar", ""} {
		opt := opts(t, small)
		opt.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"] = "context"
		if context != "" {
			opt.FrontendAttrs["context"] = context
		}
		var oci sink
		opt.Exports = []client.ExportEntry{oci.to(client.ExporterOCI, nil)}
		d.must(opt)
		var img ocispec.Image
		for name, text := range readTar(t, &oci) {
			if strings.HasPrefix(name, "blobs/") && strings.Contains(text, `"rootfs"`) {
				if err := json.Unmarshal([]byte(text), &img); err != nil {
					t.Fatal(err)
				}
			}
		}
		if img.Created == nil || img.Created.Equal(changed) != (context != "") {
			t.Errorf("of %q: the image was created %v", context, img.Created)
		}
	}
}

// TestHistoryOfContext checks that a layer for which there is no instruction says where it is from, in BuildKit's words: that
// of what is fetched and built upon.
func TestHistoryOfContext(t *testing.T) {
	d := start(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "c", time.Unix(1700000000, 0), strings.NewReader("content"))
	}))
	t.Cleanup(srv.Close)
	for dockerfile, want := range map[string][]string{
		"FROM l\nLABEL x=y\n":            {"LABEL x=y", "http url " + srv.URL + "/c"},
		"FROM l\nWORKDIR /q\nCOPY f /\n": {"WORKDIR /q", "COPY f / # buildkit", "[2/3] COPY f /"},
	} {
		opt := opts(t, map[string]string{"Dockerfile": dockerfile, "f": ""})
		opt.FrontendAttrs["context:l"] = srv.URL + "/c"
		var oci sink
		opt.Exports = []client.ExportEntry{oci.to(client.ExporterOCI, nil)}
		d.must(opt)
		var got []string
		for name, text := range readTar(t, &oci) {
			var img ocispec.Image
			if strings.HasPrefix(name, "blobs/") && json.Unmarshal([]byte(text), &img) == nil {
				for _, h := range img.History {
					got = append(got, h.CreatedBy)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
