package registry

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// Mirrors are written like hosts, with a scheme and a path if need be, and nothing else.
func TestParseMirror(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want mirrorSpec
	}{
		{"mirror.test", mirrorSpec{"", "mirror.test", ""}},
		{"Mirror.test:5000/", mirrorSpec{"", "mirror.test:5000", ""}},
		{"https://mirror.test/proxy/hub", mirrorSpec{"https", "mirror.test", "proxy/hub/"}},
		{"http://10.0.0.1:5000", mirrorSpec{"http", "10.0.0.1:5000", ""}},
		{"[::1]:5000", mirrorSpec{"", "[::1]:5000", ""}},
		{"", mirrorSpec{}},
		{"ftp://mirror.test", mirrorSpec{}},
		{"https://u:p@mirror.test", mirrorSpec{}},
		{"mirror.test?x=1", mirrorSpec{}},
		{"mirror.test/../x", mirrorSpec{}},
		{"mirror.test/a b", mirrorSpec{}},
	} {
		got, err := parseMirror(tt.in)
		if got != tt.want || (err == nil) != (tt.want != mirrorSpec{}) {
			t.Errorf("%q: got %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
}

// withMirrors sets up two mirrors that go before the registry.
func withMirrors(w *world) (one, two *registrytest.Registry) {
	one, two = registrytest.New(registrytest.Behaviour{}), registrytest.New(registrytest.Behaviour{})
	w.trust("one.test", Host{})
	w.trust(testHost, Host{Mirrors: []string{"one.test", "http://two.test:5000/proxy"}})
	w.net.HTTPS("one.test:443", one)
	w.net.HTTP("two.test:5000", two)
	return one, two
}

// Mirrors are asked in order, each once, and whatever they lack or do wrong the registry makes good.
func TestMirrors(t *testing.T) {
	content := pattern(100_000)
	for _, tt := range []struct {
		name   string
		put    string // which of "1", "2" and "o", the registry itself, have the content
		fault  registrytest.Fault
		remove bool // the first mirror from the network
		counts [3]int
	}{
		{name: "the first has it", put: "12o", counts: [3]int{1, 0, 0}},
		{name: "the second has it", put: "2o", counts: [3]int{1, 1, 0}},
		{name: "none has it", put: "o", counts: [3]int{1, 1, 1}},
		{name: "the first is gone", put: "12o", remove: true, counts: [3]int{0, 1, 0}},
		{name: "the first is broken", put: "12o", fault: registrytest.Fault{Status: 503, RetryAfter: "30"}, counts: [3]int{1, 1, 0}},
		{name: "the first forbids", put: "12o", fault: registrytest.Fault{Status: 403}, counts: [3]int{1, 1, 0}},
		{name: "the first breaks off", put: "12o", fault: registrytest.Fault{CutAfter: 1000}, counts: [3]int{1, 1, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var one, two *registrytest.Registry
			inWorld(t, func(w *world) { one, two = withMirrors(w) }, func(ctx context.Context, w *world) {
				d := describeBytes(content)
				for _, p := range tt.put {
					switch p {
					case '1':
						one.PutBlob("team/app", content)
					case '2':
						two.PutBlob("proxy/team/app", content)
					case 'o':
						w.reg.PutBlob("team/app", content)
					}
				}
				if tt.fault != (registrytest.Fault{}) {
					one.Fail(tt.fault)
				}
				if tt.remove {
					w.net.Remove("one.test:443")
				}
				start := time.Now()
				got, err := w.readBlob(ctx, d)
				if err != nil || !bytes.Equal(got, content) {
					t.Fatalf("got %d bytes, %v", len(got), err)
				}
				counts := [3]int{one.Count("", ""), two.Count("", ""), w.reg.Count("", "")}
				if counts != tt.counts {
					t.Errorf("requests %v, want %v", counts, tt.counts)
				}
				if d := time.Since(start); d > time.Second {
					t.Errorf("it took %v", d)
				}
				for _, r := range append(one.Requests(), two.Requests()...) {
					if r.Query != "ns="+testHost {
						t.Errorf("a mirror is asked with %q", r.Query)
					}
				}
			})
		})
	}
}

// A mirror that lies is found out, and what is read as a whole comes from the next one at once: manifests, small blobs, and
// blobs that are fetched. One that is streamed is an error, and the mirror is not asked again for a while.
func TestMirrorLies(t *testing.T) {
	content := pattern(50_000)
	for _, fault := range []registrytest.Fault{{Corrupt: true}, {Corrupt: true, CutAfter: 1000}} {
		var one, two *registrytest.Registry
		setUp := func(w *world) {
			one, two = withMirrors(w)
			one.PutBlob("team/app", content)
			two.PutBlob("proxy/team/app", content)
			one.Fail(fault)
			one.PutImage("team/app", "1", []byte("{}"))
			two.PutImage("proxy/team/app", "1", []byte("{}"))
		}
		inWorld(t, setUp, func(ctx context.Context, w *world) {
			d := describeBytes(content) // which the registry itself does not have
			repo := repoAt(testHost)
			if _, err := w.readBlob(ctx, d); !errors.Is(err, ErrDigest) {
				t.Fatalf("streamed: %v", err)
			}
			if got, err := w.readBlob(ctx, d); err != nil || !bytes.Equal(got, content) {
				t.Errorf("streamed again: %v", err)
			}
			time.Sleep(2 * mirrorRest)
			if got, err := w.c.ReadBlob(ctx, repo, d, d.Size); err != nil || !bytes.Equal(got, content) {
				t.Errorf("as a whole: %d bytes, %v", len(got), err)
			}
			time.Sleep(2 * mirrorRest)
			var dst memSink
			if err := w.c.FetchBlob(ctx, repo, d, &dst); err != nil || !bytes.Equal(dst.Bytes(), content) {
				t.Errorf("fetched: %d bytes, %v", dst.Len(), err)
			}
			time.Sleep(2 * mirrorRest)
			digest, _ := w.reg.PutImage("other", "1", []byte("{}"))
			if desc, _, err := w.c.Get(ctx, repo.At(withDigest(t, digest).Digest)); err != nil || desc.Digest.String() != digest {
				t.Errorf("a manifest: %+v, %v", desc, err)
			}
		})
	}
}

// What a mirror says about a manifest's type counts as little as its content.
func TestMirrorLiesAboutType(t *testing.T) {
	var one *registrytest.Registry
	inWorld(t, func(w *world) { one, _ = withMirrors(w) }, func(ctx context.Context, w *world) {
		m := []byte(`{"schemaVersion":2,"config":{"digest":"` + SumDigest(nil).String() + `","size":0},"layers":[]}`)
		desc := describeBytes(m)
		desc.MediaType = types.OCIManifestSchema1
		one.PutManifest("team/app", "1", string(types.DockerManifestSchema2), m)
		w.reg.PutManifest("team/app", "1", string(desc.MediaType), m)
		if got, err := w.c.Manifest(ctx, repoAt(testHost), desc); err != nil || !bytes.Equal(got, m) {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A mirror that did not answer is left alone for a while and then asked again; pushes never go to a mirror.
func TestMirrorRests(t *testing.T) {
	var one, two *registrytest.Registry
	inWorld(t, func(w *world) { one, two = withMirrors(w) }, func(ctx context.Context, w *world) {
		d := w.putBlob([]byte("x"))
		w.net.Remove("one.test:443")
		for range 5 {
			if _, err := w.readBlob(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.net.Dials("one.test:443"); n != 1 {
			t.Errorf("%d dials of a mirror that is down, want 1", n)
		}
		time.Sleep(2 * mirrorRest)
		if _, err := w.readBlob(ctx, d); err != nil || w.net.Dials("one.test:443") != 2 {
			t.Errorf("it is not asked again: %v", err)
		}
		before := two.Count("", "")
		if _, err := w.c.PushBlob(ctx, repoAt(testHost), describeBytes([]byte("y")), opener([]byte("y")), nil); err != nil {
			t.Fatal(err)
		}
		if one.Count("", "")+two.Count("", "") != before {
			t.Error("a push went to a mirror")
		}
	})
}

// If all fail, the error is the registry's own, and says what the mirrors said.
func TestMirrorsAllFail(t *testing.T) {
	inWorld(t, func(w *world) { withMirrors(w) }, func(ctx context.Context, w *world) {
		_, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1"))
		var status *StatusError
		if !errors.As(err, &status) || status.Host != testHost || !strings.Contains(err.Error(), "mirror two.test:5000/proxy: ") {
			t.Errorf("got %v", err)
		}
	})
}

// A memSink is a Sink in memory.
type memSink struct{ bytes.Buffer }

func (s *memSink) Offset() int64 { return int64(s.Len()) }

func (s *memSink) Reset() error {
	s.Buffer.Reset()
	return nil
}

// FetchBlob goes on from what is there, and leaves what it has when it cannot go on.
func TestFetchBlob(t *testing.T) {
	content := pattern(100_000)
	for _, tt := range []struct {
		name   string
		before []byte
		fault  registrytest.Fault
		err    error
		after  []byte
		ranges []string
	}{
		{name: "nothing there", after: content, ranges: []string{""}},
		{name: "half there", before: content[:50_000], after: content, ranges: []string{"bytes=50000-"}},
		{name: "all there", before: content, after: content},
		{name: "too much", before: append(content[:len(content):len(content)], 1), after: content, ranges: []string{""}},
		{name: "broken off", fault: registrytest.Fault{CutAfter: 1000, Times: 1}, after: content, ranges: []string{"", "bytes=1000-"}},
		{name: "lost half-way", fault: registrytest.Fault{Status: 404}, before: content[:50_000], err: ErrNotFound, after: content[:50_000]},
		{name: "breaking off", fault: registrytest.Fault{CutAfter: 1000}, err: errBroken, after: content[:5000]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, nil, func(ctx context.Context, w *world) {
				d := w.putBlob(content)
				if tt.fault != (registrytest.Fault{}) {
					w.reg.Fail(tt.fault)
				}
				var dst memSink
				dst.Write(tt.before)
				err := w.c.FetchBlob(ctx, repoAt(testHost), d, &dst)
				var broken *transportError
				if !errors.Is(err, tt.err) && (!errors.Is(tt.err, errBroken) || !errors.As(err, &broken)) {
					t.Errorf("got %v, want %v", err, tt.err)
				}
				if !bytes.Equal(dst.Bytes(), tt.after) {
					t.Errorf("there are %d bytes, want %d", dst.Len(), len(tt.after))
				}
				if tt.ranges == nil && tt.err == nil && w.reg.Count("", "") > 0 {
					t.Errorf("it asked: %+v", w.reg.Requests())
				}
				for i, want := range tt.ranges {
					if r := w.reg.Requests(); i >= len(r) || r[i].Range != want {
						t.Errorf("request %d is not for range %q: %+v", i, want, r)
					}
				}
			})
		})
	}
}

// An empty blob needs no request, and a registry whose blob has another size leaves nothing.
func TestFetchBlobSizes(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		var dst memSink
		if err := w.c.FetchBlob(ctx, repoAt(testHost), describeBytes(nil), &dst); err != nil || w.reg.Count("", "") != 0 {
			t.Errorf("got %v", err)
		}
		d := w.putBlob(pattern(100))
		d.Size = 101
		dst.Write([]byte("x"))
		if err := w.c.FetchBlob(ctx, repoAt(testHost), d, &dst); !errors.Is(err, ErrDigest) || dst.Len() != 0 {
			t.Errorf("%d bytes, %v", dst.Len(), err)
		}
	})
}
