package registry

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// Resolve asks by HEAD alone where that tells all, and by GET where it doesn't.
func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		name      string
		behaviour registrytest.Behaviour
		fault     registrytest.Fault
		gets      int
		err       error
	}{
		{name: "a good registry"},
		{name: "no HEAD", behaviour: registrytest.Behaviour{NoHead: true}, gets: 1},
		{name: "no digest", behaviour: registrytest.Behaviour{NoDigest: true}, gets: 1},
		{name: "no useful type", fault: registrytest.Fault{Method: "HEAD", ContentType: "text/plain"}, gets: 1},
		{name: "an invalid digest", fault: registrytest.Fault{Method: "HEAD", Digest: "sha256:../../x"}, gets: 1},
		{name: "a wrong digest of GET", behaviour: registrytest.Behaviour{NoHead: true}, fault: registrytest.Fault{Digest: sha256Zeros}, gets: 1, err: ErrDigest},
		{name: "an invalid digest of GET", behaviour: registrytest.Behaviour{NoHead: true}, fault: registrytest.Fault{Digest: "x"}, gets: 1, err: ErrDigest},
		{name: "HEAD forbidden", fault: registrytest.Fault{Method: "HEAD", Status: 403}, gets: 1},
		{name: "not found", fault: registrytest.Fault{Status: 404}, gets: 1, err: ErrNotFound},
		{name: "unauthorized", fault: registrytest.Fault{Status: 401}, gets: 1, err: ErrUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setUp := func(w *world) { w.reg.Behaviour = tt.behaviour }
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				digest, manifest := w.reg.PutImage("team/app", "1", []byte("{}"))
				if tt.fault != (registrytest.Fault{}) {
					w.reg.Fail(tt.fault)
				}
				got, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1"))
				if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
					t.Fatalf("got error %v, want %v", err, tt.err)
				}
				want := Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(manifest))}
				want.Digest = withDigest(t, digest).Digest
				if err == nil && (got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType) {
					t.Errorf("got %+v, want %+v", got, want)
				}
				if n := w.reg.Count("GET", registrytest.Manifest); n != tt.gets {
					t.Errorf("%d GETs, want %d", n, tt.gets)
				}
			})
		})
	}
}

// What a registry refuses is told in the words of docker and BuildKit, with the registry's own after them.
func TestResolveRefused(t *testing.T) {
	for status, want := range map[int]string{
		404: "registry.test/team/app:1: not found: registry.test answers 404 Not Found: X: y",
		401: "pull access denied for registry.test/team/app, repository does not exist or may require 'docker login': registry.test answers 401 Unauthorized: X: y (there are no credentials for registry.test)",
		403: "pull access denied for registry.test/team/app, repository does not exist or may require 'docker login': registry.test answers 403 Forbidden: X: y (there are no credentials for registry.test)",
		400: "resolving registry.test/team/app:1: registry.test answers 400 Bad Request: X: y",
	} {
		inWorld(t, nil, func(ctx context.Context, w *world) {
			w.reg.Fail(registrytest.Fault{Status: status, Code: "X", Message: "y"})
			if _, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1")); err == nil || err.Error() != want {
				t.Errorf("%d: got %v, want %s", status, err, want)
			}
		})
	}
}

// A reference with a tag and a digest is looked up by digest, in its own repository: that another one has the content,
// and the tag, is not enough (moby 20.10.20, BuildKit 0.10.5).
func TestResolveDigest(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		digest, _ := w.reg.PutImage("team/app", "1", []byte("{}"))
		other, _ := w.reg.PutImage("team/app", "2", []byte("{ }"))
		d := withDigest(t, digest).Digest
		ref := repoAt(testHost).At(d)
		ref.Tag = "2" // which is another image by now
		got, err := w.c.Resolve(ctx, ref)
		if err != nil || got.Digest != d || other == digest {
			t.Errorf("got %+v, %v", got, err)
		}
		evil := Repo{testHost, "evil/app"}.At(d)
		evil.Tag = "1"
		w.reg.PutImage("evil/app", "1", []byte("{  }"))
		if _, err := w.c.Resolve(ctx, evil); !errors.Is(err, ErrNotFound) {
			t.Errorf("in another repository: %v", err)
		}
		// A registry that answers with another digest than that which was asked for is refused, by HEAD and by GET.
		w.reg.Fail(registrytest.Fault{Kind: registrytest.Manifest, Digest: other})
		if _, err := w.c.Resolve(ctx, ref); !errors.Is(err, ErrDigest) {
			t.Errorf("another digest: %v", err)
		}
	})
}

// Equal resolves that run at the same time make one request; one caller's leaving does not end it for the others.
func TestResolveOnce(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		w.reg.PutImage("team/app", "1", []byte("{}"))
		w.reg.Fail(registrytest.Fault{Kind: registrytest.Manifest, Delay: 10 * time.Second})
		first, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := w.c.Resolve(first, repoAt(testHost).Tag("1")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the first: %v", err)
			}
		})
		for range 10 {
			wg.Go(func() {
				time.Sleep(time.Millisecond)
				if _, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := w.reg.Count("", ""); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		if _, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1")); err != nil || w.reg.Count("", "") != 2 {
			t.Errorf("a later one does not ask again: %v", err)
		}
	})
}

// The bytes of a manifest are those that its descriptor says.
func TestManifest(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		digest, manifest := w.reg.PutImage("team/app", "1", []byte("{}"))
		d := withDigest(t, digest)
		d.MediaType, d.Size = types.OCIManifestSchema1, int64(len(manifest))
		got, err := w.c.Manifest(ctx, repoAt(testHost), d)
		if err != nil || string(got) != string(manifest) {
			t.Fatalf("got %s, %v", got, err)
		}
		wrong := d
		wrong.Size++
		if _, err := w.c.Manifest(ctx, repoAt(testHost), wrong); !errors.Is(err, ErrDigest) {
			t.Errorf("another size: %v", err)
		}
		wrong = d
		wrong.MediaType = types.OCIImageIndex
		if _, err := w.c.Manifest(ctx, repoAt(testHost), wrong); !errors.Is(err, ErrManifest) {
			t.Errorf("another type: %v", err)
		}
		w.reg.Fail(registrytest.Fault{Kind: registrytest.Manifest, Corrupt: true})
		if _, err := w.c.Manifest(ctx, repoAt(testHost), d); !errors.Is(err, ErrDigest) {
			t.Errorf("changed bytes: %v", err)
		}
	})
}

// Documents of any size, depth and width end in an error that says which limit was met, soon (CVE-2026-53493).
func TestLimits(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		amd64 := v1.Platform{OS: "linux", Architecture: "amd64"}
		// A chain of indexes in indexes.
		digest, manifest := w.reg.PutImage("team/app", "", []byte("{}"))
		size, mt := len(manifest), ociImage
		for depth := 1; depth <= 1000; depth++ {
			entry := strings.NewReplacer("DIGEST", digest, "TYPE", mt).Replace(
				`{"mediaType":"TYPE","digest":"DIGEST","size":SIZE,"platform":{"os":"linux","architecture":"amd64"}}`)
			doc := []byte(`{"manifests":[` + strings.Replace(entry, "SIZE", strconv.Itoa(size), 1) + `]}`)
			digest = w.reg.PutManifest("team/app", "depth"+strconv.Itoa(depth), ociIndex, doc)
			size, mt = len(doc), ociIndex
		}
		for tag, want := range map[string]error{"depth1": nil, "depth4": nil, "depth5": ErrTooLarge, "depth1000": ErrTooLarge} {
			desc, err := w.c.Resolve(ctx, repoAt(testHost).Tag(tag))
			if err != nil {
				t.Fatal(err)
			}
			img, err := w.c.Select(ctx, repoAt(testHost), desc, amd64)
			if !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("%s: got %v, want %v", tag, err, want)
			}
			if err == nil && (string(img.Bytes) != string(manifest) || len(img.Indexes) != int(tag[5]-'0')) {
				t.Errorf("%s: got %s through %d indexes", tag, img.Bytes, len(img.Indexes))
			}
		}
		big := []byte(`{"manifests":[]}` + strings.Repeat(" ", 100<<20))
		w.reg.PutManifest("team/app", "big", ociIndex, big)
		if _, err := w.c.Resolve(ctx, repoAt(testHost).Tag("big")); !errors.Is(err, ErrTooLarge) {
			t.Errorf("100 MiB: %v", err)
		}
	})
}

// An image that is in no index is taken as it is, and one that is missing for a platform says what there is instead.
func TestSelect(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		digest, manifest := w.reg.PutImage("team/app", "1", []byte("{}"))
		desc, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1"))
		if err != nil {
			t.Fatal(err)
		}
		img, err := w.c.Select(ctx, repoAt(testHost), desc, v1.Platform{OS: "plan9", Architecture: "mips"})
		if err != nil || img.Digest.String() != digest || len(img.Indexes) != 0 || img.Manifest == nil ||
			string(img.Bytes) != string(manifest) {
			t.Errorf("got %+v, %v", img, err)
		}
		doc := []byte(`{"manifests":[{"digest":"` + digest + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`)
		idx := withDigest(t, w.reg.PutManifest("team/app", "", ociIndex, doc))
		var pe *PlatformError
		if _, err := w.c.Select(ctx, repoAt(testHost), idx, v1.Platform{OS: "plan9", Architecture: "mips"}); !errors.As(err, &pe) {
			t.Errorf("another platform: %v", err)
		}
		// The index lies about its image's size.
		if _, err := w.c.Select(ctx, repoAt(testHost), idx, v1.Platform{OS: "linux", Architecture: "amd64"}); !errors.Is(err, ErrDigest) {
			t.Errorf("a wrong size: %v", err)
		}
	})
}

// Nothing that is not a valid name or digest reaches a registry (CVE-2024-3727).
func TestInvalidNamesAreNotSent(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		bad := Descriptor{Size: 1, Digest: v1.Hash{Algorithm: "sha256", Hex: "../../../x"}}
		good := describeBytes([]byte("x"))
		repo, badRepo := repoAt(testHost), Repo{testHost, "team/../../x"}
		calls := map[string]func() error{
			"Resolve":      func() error { _, err := w.c.Resolve(ctx, repo.At(bad.Digest)); return err },
			"Get":          func() error { _, _, err := w.c.Get(ctx, badRepo.Tag("1")); return err },
			"Manifest":     func() error { _, err := w.c.Manifest(ctx, repo, bad); return err },
			"Blob":         func() error { _, err := w.c.Blob(ctx, repo, bad); return err },
			"Blob repo":    func() error { _, err := w.c.Blob(ctx, badRepo, good); return err },
			"FetchBlob":    func() error { return w.c.FetchBlob(ctx, repo, bad, nil) },
			"HasBlob":      func() error { _, err := w.c.HasBlob(ctx, repo, bad); return err },
			"Mount":        func() error { _, err := w.c.Mount(ctx, repo, good, badRepo); return err },
			"PushBlob":     func() error { _, err := w.c.PushBlob(ctx, repo, bad, nil, nil); return err },
			"PushManifest": func() error { _, err := w.c.PushManifest(ctx, repo.Tag("a/b"), "", nil); return err },
			"Ping":         func() error { return w.c.Ping(ctx, testHost+"/x?") },
			"another digest": func() error {
				_, err := w.c.PushManifest(ctx, repo.At(good.Digest), "", []byte("y"))
				return err
			},
		}
		for name, call := range calls {
			if err := call(); err == nil {
				t.Errorf("%s accepts it", name)
			}
		}
		if n := w.reg.Count("", ""); n != 0 {
			t.Errorf("%d requests were sent: %+v", n, w.reg.Requests())
		}
	})
}

// Old manifests are refused with words that help.
func TestSchema1(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		w.reg.PutManifest("team/app", "1", string(types.DockerManifestSchema1Signed), []byte(`{"schemaVersion":1}`))
		_, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1"))
		if !errors.Is(err, ErrSchema1) || !strings.Contains(err.Error(), "schema 1") {
			t.Errorf("got %v", err)
		}
	})
}
