package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A blob gets into a repository by the cheapest way there is, and leaves no open upload.
func TestPushBlob(t *testing.T) {
	content := pattern(100_000)
	other, foreign := Repo{testHost, "other"}, Repo{"other.test", "other"}
	for _, tt := range []struct {
		name      string
		behaviour registrytest.Behaviour
		chunk     int64
		in        string // a repository that has the blob
		from      []Repo
		fault     registrytest.Fault
		want      How
		opens     int
		patches   int
		mounts    int
	}{
		{name: "upload", want: Uploaded, opens: 1},
		{name: "there already", in: "team/app", want: Existed},
		{name: "mount", in: "other", from: []Repo{foreign, repoAt(testHost), other, other}, want: Mounted, mounts: 1},
		{name: "mount from the second", in: "other", from: []Repo{{testHost, "third"}, other}, want: Mounted, mounts: 2},
		{name: "mount refused", behaviour: registrytest.Behaviour{NoMount: true}, in: "other", from: []Repo{other}, want: Uploaded, opens: 1, mounts: 1},
		{name: "mount forbidden", in: "other", from: []Repo{other}, fault: registrytest.Fault{Kind: registrytest.Mount, Status: 403}, want: Uploaded, opens: 1, mounts: 1},
		{name: "nowhere to mount from", from: []Repo{other, {testHost, "third"}}, want: Uploaded, opens: 1, mounts: 2},
		{name: "chunks", chunk: 30_000, want: Uploaded, opens: 1, patches: 4},
		{name: "one chunk", chunk: 100_000, want: Uploaded, opens: 1},
		{name: "cut", fault: registrytest.Fault{Method: "PUT", CutRequest: 50_000, Times: 2}, want: Uploaded, opens: 3},
		{name: "cut in chunks", chunk: 30_000, fault: registrytest.Fault{Method: "PATCH", After: 1, CutRequest: 1000, Times: 1}, want: Uploaded, opens: 2, patches: 6},
		{name: "unavailable", fault: registrytest.Fault{Method: "PUT", Status: 503, Times: 1}, want: Uploaded, opens: 2},
		{name: "HEAD unknown", fault: registrytest.Fault{Method: "HEAD", Status: 405}, want: Uploaded, opens: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setUp := func(w *world) {
				w.reg.Behaviour = tt.behaviour
				w.trust(testHost, Host{ChunkSize: tt.chunk})
			}
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				if tt.in != "" {
					w.reg.PutBlob(tt.in, content)
				}
				if tt.fault != (registrytest.Fault{}) {
					w.reg.Fail(tt.fault)
				}
				opens := 0
				open := func() (io.ReadCloser, error) {
					opens++
					return opener(content)()
				}
				d := describeBytes(content)
				how, err := w.c.PushBlob(ctx, repoAt(testHost), d, open, tt.from)
				if err != nil || how != tt.want {
					t.Fatalf("got %v, %v; want %v", how, err, tt.want)
				}
				if got, ok := w.reg.Blob("team/app", d.Digest.String()); !ok || !bytes.Equal(got, content) {
					t.Error("the registry does not have the blob")
				}
				if n := w.reg.Uploads(); n != 0 && tt.fault == (registrytest.Fault{}) {
					t.Errorf("%d uploads are left open", n)
				}
				if p, m := w.reg.Count("PATCH", ""), w.reg.Count("", registrytest.Mount); opens != tt.opens || p != tt.patches || m != tt.mounts {
					t.Errorf("%d opens, %d chunks, %d mounts; want %d, %d, %d", opens, p, m, tt.opens, tt.patches, tt.mounts)
				}
			})
		})
	}
}

// A registry that finds a blob too large for one request gets it in pieces.
func TestPushTooLargeForOneRequest(t *testing.T) {
	content := pattern(2*fallbackChunk + 5)
	setUp := func(w *world) { w.reg.MaxRequest = fallbackChunk }
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		d := describeBytes(content)
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
		if _, err := w.c.PushBlob(ctx, repoAt(testHost), d, open, nil); err != nil {
			t.Fatal(err)
		}
		if got, ok := w.reg.Blob("team/app", d.Digest.String()); !ok || !bytes.Equal(got, content) {
			t.Error("the registry does not have the blob")
		}
		if n := w.reg.Count("PATCH", ""); n != 3 {
			t.Errorf("%d chunks, want 3", n)
		}
	})
}

// A blob that cannot be read, or is not what its descriptor says, is the pusher's error and is not tried again.
func TestPushSourceFails(t *testing.T) {
	content := pattern(100_000)
	broken := errors.New("the disk is on fire")
	for _, tt := range []struct {
		name  string
		open  func() (io.ReadCloser, error)
		chunk int64
		want  error
	}{
		{"no open", func() (io.ReadCloser, error) { return nil, broken }, 0, broken},
		{"no read", func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(content[:50_000]), errReader{broken})), nil
		}, 0, broken},
		{"no read in chunks", func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(content[:50_000]), errReader{broken})), nil
		}, 30_000, broken},
		{"too short", opener(content[1:]), 0, ErrDigest},
		{"too long", opener(append(content[:len(content):len(content)], 1)), 0, ErrDigest},
		{"another", opener(append([]byte{1}, content[1:]...)), 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setUp := func(w *world) { w.trust(testHost, Host{ChunkSize: tt.chunk}) }
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				_, err := w.c.PushBlob(ctx, repoAt(testHost), describeBytes(content), tt.open, nil)
				if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if tt.want == nil && !strings.Contains(err.Error(), "DIGEST_INVALID") {
					t.Errorf("got %v", err)
				}
				if n := w.reg.Count("POST", ""); n != 1 {
					t.Errorf("%d uploads, want 1", n)
				}
			})
		})
	}
}

type errReader struct{ error }

func (r errReader) Read([]byte) (int, error) { return 0, r.error }

// A push has closed what it was given to read when it returns, whatever ends it, and however long that takes.
func TestPushClosesSource(t *testing.T) {
	content := pattern(1 << 20)
	for _, fault := range []registrytest.Fault{{}, {Method: "PUT", Status: 400}, {Method: "PUT", CutRequest: 1000}} {
		inWorld(t, nil, func(ctx context.Context, w *world) {
			if fault != (registrytest.Fault{}) {
				w.reg.Fail(fault)
			}
			opened, closed := 0, 0
			_, err := w.c.PushBlob(ctx, w.overHTTP1(), describeBytes(content), func() (io.ReadCloser, error) {
				opened++
				return &slowSource{Reader: bytes.NewReader(content), onClose: func() { closed++ }}, nil
			}, nil)
			if opened != closed || opened == 0 || (err == nil) != (fault == registrytest.Fault{}) {
				t.Errorf("fault %+v: %d opened, %d closed, %v", fault, opened, closed, err)
			}
		})
	}
}

// A slowSource takes a second for each read.
type slowSource struct {
	io.Reader
	onClose func()
}

func (s *slowSource) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	return s.Reader.Read(p)
}

func (s *slowSource) Close() error {
	s.onClose()
	return nil
}

// A cancelled push takes its upload session along.
func TestPushCancel(t *testing.T) {
	content := pattern(100_000)
	inWorld(t, nil, func(ctx context.Context, w *world) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		open := func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(content[:50_000]), cancelReader(cancel))), nil
		}
		if _, err := w.c.PushBlob(ctx, repoAt(testHost), describeBytes(content), open, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if n := w.reg.Count("DELETE", registrytest.Upload); n != 1 || w.reg.Uploads() != 0 {
			t.Errorf("%d sessions deleted, %d left", n, w.reg.Uploads())
		}
	})
}

type cancelReader context.CancelFunc

func (c cancelReader) Read([]byte) (int, error) {
	c()
	return 0, io.ErrUnexpectedEOF
}

// Mount says whether the registry did it, and takes back the upload that a registry begins instead.
func TestMount(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		d := withDigest(t, w.reg.PutBlob("other", []byte("x")))
		d.Size = 1
		other := Repo{testHost, "other"}
		if ok, err := w.c.Mount(ctx, repoAt(testHost), d, other); !ok || err != nil {
			t.Errorf("got %v, %v", ok, err)
		}
		if ok, err := w.c.HasBlob(ctx, repoAt(testHost), d); !ok || err != nil {
			t.Errorf("it is not there: %v, %v", ok, err)
		}
		if ok, err := w.c.Mount(ctx, repoAt(testHost), describeBytes(nil), other); ok || err != nil || w.reg.Uploads() != 0 {
			t.Errorf("of a blob that is nowhere: %v, %v, %d uploads left", ok, err, w.reg.Uploads())
		}
		w.reg.Forget()
		if ok, err := w.c.Mount(ctx, repoAt(testHost), d, Repo{"other.test", "other"}); ok || err != nil || w.reg.Count("", "") != 0 {
			t.Errorf("from another host: %v, %v", ok, err)
		}
	})
}

// Manifests are stored under their tag or digest, byte for byte, and only if all that they need is there.
func TestPushManifest(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		_, manifest := w.reg.PutImage("team/app", "", []byte("{}"), []byte("layer"))
		repo := repoAt(testHost)
		ref := repo.Tag("new")
		ref.Digest = SumDigest(manifest)
		for _, ref := range []Ref{repo.Tag("1"), repo.At(SumDigest(manifest)), ref} {
			desc, err := w.c.PushManifest(ctx, ref, types.OCIManifestSchema1, manifest)
			if err != nil || desc.Digest != SumDigest(manifest) || desc.Size != int64(len(manifest)) {
				t.Errorf("%s: got %+v, %v", ref, desc, err)
			}
		}
		for _, ref := range []string{"1", "new", SumDigest(manifest).String()} {
			if mt, b, ok := w.reg.Manifest("team/app", ref); !ok || mt != ociImage || !bytes.Equal(b, manifest) {
				t.Errorf("under %s there is %s %s", ref, mt, b)
			}
		}
		_, err := w.c.PushManifest(ctx, Repo{testHost, "empty"}.Tag("1"), types.OCIManifestSchema1, manifest)
		if err == nil || !strings.Contains(err.Error(), "MANIFEST_BLOB_UNKNOWN") {
			t.Errorf("without its blobs: %v", err)
		}
		w.reg.Fail(registrytest.Fault{Method: "PUT", Digest: sha256Zeros})
		if _, err := w.c.PushManifest(ctx, repo.Tag("1"), types.OCIManifestSchema1, manifest); !errors.Is(err, ErrDigest) {
			t.Errorf("stored under another digest: %v", err)
		}
	})
}

// Copying from a registry to itself works when all slots are in use for it.
func TestPushWhatIsPulled(t *testing.T) {
	setUp := func(w *world) { w.opts.MaxConcurrency = 1 }
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		var wg sync.WaitGroup
		for i := range 4 {
			d := w.putBlob(pattern(10_000 + i))
			wg.Go(func() {
				open := func() (io.ReadCloser, error) { return w.c.Blob(ctx, repoAt(testHost), d) }
				if _, err := w.c.PushBlob(ctx, Repo{testHost, "copy"}, d, open, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}
