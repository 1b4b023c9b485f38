package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/native"
	"github.com/boxbuild/boxbuild/snapshot/overlay"
	"github.com/boxbuild/boxbuild/snapshot/store"
)

// snapshotters are those that the tests run on. Layers have files of root's, which only root can make.
func snapshotters(t testing.TB) []string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	return []string{"overlay", "native"}
}

func openDB(t testing.TB, path string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// newLayers opens a store in dir with everything real.
func newLayers(t testing.TB, dir, kind string) *Layers {
	t.Helper()
	var sn snapshot.Snapshotter
	var err error
	path := filepath.Join(dir, "snapshots")
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if kind == "overlay" {
		var o *overlay.Snapshotter
		if o, err = overlay.Open(t.Context(), path, store.Options{}); err == nil {
			t.Cleanup(func() { o.Close() })
		}
		sn = o
	} else {
		var n *native.Snapshotter
		if n, err = native.Open(t.Context(), path, store.Options{}); err == nil {
			t.Cleanup(func() { n.Close() })
		}
		sn = n
	}
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	imgs, err := image.Open(openDB(t, filepath.Join(dir, "meta.db")))
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLayers(Stores{Snapshots: sn, Blobs: blobs, Images: imgs, Cache: openDB(t, filepath.Join(dir, "cache.db"))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// each runs a test on every snapshotter.
func each(t *testing.T, fn func(t *testing.T, l *Layers)) {
	for _, kind := range snapshotters(t) {
		t.Run(kind, func(t *testing.T) { fn(t, newLayers(t, t.TempDir(), kind)) })
	}
}

// tarOf makes a tar of files in the order given: name, content, name, content; a name that ends in a slash is a directory.
func tarOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg, ModTime: time.Unix(1e9, 5)}
		if h.Name[len(h.Name)-1] == '/' {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		// Access times are something that our own tars never have, so that the bytes cannot be made again.
		h.AccessTime, h.Format = time.Unix(7, 7), tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, files[i+1])
	}
	w.Close()
	return b.Bytes()
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// packed describes a layer whose blob arrives when it is asked for; fetches counts that.
func packed(l *Layers, tarball []byte, fetches *atomic.Int32) Packed {
	z := gz(tarball)
	d := exporter.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(z), Size: int64(len(z))}
	return Packed{
		DiffID: digest.FromBytes(tarball), Blob: d, Origin: "docker.io/library/x",
		Fetch: func(ctx context.Context) error {
			if fetches != nil {
				fetches.Add(1)
			}
			_, err := l.Blobs.Ingest(ctx, bytes.NewReader(z), d)
			return err
		},
	}
}

// list returns the names and contents of all files of a snapshot's own layer.
func list(t testing.TB, l *Layers, id snapshot.ID) string {
	t.Helper()
	var b bytes.Buffer
	if err := layer.DiffSnapshot(t.Context(), l.Snapshots, id, &b, layer.DiffOptions{}); err != nil {
		t.Fatal(err)
	}
	return listTar(&b)
}

func listTar(r io.Reader) string {
	out := ""
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err != nil {
			return out
		}
		body, _ := io.ReadAll(tr)
		out += fmt.Sprintf("%s=%s ", h.Name, body)
	}
}

// Layers are applied in order, once, and found again by later images and after a restart.
func TestUnpack(t *testing.T) {
	for _, kind := range snapshotters(t) {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			l := newLayers(t, dir, kind)
			var n atomic.Int32
			a, b, c := packed(l, tarOf(t, "a/", "", "a/f", "1"), &n), packed(l, tarOf(t, "a/.wh.f", "", "a/g", "2"), &n), packed(l, tarOf(t, "c", "3"), &n)
			var reports []string
			got, err := l.Unpack(t.Context(), []Packed{a, b}, func(id string, cur, total int64, done bool) {
				if done {
					reports = append(reports, fmt.Sprint(id, cur, total))
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 2 || n.Load() != 2 || len(reports) != 2 || reports[0] != fmt.Sprint(a.Blob.Digest, a.Blob.Size, a.Blob.Size) {
				t.Errorf("got %v, %d fetches, reports %v", got, n.Load(), reports)
			}
			if s := list(t, l, got[1].Snapshot); s != "a/= a/.wh.f= a/g=2 " {
				t.Errorf("second layer has %s", s)
			}
			if got[1].DiffID != b.DiffID || got[1].Size != int64(len(tarOf(t, "a/.wh.f", "", "a/g", "2"))) || got[1].Blobs[0].Digest != b.Blob.Digest {
				t.Errorf("got %+v", got[1])
			}
			again, err := l.Unpack(t.Context(), []Packed{a, c}, nil)
			if err != nil || again[0].Snapshot != got[0].Snapshot || again[1].Snapshot == got[1].Snapshot || n.Load() != 3 {
				t.Errorf("got %v, %v, %d fetches", again, err, n.Load())
			}
			l.Close()
			if c, ok := l.Snapshots.(io.Closer); ok {
				c.Close()
			}
			l.Cache.Close()
			l2, err := NewLayers(Stores{Snapshots: l.Snapshots, Blobs: l.Blobs, Images: l.Images, Cache: openDB(t, filepath.Join(dir, "cache.db"))})
			if err != nil {
				t.Fatal(err)
			}
			defer l2.Close()
			if d, ok := l2.DiffIDs.Known(got[1].Snapshot); !ok || d.DiffID != b.DiffID || d.Size != got[1].Size || d.Files != got[1].Files {
				t.Errorf("after reopening: %+v %v, want %+v", d, ok, got[1])
			}
		})
	}
}

// An image that claims another's diff IDs for its own blobs is refused, whether or not the other is there, and its blobs
// are never taken for the other's layers (CVE-2026-93318).
func TestUnpackFalseDiffID(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		good, evil := packed(l, tarOf(t, "f", "good"), nil), packed(l, tarOf(t, "f", "evil"), nil)
		evil.DiffID = good.DiffID
		for round := range 2 {
			if _, err := l.Unpack(t.Context(), []Packed{evil}, nil); !errors.Is(err, layer.ErrDiffID) {
				t.Errorf("round %d: got %v, want ErrDiffID", round, err)
			}
			got, err := l.Unpack(t.Context(), []Packed{good}, nil)
			if err != nil || list(t, l, got[0].Snapshot) != "f=good " {
				t.Errorf("round %d: %v", round, err)
			}
			if blobs, _, _ := l.Images.Blobs(good.DiffID); len(blobs) != 1 || blobs[0].Digest != good.Blob.Digest {
				t.Errorf("round %d: blobs %v", round, blobs)
			}
		}
	})
}

// Fifty that unpack the same layers at once fetch and apply each once, cancelled ones among them.
func TestUnpackConcurrent(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		var n atomic.Int32
		layers := []Packed{packed(l, tarOf(t, "a", "1"), &n), packed(l, tarOf(t, "b", "2"), &n), packed(l, tarOf(t, "c", "3"), &n)}
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == 1 {
					go cancel()
				}
				defer cancel()
				got, err := l.Unpack(ctx, layers, nil)
				if err == nil && len(got) != 3 || err != nil && !errors.Is(err, context.Canceled) || err != nil && i%5 != 1 {
					t.Errorf("%d: %v, %v", i, got, err)
				}
			})
		}
		wg.Wait()
		if got := n.Load(); got > 3+10 || got < 3 { // one more for each that was cancelled alone
			t.Errorf("%d fetches", got)
		}
	})
}

// A layer that breaks off, or is cancelled at any moment, leaves nothing behind and nothing locked (CVE-2021-20291).
func TestUnpackFails(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		tarball := tarOf(t, "a", string(make([]byte, 100_000)))
		p := packed(l, tarball, nil)
		broken := errors.New("broken")
		failing := p
		failing.Fetch = func(context.Context) error { return broken }
		if _, err := l.Unpack(t.Context(), []Packed{failing}, nil); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		short := packed(l, tarball, nil)
		z := gz(tarball)[:80]
		short.Blob.Digest, short.Blob.Size = digest.FromBytes(z), 80
		short.Fetch = func(ctx context.Context) error {
			_, err := l.Blobs.Ingest(ctx, bytes.NewReader(z), short.Blob)
			return err
		}
		if _, err := l.Unpack(t.Context(), []Packed{short}, nil); err == nil {
			t.Error("half a layer was accepted")
		}
		ctx, cancel := context.WithCancel(t.Context())
		hanging := p
		hanging.Fetch = func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return context.Cause(ctx)
		}
		if _, err := l.Unpack(ctx, []Packed{hanging}, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		for info, err := range l.Snapshots.All(t.Context()) {
			t.Errorf("left snapshot %v, %v", info, err)
		}
		if _, err := l.Unpack(t.Context(), []Packed{p}, nil); err != nil {
			t.Error(err)
		}
	})
}

// build makes a snapshot as a step of a build does: by writing into a draft.
func build(t testing.TB, l *Layers, parent, id snapshot.ID, name, content string) {
	t.Helper()
	d := layer.NewDraft("build")
	m, err := l.Snapshots.Prepare(t.Context(), d, parent)
	if err != nil {
		t.Fatal(err)
	}
	to, ok := layer.TargetOf(m)
	if !ok {
		t.Fatal("not writable")
	}
	if err := os.WriteFile(filepath.Join(to.Dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := l.Snapshots.Commit(t.Context(), d, id); err != nil {
		t.Fatal(err)
	}
}

// The diff ID of a built snapshot is that of the tar which its layer gives, computed once and remembered; a pulled one
// keeps the tar's.
func TestDiffIDs(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		got, err := l.Unpack(t.Context(), []Packed{packed(l, tarOf(t, "base", "1"), nil)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		build(t, l, got[0].Snapshot, "built", "f", "hello")
		l.DiffIDs.Start("built")
		d, err := l.DiffIDs.Wait(t.Context(), "built")
		if err != nil {
			t.Fatal(err)
		}
		if d.Files != int64(len("hello")) {
			t.Errorf("files of %d bytes", d.Files)
		}
		r, err := l.Layer("built", "").Tar(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || digest.FromBytes(b) != d.DiffID || int64(len(b)) != d.Size {
			t.Errorf("tar of %d bytes, %v; diff ID of %d bytes", len(b), err, d.Size)
		}
		r.Close()
		if s := listTar(bytes.NewReader(b)); s != "f=hello " {
			t.Errorf("layer has %s", s)
		}
		if p, err := l.DiffIDs.Wait(t.Context(), got[0].Snapshot); err != nil || p.DiffID != got[0].DiffID || p.Files != 1 {
			t.Errorf("pulled layer: %+v, %v", p, err)
		}
		if _, err := l.DiffIDs.Wait(t.Context(), "nothing"); !errors.Is(err, snapshot.ErrNotFound) {
			t.Errorf("missing snapshot: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		build(t, l, "", "other", "g", "x")
		l.DiffIDs.slots.Acquire(t.Context(), 2)
		if _, err := l.DiffIDs.Wait(ctx, "other"); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		l.Close()
		if _, err := l.DiffIDs.Wait(t.Context(), "other"); err == nil {
			t.Error("answer after Close")
		}
	})
}

// A layer is compressed once for each form; pulled layers come out as they came in; what was pushed is known.
func TestLayerBlobs(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		p := packed(l, tarOf(t, "base", "1"), nil)
		got, err := l.Unpack(t.Context(), []Packed{p}, nil)
		if err != nil {
			t.Fatal(err)
		}
		pulled := l.Layer(got[0].Snapshot, "")
		desc, err := pulled.Blob(t.Context(), exporter.Form{Docker: true})
		if err != nil || desc.Digest != p.Blob.Digest || desc.MediaType != dockerLayerGzip {
			t.Errorf("pulled: %v, %v", desc, err)
		}
		r, err := pulled.Tar(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || digest.FromBytes(b) != p.DiffID {
			t.Errorf("pulled tar: %v", err)
		}
		r.Close()
		if o := pulled.Origins(); len(o) != 1 || o[0] != "docker.io/library/x" {
			t.Errorf("origins %v", o)
		}

		build(t, l, got[0].Snapshot, "built", "f", "hello")
		built := l.Layer("built", "")
		var wg sync.WaitGroup
		descs := make([]exporter.Descriptor, 10)
		for i := range descs {
			wg.Go(func() {
				var err error
				if descs[i], err = built.Blob(t.Context(), exporter.Form{Docker: i%2 == 0}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range descs {
			if descs[i].Digest != descs[0].Digest {
				t.Errorf("%v and %v", descs[i], descs[0])
			}
		}
		if any, err := built.Blob(t.Context(), exporter.Form{Compression: exporter.Zstd}); err != nil || any.Digest != descs[0].Digest {
			t.Errorf("not forced: %v, %v", any, err)
		}
		d, _ := built.DiffID(t.Context())
		for _, c := range []exporter.Compression{exporter.Zstd, exporter.Uncompressed, exporter.Gzip} {
			desc, err := built.Blob(t.Context(), exporter.Form{Compression: c, Force: true})
			if err != nil {
				t.Fatal(err)
			}
			r, err := built.Open(t.Context(), desc)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := hashLayer(t.Context(), r, d); err != nil || n.Files == 0 {
				t.Errorf("%v: %v", c, err)
			}
			r.Close()
		}
		const dockerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd"
		if desc, err := built.Blob(t.Context(), exporter.Form{Compression: exporter.Zstd, Force: true, Docker: true}); err != nil || desc.MediaType != dockerZstd {
			t.Errorf("zstd with Docker's media types: got %v, %v", desc, err)
		}
		// What has come compressed in one way goes on so, by either name, unless that is forced.
		z := packed(l, tarOf(t, "z", "1"), nil)
		only, err := l.Unpack(t.Context(), []Packed{z}, nil)
		if err != nil {
			t.Fatal(err)
		}
		zstd, err := l.Layer(only[0].Snapshot, z.DiffID).Blob(t.Context(), exporter.Form{Compression: exporter.Zstd, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Blobs.Delete(z.Blob.Digest); err != nil {
			t.Fatal(err)
		}
		desc, err = l.Layer(only[0].Snapshot, z.DiffID).Blob(t.Context(), exporter.Form{Docker: true})
		if err != nil || desc.Digest != zstd.Digest || desc.MediaType != dockerZstd {
			t.Errorf("a layer that is there as zstd only: got %v, %v, want %v", desc, err, zstd)
		}
		if err := l.Images.SetBlob(d, descs[0], "localhost/y"); err != nil || len(built.Origins()) != 1 {
			t.Errorf("origins %v, %v", built.Origins(), err)
		}
		// A pulled layer whose blob is gone is an error, never another tar under its name.
		if err := l.Blobs.Delete(p.Blob.Digest); err != nil {
			t.Fatal(err)
		}
		if _, err := pulled.Blob(t.Context(), exporter.Form{}); !errors.Is(err, layer.ErrDiffID) {
			t.Errorf("without its blob: %v", err)
		}
	})
}

// What is unpacked is held by the lease in ctx, and kept by images afterwards; what nothing keeps is collected, blobs
// with their snapshots.
func TestLease(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		m := lease.New(l.Sources()...)
		ls := m.Acquire("test")
		ctx := lease.With(t.Context(), ls)
		a, b := packed(l, tarOf(t, "a", "1"), nil), packed(l, tarOf(t, "b", "2"), nil)
		got, err := l.Unpack(ctx, []Packed{a}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Unpack(t.Context(), []Packed{a, b}, nil); err != nil {
			t.Fatal(err)
		}
		count := func(want string) {
			t.Helper()
			if _, err := m.Collect(t.Context(), lease.Policy{}); err != nil {
				t.Fatal(err)
			}
			snaps, blobs := 0, 0
			for range l.Snapshots.All(t.Context()) {
				snaps++
			}
			for range l.Blobs.All(t.Context()) {
				blobs++
			}
			if got := fmt.Sprint(snaps, " ", blobs); got != want {
				t.Errorf("%s snapshots and blobs are left, want %s", got, want)
			}
		}
		count("1 1")
		config := []byte(`{}`)
		img := &image.Image{ID: digest.FromBytes(config), Config: config, Layers: got}
		if err := l.Sync(t.Context(), img); err != nil {
			t.Fatal(err)
		}
		if err := l.Images.Put(img, "docker.io/library/x:latest"); err != nil {
			t.Fatal(err)
		}
		ls.Release()
		count("1 1")
		if err := l.Images.Delete(img.ID); err != nil {
			t.Fatal(err)
		}
		count("0 0")
	})
}
