package bksession

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	bkcontent "github.com/moby/buildkit/session/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

func descOf(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b)), MediaType: ocispec.MediaTypeImageLayer}
}

// Blobs that are written to a client's store are there, and can be read back: whole, or in part.
func TestContent(t *testing.T) {
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, New(patient(t)), "", bkcontent.NewAttachable(map[string]content.Store{"export": store}))
	c := s.ContentStore("export")
	for _, blob := range [][]byte{[]byte("text"), bytes.Repeat([]byte("0123456789abcdef"), 500_000), {}} {
		desc := descOf(blob)
		if _, err := c.Size(t.Context(), desc.Digest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("before it is there: error %v, want fs.ErrNotExist", err)
		}
		for range 2 { // the second time it is there already
			if err := c.Write(t.Context(), desc, bytes.NewReader(blob)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := content.ReadBlob(context.Background(), store, desc)
		if err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%d bytes are there of %d: %v", len(got), len(blob), err)
		}
		if size, err := c.Size(t.Context(), desc.Digest); err != nil || size != desc.Size {
			t.Errorf("size %d, %v", size, err)
		}
		r, err := c.Open(t.Context(), desc)
		if err != nil {
			t.Fatal(err)
		}
		got, err = io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%d bytes have come of %d: %v", len(got), len(blob), err)
		}
	}
	part := make([]byte, 3)
	if n, err := c.ReadAt(t.Context(), descOf([]byte("text")).Digest, part, 1); err != nil || string(part[:n]) != "ext" {
		t.Errorf("read %q, %v", part[:n], err)
	}
	if n, err := c.ReadAt(t.Context(), descOf([]byte("text")).Digest, part, 2); !errors.Is(err, io.EOF) || string(part[:n]) != "xt" {
		t.Errorf("read %q, %v; want io.EOF", part[:n], err)
	}
}

// Blobs that are not what their descriptor says are refused in both directions, and errors name blob and store.
func TestContentWrong(t *testing.T) {
	dir := t.TempDir()
	store, err := local.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, New(patient(t)), "", bkcontent.NewAttachable(map[string]content.Store{"export": store}))
	c, desc := s.ContentStore("export"), descOf([]byte("right"))
	for _, text := range []string{"wrong", "short"[:4], "right and more"} {
		if err := c.Write(t.Context(), desc, strings.NewReader(text)); err == nil {
			t.Errorf("%q was taken for %q", text, "right")
		}
		if _, err := c.Size(t.Context(), desc.Digest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %q: error %v, want fs.ErrNotExist", text, err)
		}
	}
	if err := c.Write(t.Context(), desc, failing{strings.NewReader("ri")}); err == nil || !strings.Contains(err.Error(), "the disk is broken") {
		t.Errorf("error %v, want the reader's", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "ingest")); err != nil || len(left) > 0 {
		t.Errorf("%v is left of it, %v", left, err)
	}
	_, err = s.ContentStore("oci:none").Open(t.Context(), desc)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "oci:none") || !strings.Contains(err.Error(), desc.Digest.String()) {
		t.Errorf("error %v, want fs.ErrNotExist with store and digest", err)
	}
	if _, err := c.Open(t.Context(), ocispec.Descriptor{Digest: "sha256:../../etc/passwd"}); err == nil {
		t.Error("a digest that is none was asked for")
	}
}

// A client that sends other bytes than it should, or fewer, or more, is not believed.
func TestContentLies(t *testing.T) {
	for _, text := range []string{"wrong", "righ", "right!", ""} {
		s := scripted(t, New(patient(t)), methodContentRead, func(stream grpc.ServerStream) error {
			var m raw
			if err := stream.RecvMsg(&m); err != nil {
				return err
			}
			m = appendText(nil, 2, text)
			return stream.SendMsg(&m)
		})
		desc := descOf([]byte("right"))
		r, err := s.ContentStore("x").read(t.Context(), desc.Digest, desc.Size)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err == nil {
			t.Errorf("%q was taken for %q", got, "right")
		}
		_ = r.Close()
	}
}
