package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A real registry takes an image from us and gives it back, whole and in pieces, and mounts its blobs.
func TestDebianRegistry(t *testing.T) {
	host := registrytest.StartDebian(t)
	c, err := New(Options{Hosts: map[string]Host{host: {PlainHTTP: true, ChunkSize: 300_000}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	repo := Repo{host, "team/app"}

	layers := [][]byte{pattern(10), pattern(299_999), pattern(1_000_000)}
	m := map[string]any{"schemaVersion": 2, "mediaType": ociImage}
	m["config"] = pushTo(ctx, t, c, repo, []byte(`{"os":"linux","architecture":"amd64"}`), types.OCIConfigJSON)
	var ls []any
	for _, l := range layers {
		ls = append(ls, pushTo(ctx, t, c, repo, l, types.OCIUncompressedLayer))
	}
	m["layers"] = ls
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := c.PushManifest(ctx, repo.Tag("1"), types.OCIManifestSchema1, manifest)
	if err != nil {
		t.Fatal(err)
	}

	got, err := c.Resolve(ctx, repo.Tag("1"))
	if err != nil || got.Digest != pushed.Digest || got.Size != pushed.Size || got.MediaType != pushed.MediaType {
		t.Errorf("resolved %+v, %v; want %+v", got, err, pushed)
	}
	if b, err := c.Manifest(ctx, repo, got); err != nil || !bytes.Equal(b, manifest) {
		t.Errorf("pulled %s, %v", b, err)
	}
	other := Repo{host, "other"}
	for _, l := range layers {
		d := describeBytes(l)
		// The first half is there already.
		var dst memSink
		dst.Write(l[:len(l)/2])
		if err := c.FetchBlob(ctx, repo, d, &dst); err != nil || !bytes.Equal(dst.Bytes(), l) {
			t.Errorf("pulled %d bytes of %d, %v", dst.Len(), len(l), err)
		}
		how, err := c.PushBlob(ctx, other, d, nil, []Repo{repo})
		if err != nil || how != Mounted {
			t.Errorf("to another repository: %v, %v", how, err)
		}
		if how, err := c.PushBlob(ctx, other, d, nil, []Repo{repo}); err != nil || how != Existed {
			t.Errorf("once more: %v, %v", how, err)
		}
	}
	if _, err := c.Resolve(ctx, repo.Tag("2")); err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
		t.Errorf("another tag: %v", err)
	}
}

func pushTo(ctx context.Context, tb testing.TB, c *Client, repo Repo, b []byte, mt types.MediaType) Descriptor {
	tb.Helper()
	d := describeBytes(b)
	d.MediaType = mt
	how, err := c.PushBlob(ctx, repo, d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, nil)
	if err != nil || how != Uploaded {
		tb.Fatalf("pushing %d bytes: %v, %v", len(b), how, err)
	}
	return d
}

// BenchmarkDebianRegistry measures how fast 64 MiB go to a real registry and come back.
func BenchmarkDebianRegistry(b *testing.B) {
	host := registrytest.StartDebian(b)
	c, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	content := make([]byte, 64<<20)
	rng := rand.NewChaCha8([32]byte{})
	rng.Read(content)
	repo := Repo{host, "bench"}
	b.Run("push", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		for i := range b.N {
			copy(content, fmt.Sprint("push ", b.N, i))
			pushTo(b.Context(), b, c, repo, content, octets)
		}
	})
	copy(content, "fetch")
	d := pushTo(b.Context(), b, c, repo, content, octets)
	b.Run("fetch", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		for range b.N {
			if err := c.FetchBlob(b.Context(), repo, d, new(counter)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("resolve", func(b *testing.B) {
		if _, err := c.PushManifest(b.Context(), repo.Tag("1"), types.OCIImageIndex, []byte(`{"schemaVersion":2,"mediaType":"`+ociIndex+`","manifests":[]}`)); err != nil {
			b.Fatal(err)
		}
		for range b.N {
			if _, err := c.Resolve(b.Context(), repo.Tag("1")); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A counter is a Sink that only counts.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func (c *counter) Offset() int64 { return int64(*c) }
func (c *counter) Reset() error  { *c = 0; return nil }
