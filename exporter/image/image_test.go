package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	p := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(p, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs:\ngot  %s\nwant %s", name, got, want)
	}
}

func at(sec int64) *time.Time {
	t := time.Unix(sec, 0).UTC()
	return &t
}

func layers(created ...*time.Time) []Layer {
	var out []Layer
	for i, c := range created {
		out = append(out, Layer{DiffID: digest.FromString(string(rune('a' + i))), Created: c, CreatedBy: "made"})
	}
	return out
}

// draft is what a frontend writes for: FROM base; ENV; RUN; CMD.
func draft(t *testing.T) Draft {
	var img dockerspec.DockerOCIImage
	img.OS, img.Architecture = "linux", "amd64"
	img.Config.Env = []string{"PATH=/bin", "MYPATH=/usr/local"}
	img.Config.Cmd = []string{"/bin/bash"}
	img.Config.WorkingDir = "/"
	img.Config.ArgsEscaped = true //nolint:staticcheck // part of the format
	img.Config.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD", "true"}}
	base := []ocispec.History{{Created: at(100), CreatedBy: "ADD rootfs"}, {Created: at(101), CreatedBy: "CMD x", EmptyLayer: true}}
	img.History = append(base[:2:2],
		ocispec.History{CreatedBy: "ENV MYPATH=/usr/local", Comment: "buildkit.dockerfile.v0", EmptyLayer: true},
		ocispec.History{CreatedBy: "RUN /bin/sh -c true <&> # buildkit", Comment: "buildkit.dockerfile.v0"},
		ocispec.History{CreatedBy: "CMD [\"/bin/bash\"]", Comment: "buildkit.dockerfile.v0", EmptyLayer: true})
	b, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	return Draft{JSON: b, Layers: layers(at(100), at(500)), Base: base}
}

// The bytes of a config are known, without and with an epoch.
func TestConfigGolden(t *testing.T) {
	d := draft(t)
	b, err := Config(d)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "config.json", b)
	d.Epoch, d.InlineCache = at(50), []byte("records")
	if b, err = Config(d); err != nil {
		t.Fatal(err)
	}
	golden(t, "config-epoch.json", b)
	if again, _ := Config(d); !bytes.Equal(b, again) {
		t.Error("a second call gives other bytes")
	}
}

// Entries and layers are reconciled and times filled in, as BuildKit does.
func TestHistory(t *testing.T) {
	h := func(by string, created *time.Time, empty bool) ocispec.History {
		return ocispec.History{CreatedBy: by, Created: created, EmptyLayer: empty}
	}
	for _, tt := range []struct {
		name    string
		history []ocispec.History
		layers  []Layer
		want    string
	}{
		{"nothing", nil, nil, ""},
		{"no history", nil, layers(at(1), nil), "made@1 made@1"},
		{"time of the layer", []ocispec.History{h("a", nil, false)}, layers(at(5)), "a@5"},
		{"empty ones before the first new layer", []ocispec.History{h("base", at(1), false), h("env", nil, true), h("run", nil, false), h("cmd", nil, true)}, layers(at(1), at(9)), "base@1 env!@9 run@9 cmd!@9"},
		{"only empty ones are new", []ocispec.History{h("base", at(1), false), h("env", nil, true)}, layers(at(1)), "base@1 env!@1"},
		{"no time at all", []ocispec.History{h("a", nil, false), h("b", nil, true)}, layers(nil), "a@- b!@-"},
		{"too many entries", []ocispec.History{h("a", at(1), false), h("b", at(2), false)}, layers(at(1)), "a@1 b!@2"},
		{"too few entries", []ocispec.History{h("a", at(1), false)}, layers(at(1), at(3)), "a@1 made@3"},
		{"two new layers", []ocispec.History{h("x", nil, true), h("a", nil, false), h("y", nil, true), h("b", nil, false), h("z", nil, true)}, layers(at(3), at(4)), "x!@3 a@3 y!@3 b@4 z!@4"},
	} {
		var got []string
		for _, h := range History(tt.history, tt.layers) {
			s := h.CreatedBy
			if h.EmptyLayer {
				s += "!"
			}
			if h.Created == nil {
				s += "@-"
			} else {
				s += "@" + json.Number(h.Created.Format("5")).String()
			}
			got = append(got, s)
		}
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, g, tt.want)
		}
	}
}

// Configs that say too little are errors and nothing worse; those with unknown fields keep them.
func TestConfigOdd(t *testing.T) {
	for _, bad := range []string{"", "null", "[]", "{}", `{"os":"linux"}`, `{"architecture":"amd64"}`, `{"os":1}`, `{"os":"linux","architecture":"amd64","history":5}`, `{"os":"linux","architecture":"amd64","created":"x"}`} {
		if b, err := Config(Draft{JSON: []byte(bad)}); err == nil {
			t.Errorf("%s: got %s", bad, b)
		}
	}
	b, err := Config(Draft{JSON: []byte(`{"x.y":{"b":1,"a":2},"os":"linux","architecture":"arm64","variant":"v8"}`)})
	if err != nil || string(b) != `{"architecture":"arm64","created":null,"history":[],"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"variant":"v8","x.y":{"b":1,"a":2}}` {
		t.Errorf("got %s, %v", b, err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","architecture":"amd64","history":[{"empty_layer":true},{}]}`), 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		d := Draft{JSON: b, Layers: make([]Layer, min(max(n, 0), 20)), Epoch: at(5)}
		out, err := Config(d)
		if err != nil {
			return
		}
		var img ocispec.Image
		if err := json.Unmarshal(out, &img); err != nil {
			t.Fatal(err)
		}
		for _, h := range img.History {
			if !h.EmptyLayer {
				n--
			}
		}
		if len(d.Layers) != len(img.RootFS.DiffIDs) {
			t.Errorf("%d layers, %d diff IDs", len(d.Layers), len(img.RootFS.DiffIDs))
		}
	})
}

// fake is a layer whose only blobs are those given, by compression.
type fake struct {
	exporter.Layer
	blobs map[exporter.Compression]Descriptor
	err   error
}

func (f fake) Blob(_ context.Context, form exporter.Form) (Descriptor, error) {
	return f.blobs[form.Compression], f.err
}

func (f fake) Open(_ context.Context, d Descriptor) (io.ReadCloser, error) {
	for _, b := range f.blobs {
		if b.Digest == d.Digest {
			return io.NopCloser(strings.NewReader("")), nil
		}
	}
	return nil, errors.New("gone")
}

func desc(name, mediaType string) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: digest.FromString(name), Size: int64(len(name))}
}

func manifest(config string, names ...string) exporter.Manifest {
	m := exporter.Manifest{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Config: []byte(config)}
	for _, n := range names {
		m.Layers = append(m.Layers, fake{blobs: map[exporter.Compression]Descriptor{
			exporter.Gzip: desc(n, ocispec.MediaTypeImageLayerGzip), exporter.Zstd: desc("zstd "+n, ocispec.MediaTypeImageLayerZstd),
		}})
	}
	return m
}

// The bytes of manifests and indexes are known, with OCI's and with Docker's media types.
func TestManifestGolden(t *testing.T) {
	m := manifest(`{"a":1}`, "one", "two")
	m.Annotations = map[string]string{"org.opencontainers.image.title": "x"}
	for name, docker := range map[string]bool{"oci": false, "docker": true} {
		a, err := Assemble(t.Context(), &m, exporter.Form{Docker: docker})
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "manifest-"+name+".json", a.Manifest.Bytes)
		arm := desc("arm", a.Manifest.Descriptor.MediaType)
		arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
		idx, err := Index([]Descriptor{a.Manifest.Descriptor, arm}, m.Annotations, docker)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "index-"+name+".json", idx.Bytes)
	}
	empty := manifest(`{}`)
	a, err := Assemble(t.Context(), &empty, exporter.Form{})
	if err != nil || !bytes.Contains(a.Manifest.Bytes, []byte(`"layers": []`)) {
		t.Errorf("an image without layers: %s, %v", a.Manifest.Bytes, err)
	}
}

// Annotations are written where they belong, and refused where there is no such place.
func TestAnnotations(t *testing.T) {
	type a = map[string]string
	for _, tt := range []struct {
		name        string
		img         exporter.Image
		manifest    exporter.Manifest
		docker      bool
		doc, child  string // what the top document, and its first manifest, have
		desc, below string // what the descriptors of these have
		err         string
	}{
		{name: "none", doc: "null", child: "null", desc: "null", below: "null"},
		{
			name: "manifest", manifest: exporter.Manifest{Annotations: a{"k": "v"}, DescriptorAnnotations: a{"d": "e"}},
			doc: `{"k":"v"}`, child: `{"k":"v"}`, desc: `{"d":"e"}`, below: `{"d":"e"}`,
		},
		{
			name: "index of one", manifest: exporter.Manifest{Annotations: a{"k": "v"}, DescriptorAnnotations: a{"d": "e"}},
			img: exporter.Image{Multi: true, Annotations: a{"i": "j"}, DescriptorAnnotations: a{"l": "m"}},
			doc: `{"i":"j"}`, child: `{"k":"v"}`, desc: `{"l":"m"}`, below: `{"d":"e"}`,
		},
		{
			name: "Docker's manifest", docker: true, manifest: exporter.Manifest{Annotations: a{"k": "v"}},
			doc: `{"k":"v"}`, child: `{"k":"v"}`, desc: "null", below: "null",
		},
		{name: "no index", img: exporter.Image{Annotations: a{"i": "j"}}, err: "index annotations not supported for single platform export"},
		{name: "no index to point to", img: exporter.Image{DescriptorAnnotations: a{"i": "j"}}, err: "index annotations not supported for single platform export"},
		{name: "Docker's index", docker: true, img: exporter.Image{Multi: true, Annotations: a{"i": "j"}}, err: `cannot export annotations with "oci-mediatypes=false"`},
		{name: "Docker's descriptor", docker: true, manifest: exporter.Manifest{DescriptorAnnotations: a{"i": "j"}}, err: `cannot export annotations with "oci-mediatypes=false"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := manifest(`{"a":1}`, "one")
			m.Annotations, m.DescriptorAnnotations = tt.manifest.Annotations, tt.manifest.DescriptorAnnotations
			tt.img.Manifests = []exporter.Manifest{m}
			all, top, err := AssembleAll(t.Context(), &tt.img, exporter.Form{Docker: tt.docker})
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			annotations := func(v any) string {
				b, _ := json.Marshal(v)
				return string(b)
			}
			in := func(doc []byte) string {
				var v struct{ Annotations map[string]string }
				if err := json.Unmarshal(doc, &v); err != nil {
					t.Fatal(err)
				}
				return annotations(v.Annotations)
			}
			got := []string{in(top.Bytes), in(all[0].Manifest.Bytes), annotations(top.Descriptor.Annotations), annotations(all[0].Manifest.Descriptor.Annotations)}
			if want := []string{tt.doc, tt.child, tt.desc, tt.below}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if wantIndex := tt.img.Multi; (top.Descriptor.Digest != all[0].Manifest.Descriptor.Digest) != wantIndex {
				t.Errorf("an index: %v, want %v", !wantIndex, wantIndex)
			}
		})
	}
}

// A pulled manifest is exported as it is, if its blobs are there and no others are forced; an index if all of it is.
func TestRaw(t *testing.T) {
	m := manifest(`{"a":1}`, "one", "two")
	orig, err := Assemble(t.Context(), &m, exporter.Form{})
	if err != nil {
		t.Fatal(err)
	}
	odd := append([]byte("\n "), orig.Manifest.Bytes...) // the same, written by somebody else
	m.Raw = &exporter.Raw{MediaType: ocispec.MediaTypeImageManifest, Bytes: odd}
	want := digest.FromBytes(odd)
	idx, _ := Index([]Descriptor{{Digest: want}}, nil, false)
	img := &exporter.Image{Manifests: []exporter.Manifest{m}, Raw: &exporter.Raw{MediaType: ocispec.MediaTypeImageIndex, Bytes: idx.Bytes}}
	for _, tt := range []struct {
		name        string
		form        exporter.Form
		change      func(m *exporter.Manifest)
		same, whole bool
	}{
		{"plain", exporter.Form{}, nil, true, true},
		{"Docker's types for what has none", exporter.Form{Docker: true}, nil, true, true},
		{"forced", exporter.Form{Compression: exporter.Zstd, Force: true}, nil, false, false},
		{"annotated", exporter.Form{}, func(m *exporter.Manifest) { m.Annotations = map[string]string{"a": "b"} }, false, false},
		{"another config", exporter.Form{}, func(m *exporter.Manifest) { m.Config = []byte(`{}`) }, false, false},
		{"a blob is gone", exporter.Form{}, func(m *exporter.Manifest) {
			m.Layers = []exporter.Layer{m.Layers[0], fake{blobs: map[exporter.Compression]Descriptor{exporter.Gzip: desc("other", "x")}}}
		}, false, false},
	} {
		c := m
		if tt.change != nil {
			tt.change(&c)
		}
		img.Manifests[0] = c
		all, top, err := AssembleAll(t.Context(), img, tt.form)
		if err != nil {
			t.Fatal(err)
		}
		if got := all[0].Manifest.Descriptor.Digest == want; got != tt.same {
			t.Errorf("%s: as it was pulled: %v, want %v", tt.name, got, tt.same)
		}
		if got := top.Descriptor.Digest == idx.Descriptor.Digest; got != tt.whole {
			t.Errorf("%s: index as it was pulled: %v, want %v", tt.name, got, tt.whole)
		}
	}
	bad := m
	bad.Raw = &exporter.Raw{Bytes: []byte("{")}
	if _, err := Assemble(t.Context(), &bad, exporter.Form{}); err == nil {
		t.Error("a damaged manifest was accepted")
	}
	failing := manifest(`{}`, "x")
	failing.Layers[0] = fake{err: errors.New("broken")}
	if _, _, err := AssembleAll(t.Context(), &exporter.Image{Manifests: []exporter.Manifest{failing}}, exporter.Form{}); err == nil {
		t.Error("a failing layer was ignored")
	}
	if _, _, err := AssembleAll(t.Context(), &exporter.Image{}, exporter.Form{}); err == nil {
		t.Error("no manifest at all")
	}
}
