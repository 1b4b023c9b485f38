package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/exporter/image"
	dist "github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A fakeLayer is a layer whose tar is bytes; "compressing" puts the name of the compression before them.
type fakeLayer struct {
	tar     []byte
	origins []string
	err     error // of Open
}

var _ exporter.Layer = (*fakeLayer)(nil)

func (l *fakeLayer) DiffID(context.Context) (digest.Digest, error) {
	return digest.FromBytes(l.tar), nil
}
func (l *fakeLayer) Origins() []string { return l.origins }

func (l *fakeLayer) Tar(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.tar)), nil
}

func (l *fakeLayer) bytes(c exporter.Compression) []byte {
	return append([]byte(fmt.Sprintf("compressed %d: ", c)), l.tar...)
}

func descriptorOf(mediaType string, b []byte) exporter.Descriptor {
	return exporter.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

func (l *fakeLayer) Blob(_ context.Context, form exporter.Form) (exporter.Descriptor, error) {
	d := descriptorOf(ocispec.MediaTypeImageLayerGzip, l.bytes(form.Compression))
	if form.Docker {
		d.MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	}
	return d, nil
}

func (l *fakeLayer) Open(_ context.Context, desc exporter.Descriptor) (io.ReadCloser, error) {
	if l.err != nil {
		return nil, l.err
	}
	for _, c := range []exporter.Compression{exporter.Gzip, exporter.Uncompressed, exporter.Zstd} {
		if b := l.bytes(c); digest.FromBytes(b) == desc.Digest {
			return io.NopCloser(bytes.NewReader(b)), nil
		}
	}
	return nil, errors.New("no such blob")
}

// manifestOf returns a manifest for a platform with a config that names its layers.
func manifestOf(arch string, layers ...*fakeLayer) exporter.Manifest {
	m := exporter.Manifest{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	img := ocispec.Image{Platform: m.Platform, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l.tar))
		m.Layers = append(m.Layers, l)
	}
	var err error
	if m.Config, err = json.Marshal(img); err != nil {
		panic(err)
	}
	return m
}

func layerOf(s string, origins ...string) *fakeLayer {
	return &fakeLayer{tar: []byte(s), origins: origins}
}

// start returns a registry, its host, and a client.
func start(t *testing.T) (*registrytest.Registry, string, *dist.Client) {
	t.Helper()
	reg := registrytest.New(registrytest.Behaviour{})
	return reg, registrytest.Start(t, reg), newClient(t)
}

func newClient(t *testing.T) *dist.Client {
	t.Helper()
	c, err := dist.New(dist.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// check compares what a registry has with what was exported: the tag, the manifest, and every blob of it.
func check(t *testing.T, reg *registrytest.Registry, repo, tag string, desc exporter.Descriptor) *ocispec.Manifest {
	t.Helper()
	mt, b, ok := reg.Manifest(repo, tag)
	if !ok || mt != desc.MediaType || digest.FromBytes(b) != desc.Digest || int64(len(b)) != desc.Size {
		t.Fatalf("%s:%s is %s %s, not %+v", repo, tag, mt, b, desc)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, d := range append([]exporter.Descriptor{m.Config}, m.Layers...) {
		if d.Digest == "" {
			continue // an index
		}
		if b, ok := reg.Blob(repo, string(d.Digest)); !ok || int64(len(b)) != d.Size {
			t.Errorf("%s lacks %+v", repo, d)
		}
	}
	return &m
}

// An image arrives whole: its blobs in parallel, then its manifest, under every tag, and progress ends for each part.
func TestExport(t *testing.T) {
	reg, host, c := start(t)
	var mu sync.Mutex
	done := map[string]int{}
	e := New(c, Options{Progress: func(id string, current, total int64, end bool) {
		mu.Lock()
		defer mu.Unlock()
		if current > total {
			t.Errorf("%s: %d of %d", id, current, total)
		}
		if end {
			done[id]++
		}
	}})
	m := manifestOf("amd64", layerOf("one"), layerOf("two"), layerOf("one"))
	desc, err := e.Export(t.Context(), &exporter.Image{
		Names: []string{host + "/team/app:1", host + "/team/app", host + "/team/app:1"}, Manifests: []exporter.Manifest{m},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := check(t, reg, "team/app", "1", desc)
	check(t, reg, "team/app", "latest", desc)
	if len(got.Layers) != 3 || got.Layers[0].Digest != got.Layers[2].Digest || got.Config.Digest != digest.FromBytes(m.Config) ||
		got.MediaType != ocispec.MediaTypeImageManifest || desc.Platform.Architecture != "amd64" {
		t.Errorf("got %+v", got)
	}
	reqs := reg.Requests()
	blobs := slices.IndexFunc(reqs, func(r registrytest.Request) bool { return r.Kind == registrytest.Manifest })
	for _, r := range reqs[blobs:] {
		if r.Kind != registrytest.Manifest {
			t.Errorf("%s %s comes after the first manifest", r.Method, r.Path)
		}
	}
	if n := reg.Count("PUT", registrytest.Upload); n != 3 {
		t.Errorf("%d uploads, want 3: equal layers go out once", n)
	}
	// Two layers, a config, two tags.
	for id, n := range done {
		if n != 1 {
			t.Errorf("%s ends %d times", id, n)
		}
	}
	if len(done) != 5 {
		t.Errorf("progress of %v", done)
	}
}

// A layer goes out while another is still being made.
func TestExportOverlaps(t *testing.T) {
	reg, host, c := start(t)
	quick := layerOf("quick")
	slow := &waitingLayer{*layerOf("slow"), func() bool {
		_, ok := reg.Blob("app", string(digest.FromBytes(quick.bytes(exporter.Gzip))))
		return ok
	}}
	m := manifestOf("amd64", &slow.fakeLayer, quick)
	m.Layers[0] = slow
	desc, err := New(c, Options{}).Export(t.Context(), &exporter.Image{
		Names: []string{host + "/app:1"}, Manifests: []exporter.Manifest{m},
	})
	if err != nil {
		t.Fatal(err)
	}
	check(t, reg, "app", "1", desc)
}

// A waitingLayer has no blob until something has happened.
type waitingLayer struct {
	fakeLayer
	happened func() bool
}

func (l *waitingLayer) Blob(ctx context.Context, form exporter.Form) (exporter.Descriptor, error) {
	for !l.happened() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return exporter.Descriptor{}, ctx.Err()
		}
	}
	return l.fakeLayer.Blob(ctx, form)
}

// A layer that the registry has elsewhere is mounted: from where it was pulled, and from where it was just pushed. From where
// the first repository has it is told.
func TestExportMounts(t *testing.T) {
	reg, host, c := start(t)
	base := layerOf("base", "docker.io/library/busybox", "not a name", host+"/base")
	reg.PutBlob("base", base.bytes(exporter.Gzip))
	var mu sync.Mutex
	var from []string
	came := func(id string, how dist.How, source dist.Repo) {
		mu.Lock()
		defer mu.Unlock()
		if what, _, _ := strings.Cut(id, " "); how != dist.Uploaded {
			from = append(from, what+" "+how.String()+" "+source.String())
		}
	}
	desc, err := New(c, Options{Came: came}).Export(t.Context(), &exporter.Image{
		Names: []string{host + "/a:1", host + "/b:1"}, Manifests: []exporter.Manifest{manifestOf("amd64", base, layerOf("own"))},
	})
	if err != nil {
		t.Fatal(err)
	}
	check(t, reg, "a", "1", desc)
	check(t, reg, "b", "1", desc)
	if n := reg.Count("PUT", registrytest.Upload); n != 2 { // the config and one layer, to the first repository
		t.Errorf("%d uploads, want 2", n)
	}
	if want := "layer mounted " + host + "/base"; len(from) != 1 || from[0] != want {
		t.Errorf("mounted are %q, want %q", from, want)
	}
	if n := reg.Uploads(); n != 0 {
		t.Errorf("%d uploads left open", n)
	}
}

// Several platforms make an index; what they share goes out once; the index and its tag come after the manifests.
func TestExportIndex(t *testing.T) {
	for _, docker := range []bool{false, true} {
		reg, host, c := start(t)
		shared := layerOf("shared")
		e := New(c, Options{Form: exporter.Form{Docker: docker}})
		desc, err := e.Export(t.Context(), &exporter.Image{
			Names: []string{host + "/app:1"},
			Manifests: []exporter.Manifest{
				manifestOf("amd64", shared, layerOf("amd64")), manifestOf("arm64", shared, layerOf("arm64")),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		check(t, reg, "app", "1", desc)
		_, b, _ := reg.Manifest("app", "1")
		var index ocispec.Index
		if err := json.Unmarshal(b, &index); err != nil || len(index.Manifests) != 2 {
			t.Fatalf("got %s, %v", b, err)
		}
		for i, arch := range []string{"amd64", "arm64"} {
			d := index.Manifests[i]
			m := check(t, reg, "app", string(d.Digest), d)
			if d.Platform.Architecture != arch || m.Layers[0].Digest != digest.FromBytes(shared.bytes(exporter.Gzip)) {
				t.Errorf("manifest %d is %+v", i, d)
			}
			if strings.Contains(string(b), "vnd.docker") != docker || strings.Contains(m.Config.MediaType+m.Layers[0].MediaType, "vnd.oci") == docker {
				t.Errorf("with docker %v: index %s, manifest %+v", docker, b, m)
			}
		}
		if n := reg.Count("PUT", registrytest.Upload); n != 5 {
			t.Errorf("%d uploads, want 5", n)
		}
		reqs := reg.Requests()
		if last := reqs[len(reqs)-1]; last.Path != "/v2/app/manifests/1" {
			t.Errorf("the tag is not last but %s", last.Path)
		}
	}
}

// What was pulled is pushed byte for byte, as long as its layers and all that its index names are the same.
func TestExportRaw(t *testing.T) {
	reg, host, c := start(t)
	l := layerOf("x")
	m := manifestOf("amd64", l)
	blob, _ := l.Blob(t.Context(), exporter.Form{})
	doc := fmt.Sprintf(`{ "schemaVersion":2, "config":{"mediaType":%q,"digest":%q,"size":%d},
		"layers":[{"mediaType":%q,"digest":%q,"size":%d}] }`, image.DockerConfig, digest.FromBytes(m.Config), len(m.Config),
		blob.MediaType, blob.Digest, blob.Size)
	m.Raw = &exporter.Raw{MediaType: image.DockerManifest, Bytes: []byte(doc)}
	index := func(digests ...digest.Digest) *exporter.Raw {
		var entries []string
		for _, d := range digests {
			entries = append(entries, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, image.DockerManifest, d, len(doc)))
		}
		return &exporter.Raw{MediaType: image.DockerIndex, Bytes: []byte(`{ "manifests":[` + strings.Join(entries, ",") + `] }`)}
	}
	other := digest.FromString("another manifest")
	for i, tt := range []struct {
		name string
		form exporter.Form
		raw  *exporter.Raw
		want string // the document; empty for a new one
	}{
		{"manifest", exporter.Form{}, nil, doc},
		{"index", exporter.Form{}, index(digest.FromString(doc)), string(index(digest.FromString(doc)).Bytes)},
		{"index of more", exporter.Form{}, index(digest.FromString(doc), other), doc},
		{"index of nothing", exporter.Form{}, index(), doc},
		{"another compression that is not forced", exporter.Form{Compression: exporter.Zstd}, nil, doc},
		{"another form that is forced", exporter.Form{Force: true}, nil, ""},
		{"and an index", exporter.Form{Force: true}, index(digest.FromString(doc)), ""},
	} {
		tag := fmt.Sprint("t", i)
		desc, err := New(c, Options{Form: tt.form}).Export(t.Context(), &exporter.Image{
			Names: []string{host + "/app:" + tag}, Manifests: []exporter.Manifest{m}, Raw: tt.raw,
		})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		check(t, reg, "app", tag, desc)
		_, b, _ := reg.Manifest("app", tag)
		if tt.want != "" && string(b) != tt.want || tt.want == "" && desc.MediaType != ocispec.MediaTypeImageManifest {
			t.Errorf("%s: got %s", tt.name, b)
		}
	}
}

// A failure is told as what it was, and leaves no manifest and no tag.
func TestExportFails(t *testing.T) {
	broken := errors.New("the disk is on fire")
	bad := layerOf("bad")
	bad.err = broken
	wrong := manifestOf("amd64", layerOf("one"))
	wrong.Layers[0] = layerOf("another")
	short := manifestOf("amd64", layerOf("one"))
	short.Layers = nil
	for _, tt := range []struct {
		name      string
		manifests []exporter.Manifest
		names     []string
		fault     registrytest.Fault
		want      string
	}{
		{name: "a layer", manifests: []exporter.Manifest{manifestOf("amd64", layerOf("one"), bad), manifestOf("arm64", bad, layerOf("two"))}, want: "the disk is on fire"},
		{name: "the registry", manifests: []exporter.Manifest{manifestOf("amd64", layerOf("one"), layerOf("two"))}, fault: registrytest.Fault{Method: http.MethodPut, Status: 403, Code: "DENIED"}, want: "DENIED"},
		{name: "another layer than the config's", manifests: []exporter.Manifest{wrong}, want: "the config says"},
		{name: "fewer layers than the config's", manifests: []exporter.Manifest{short}, want: "names 1 layers"},
		{name: "a config that is none", manifests: []exporter.Manifest{{Config: []byte("x")}}, want: "reading the config"},
		{name: "nothing", want: "no manifest"},
		{name: "no name", names: []string{}, want: "no name"},
		{name: "a bad name", names: []string{"A:B:C"}, want: "parsing reference"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg, host, c := start(t)
			if tt.fault != (registrytest.Fault{}) {
				reg.Fail(tt.fault)
			}
			if tt.names == nil {
				tt.names = []string{host + "/app:1"}
			}
			_, err := New(c, Options{}).Export(t.Context(), &exporter.Image{Names: tt.names, Manifests: tt.manifests})
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if n := reg.Count(http.MethodPut, registrytest.Manifest); n != 0 {
				t.Errorf("%d manifests were pushed", n)
			}
		})
	}
}

// An image that is pushed by digest gets no tag.
func TestExportByDigest(t *testing.T) {
	reg, host, c := start(t)
	desc, err := New(c, Options{ByDigest: true}).Export(t.Context(), &exporter.Image{
		Names: []string{host + "/app:1"}, Manifests: []exporter.Manifest{manifestOf("amd64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	check(t, reg, "app", string(desc.Digest), desc)
	if _, _, ok := reg.Manifest("app", "1"); ok {
		t.Error("it has a tag")
	}
}

// A real registry takes the image, and another program sees in it what is there.
func TestDebianRegistry(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("needs skopeo")
	}
	host := registrytest.StartDebian(t)
	desc, err := New(newClient(t), Options{}).Export(t.Context(), &exporter.Image{
		Names: []string{host + "/team/app:1", host + "/other:2"},
		Manifests: []exporter.Manifest{
			manifestOf("amd64", layerOf("shared"), layerOf("amd64")), manifestOf("arm64", layerOf("shared")),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/team/app:1", "/other:2"} {
		cmd := exec.CommandContext(t.Context(), skopeo, "inspect", "--tls-verify=false", "--override-arch=amd64", "docker://"+host+name)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		var got struct {
			Digest, Architecture string
			Layers               []string
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if got.Digest != string(desc.Digest) || got.Architecture != "amd64" || len(got.Layers) != 2 {
			t.Errorf("%s: skopeo sees %s", name, out)
		}
	}
}

// Pushed is told of what each repository was given: the manifests of an index, and the index.
func TestPushed(t *testing.T) {
	reg, host, client := start(t)
	var mu sync.Mutex
	told := map[string]bool{}
	img := &exporter.Image{
		Names:     []string{host + "/a:1", host + "/a:2", host + "/b:1"},
		Manifests: []exporter.Manifest{manifestOf("amd64", layerOf("one")), manifestOf("arm64", layerOf("two"))},
	}
	desc, err := New(client, Options{Pushed: func(repo string, doc image.Document) {
		mu.Lock()
		defer mu.Unlock()
		told[strings.TrimPrefix(repo, host+"/")+" "+string(digest.FromBytes(doc.Bytes))] = true
		if doc.Descriptor.Digest != digest.FromBytes(doc.Bytes) {
			t.Errorf("told of %+v with %q", doc.Descriptor, doc.Bytes)
		}
	}}).Export(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	if _, b, ok := reg.Manifest("a", "1"); !ok || json.Unmarshal(b, &index) != nil || len(index.Manifests) != 2 {
		t.Fatalf("pushed %q", b)
	}
	for _, repo := range []string{"a", "b"} {
		for _, d := range append(index.Manifests, desc) {
			if key := repo + " " + string(d.Digest); !told[key] {
				t.Errorf("not told of %s", key)
			} else {
				delete(told, key)
			}
		}
	}
	if len(told) > 0 {
		t.Errorf("told of %v too", told)
	}
}
