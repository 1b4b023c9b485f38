package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"testing"
	"time"
)

// The time of an archive is that of its youngest regular file; what is no archive, or a broken one, has none.
func TestYoungest(t *testing.T) {
	archive := func(entries ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := range entries {
			if err := w.WriteHeader(&entries[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	entry := func(kind byte, sec int64) tar.Header {
		return tar.Header{Name: "x", Typeflag: kind, ModTime: time.Unix(sec, 0), Linkname: "y"}
	}
	zipped := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	whole := archive(entry(tar.TypeReg, 5), entry(tar.TypeReg, 9), entry(tar.TypeReg, 7), entry(tar.TypeDir, 100), entry(tar.TypeSymlink, 200))
	for _, tt := range []struct {
		name string
		data []byte
		want int64 // 0 for none
	}{
		{"tar", whole, 9},
		{"compressed", zipped(whole), 9},
		{"directories only", archive(entry(tar.TypeDir, 100)), 0},
		{"empty", archive(), 0},
		{"nothing", nil, 0},
		{"a script", []byte("#!/bin/sh\n"), 0},
		{"cut short", whole[:700], 0},
		{"half a compression", zipped(whole)[:30], 0},
	} {
		got := youngestIn(t.Context(), bytes.NewReader(tt.data))
		if (got == nil) != (tt.want == 0) || got != nil && got.Unix() != tt.want {
			t.Errorf("%s: got %v, want %d", tt.name, got, tt.want)
		}
	}
}

// zeros are an endless file, whose reader gives up at some point.
type zeros struct {
	read int
	at   func(read int)
}

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.read += len(p)
	z.at(z.read)
	if z.read > 64<<20 {
		return 0, io.ErrUnexpectedEOF
	}
	return len(p), nil
}

// Who gives up a build does not wait for the end of an archive.
func TestYoungestCanceled(t *testing.T) {
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "x", Size: 1 << 40, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	z := &zeros{at: func(read int) {
		if read > 1<<20 {
			cancel()
		}
	}}
	if got := youngestIn(ctx, io.MultiReader(&head, z)); got != nil || z.read > 2<<20 {
		t.Errorf("got %v, after %d bytes", got, z.read)
	}
}

// Whatever is said to be an annotation, reading it does not panic, and gives one of the documents.
func FuzzAnnotation(f *testing.F) {
	for _, s := range []string{"annotation.a", "annotation-manifest[linux/amd64].a.b", "annotation-index[x].y", "annotation-[].", "name"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		a, ok, err := parseAnnotation(key, "v")
		if ok && err == nil && (a.key == "" || a.to == "" || a.value != "v") {
			t.Errorf("%q gives %+v", key, a)
		}
	})
}
