package builder_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/worker"
)

// TestNoLayers checks that an image without layers can be pulled, built on and pushed.
func TestNoLayers(t *testing.T) {
	r := newRig(t)
	r.registry.PutImage("empty", "latest", config(t))
	r.file("a", "one")
	if _, err := r.pull("empty"); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{"FROM HOST/empty\n": 0, "FROM HOST/empty\nCOPY a /a\n": 1} {
		res, _, err := r.build(text)
		if err != nil {
			t.Fatal(err)
		}
		img, err := r.store.Get(string(res.Images[0].ID), nil)
		if err != nil || len(img.Layers) != want {
			t.Errorf("%q: got %+v, %v, want %d layers", text, img, err, want)
		}
		push := func(q *worker.BuildRequest) {
			q.Tags, q.Outputs = []string{r.name("pushed")}, []worker.Output{{Type: worker.OutputImage, Push: true}}
		}
		if _, _, err := r.build(text, push); err != nil {
			t.Errorf("%q: pushing: %v", text, err)
		}
	}
}

// TestForeignLayer checks that a layer which a schema 2 manifest says to be at some URL is asked for at the registry
// and nowhere else (CVE-2020-15157).
func TestForeignLayer(t *testing.T) {
	r := newRig(t)
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer elsewhere.Close()
	l := layer(t, "sh", "a shell")
	conf := config(t, l)
	manifest := map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
		"config": map[string]any{
			"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(conf), "digest": r.registry.PutBlob("base", conf),
		},
		"layers": []any{map[string]any{
			"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": len(l),
			"digest": digest.FromBytes(l), "urls": []string{elsewhere.URL + "/layer"},
		}},
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	r.registry.PutManifest("base", "latest", "application/vnd.docker.distribution.manifest.v2+json", raw)
	if _, err := r.pull("base"); err == nil {
		t.Error("a layer that the registry does not have was pulled")
	}
	r.registry.PutBlob("base", l)
	if _, err := r.pull("base"); err != nil {
		t.Errorf("the registry has the layer: %v", err)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the other server was asked %d times", n)
	}
}

// TestNondistributable checks that layers of a base which are said to be elsewhere are called so, and not pushed, if that is
// asked for, and are layers like others if not; and that it does not matter what the store knew of them before.
func TestNondistributable(t *testing.T) {
	r := newRig(t)
	own, foreign := layer(t, "sh", "a shell"), layer(t, "dll", "a library")
	conf := config(t, foreign, own)
	var m ocispec.Manifest
	_, raw := r.registry.PutImage("base", "latest", conf, foreign, own)
	if _, err := r.pull("base"); err != nil { // from where nobody says that
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	urls := []string{"https://maker.test/layer"}
	m.MediaType, m.Config.MediaType = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json"
	m.Layers[0].MediaType, m.Layers[0].URLs = "application/vnd.docker.image.rootfs.foreign.diff.tar", urls
	r.registry.PutManifest("base", "latest", m.MediaType, marshal(t, m))
	if _, err := r.pull("base"); err != nil {
		t.Fatal(err)
	}
	r.file("f", "new")
	has := func(repo string, d digest.Digest) bool {
		_, ok := r.registry.Blob(repo, string(d))
		return ok
	}
	for i, tt := range []struct {
		attrs string
		want  string // the media type of the layer
	}{
		{"prefer-nondist-layers=true", "application/vnd.oci.image.layer.nondistributable.v1.tar"},
		{"prefer-nondist-layers=false", ocispec.MediaTypeImageLayer},
		{"prefer-nondist-layers=true oci-mediatypes=false", "application/vnd.docker.image.rootfs.foreign.diff.tar"},
		{"", ocispec.MediaTypeImageLayer},
		{"prefer-nondist-layers=true compression=zstd force-compression=true", ocispec.MediaTypeImageLayerZstd}, // another blob
	} {
		for j, text := range []string{"FROM HOST/base\n", "FROM HOST/base\nCOPY f /\n"} {
			repo := "out" + string(rune('a'+2*i+j))
			attrs := strings.Fields(tt.attrs)
			if _, _, err := r.build(text, tags(r.name(repo)), out(worker.Output{Type: worker.OutputImage, Push: true}, attrs...)); err != nil {
				t.Fatal(err)
			}
			isForeign := strings.Contains(tt.want, "nondist") || strings.Contains(tt.want, "foreign")
			var got ocispec.Manifest
			_, raw, _ := r.registry.Manifest(repo, "latest")
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			if l := got.Layers[0]; l.MediaType != tt.want || slices.Equal(l.URLs, urls) != isForeign || has(repo, l.Digest) == isForeign {
				t.Errorf("%q, %q: the base's is %+v, in the registry: %v", tt.attrs, text, l, has(repo, l.Digest))
			}
			for _, l := range got.Layers[1:] {
				if len(l.URLs) > 0 || strings.Contains(l.MediaType, "nondist") || !has(repo, l.Digest) {
					t.Errorf("%q, %q: another layer is %+v, in the registry: %v", tt.attrs, text, l, has(repo, l.Digest))
				}
			}
			archive := r.archive(text, out(worker.Output{}, attrs...))
			for _, d := range got.Layers {
				if !bytes.Contains(archive, []byte("blobs/sha256/"+d.Digest.Encoded())) {
					t.Errorf("%q, %q: the archive lacks %s", tt.attrs, text, d.Digest)
				}
			}
			if bytes.Contains(archive, []byte(urls[0])) != isForeign {
				t.Errorf("%q, %q: does the archive say where the layer is? %v", tt.attrs, text, !isForeign)
			}
		}
	}
}
