package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memFiles are the files of a layout in memory; it counts how often each is opened.
type memFiles struct {
	files map[string][]byte
	opens map[string]int
}

func (m *memFiles) Open(_ context.Context, name string) (io.ReadCloser, error) {
	b, ok := m.files[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	m.opens[name]++
	return io.NopCloser(bytes.NewReader(b)), nil
}

// add puts a blob into the layout.
func (m *memFiles) add(mediaType string, b []byte) Descriptor {
	d := digest.FromBytes(b)
	m.files[blobName(d)] = b
	return Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

func (m *memFiles) json(t testing.TB, mediaType string, v any) Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return m.add(mediaType, b)
}

// image puts an image of one layer into the layout.
func (m *memFiles) image(t testing.TB, arch string) Descriptor {
	t.Helper()
	l := newLayer("f", arch)
	blob := l.bytes(true)
	diff, _ := l.DiffID(t.Context())
	p := ocispec.Platform{OS: "linux", Architecture: arch}
	config := m.json(t, ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}},
	})
	d := m.json(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: []Descriptor{m.add("application/vnd.docker.image.rootfs.diff.tar.gzip", blob)},
	})
	d.Platform = &p
	return d
}

func newFiles() *memFiles { return &memFiles{files: map[string][]byte{}, opens: map[string]int{}} }

// Of an index the manifest for the platform is picked, without reading the others' or any layer; layers come when they are
// asked for.
func TestPick(t *testing.T) {
	m := newFiles()
	amd, arm := m.image(t, "amd64"), m.image(t, "arm64")
	attestation := m.image(t, "amd64")
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	inner := m.json(t, ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []Descriptor{attestation, amd, arm}})
	outer := m.json(t, ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []Descriptor{inner}}) // says not what it is
	for _, c := range []struct {
		d    digest.Digest
		arch string
		want string
	}{
		{amd.Digest, "amd64", "amd64"},
		{amd.Digest, "arm64", "amd64"}, // there is no choice
		{inner.Digest, "arm64", "arm64"},
		{outer.Digest, "arm64", "arm64"},
		{outer.Digest, "amd64", "amd64"},
	} {
		clear(m.opens)
		got, err := Pick(t.Context(), m, c.d, ocispec.Platform{OS: "linux", Architecture: c.arch})
		if err != nil || got.Platform.Architecture != c.want || len(got.Layers) != 1 || got.Layers[0].Blob.MediaType != ocispec.MediaTypeImageLayerGzip {
			t.Errorf("%s of %s: got %+v, %v", c.arch, c.d, got, err)
			continue
		}
		if n := m.opens[blobName(got.Layers[0].Blob.Digest)]; n != 0 {
			t.Errorf("the layer was read %d times", n)
		}
		s := newStore(t)
		var kept []digest.Digest
		opt := ReadOptions{Blobs: s, Keep: func(_ context.Context, d digest.Digest) error { kept = append(kept, d); return nil }}
		if err := PutLayer(t.Context(), m, got.Layers[0].Blob, opt); err != nil || !s.Has(got.Layers[0].Blob) || len(kept) != 1 {
			t.Errorf("got %v, kept %v", err, kept)
		}
	}
	if _, err := Pick(t.Context(), m, inner.Digest, ocispec.Platform{OS: "linux", Architecture: "riscv64"}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "linux/riscv64") {
		t.Errorf("got %v", err)
	}
}

// Layers have several names, some of which say that a registry need not have them.
func TestLayerTypes(t *testing.T) {
	for mediaType, want := range map[string]string{
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            ocispec.MediaTypeImageLayerGzip,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    ocispec.MediaTypeImageLayerGzip,
		"application/vnd.docker.image.rootfs.foreign.diff.tar":         ocispec.MediaTypeImageLayer,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": ocispec.MediaTypeImageLayerGzip,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": ocispec.MediaTypeImageLayerZstd,
		"application/vnd.oci.image.layer.v1.tar":                       ocispec.MediaTypeImageLayer,
		"application/vnd.oci.image.config.v1+json":                     "",
	} {
		if got := ociLayerType(mediaType); got != want {
			t.Errorf("%s: got %q, want %q", mediaType, got, want)
		}
	}
}

// Nothing counts that has not the digest, size and kind that it is said to have.
func TestPickHostile(t *testing.T) {
	p := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	for name, spoil := range map[string]func(t *testing.T, m *memFiles, d Descriptor) digest.Digest{
		"no digest": func(*testing.T, *memFiles, Descriptor) digest.Digest { return "" },
		"a path":    func(*testing.T, *memFiles, Descriptor) digest.Digest { return "sha256:../../../etc/passwd" },
		"not there": func(*testing.T, *memFiles, Descriptor) digest.Digest { return digest.FromString("x") },
		"manifest": func(_ *testing.T, m *memFiles, d Descriptor) digest.Digest {
			m.files[blobName(d.Digest)] = []byte("{}")
			return d.Digest
		},
		"not a json": func(_ *testing.T, m *memFiles, _ Descriptor) digest.Digest { return m.add("", []byte("x")).Digest },
		"large": func(_ *testing.T, m *memFiles, _ Descriptor) digest.Digest {
			return m.add("", make([]byte, maxDocument+1)).Digest
		},
		"unknown kind": func(_ *testing.T, m *memFiles, _ Descriptor) digest.Digest {
			return m.add("", []byte(`{"mediaType":"text/plain"}`)).Digest
		},
		"both": func(_ *testing.T, m *memFiles, _ Descriptor) digest.Digest {
			return m.add("", []byte(`{"manifests":[],"layers":[]}`)).Digest
		},
		"config": func(t *testing.T, m *memFiles, d Descriptor) digest.Digest {
			var raw ocispec.Manifest
			_ = json.Unmarshal(m.files[blobName(d.Digest)], &raw)
			m.files[blobName(raw.Config.Digest)] = []byte("{}")
			return d.Digest
		},
		"layer kind": func(t *testing.T, m *memFiles, d Descriptor) digest.Digest {
			var raw ocispec.Manifest
			_ = json.Unmarshal(m.files[blobName(d.Digest)], &raw)
			raw.Layers[0].MediaType = "text/plain"
			return m.json(t, "", raw).Digest
		},
		"layer size": func(t *testing.T, m *memFiles, d Descriptor) digest.Digest {
			var raw ocispec.Manifest
			_ = json.Unmarshal(m.files[blobName(d.Digest)], &raw)
			raw.Layers[0].Size = 1 << 62
			return m.json(t, "", raw).Digest
		},
		"a loop of none": func(t *testing.T, m *memFiles, d Descriptor) digest.Digest {
			d.Platform = nil
			for range maxDepth + 2 {
				d = m.json(t, ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []Descriptor{d}})
			}
			return d.Digest
		},
	} {
		m := newFiles()
		if _, err := Pick(t.Context(), m, spoil(t, m, m.image(t, "amd64")), p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	m := newFiles()
	got, err := Pick(t.Context(), m, m.image(t, "amd64").Digest, p)
	if err != nil {
		t.Fatal(err)
	}
	l := got.Layers[0].Blob
	right := m.files[blobName(l.Digest)]
	for name, b := range map[string][]byte{"other": []byte("x"), "longer": append(bytes.Clone(right), 0), "shorter": right[:len(right)-1], "gone": nil} {
		m.files[blobName(l.Digest)] = b
		if b == nil {
			delete(m.files, blobName(l.Digest))
		}
		s := newStore(t)
		if err := PutLayer(t.Context(), m, l, ReadOptions{Blobs: s}); err == nil || s.Has(l) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// What this package writes is what it picks from.
func TestPickWritten(t *testing.T) {
	dir := t.TempDir()
	desc, err := NewDir(dir, Options{}).Export(t.Context(), mkImage(t, []string{"docker.io/library/a:1"}, "amd64", "one", "two"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Pick(t.Context(), dirFiles(dir), desc.Digest, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil || len(got.Layers) != 2 || got.Descriptor.Digest != desc.Digest {
		t.Errorf("got %+v, %v", got, err)
	}
}

type dirFiles string

func (d dirFiles) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), name))
}
