package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/snapshot"
)

func openDB(t *testing.T, path string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(openDB(t, filepath.Join(t.TempDir(), "meta.db")))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mk makes up an image with a layer for each of the words.
func mk(name string, layers ...string) *Image {
	img := &Image{Config: fmt.Appendf(nil, `{"name":%q}`, name), Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Created: time.Unix(int64(len(name)), 0).UTC()}
	img.ID = digest.FromBytes(img.Config)
	for i, l := range layers {
		img.Layers = append(img.Layers, Layer{
			DiffID: digest.FromString(l), Snapshot: snapshot.ID(strings.Join(layers[:i+1], "")), Size: int64(len(l)), Files: 2,
			Blobs: []Descriptor{{MediaType: "gz", Digest: digest.FromString("gz " + l), Size: 3}}, Origins: []string{"docker.io/library/" + name},
		})
	}
	return img
}

func put(t *testing.T, s *Store, img *Image, names ...string) {
	t.Helper()
	if err := s.Put(img, names...); err != nil {
		t.Fatal(err)
	}
}

const (
	refA = "docker.io/library/a:latest"
	refB = "docker.io/library/b:1"
)

// What was put is found by ID, by any form of its name, by the digest of its manifest in its repository, and by the
// beginning of its ID; also after the database was opened again.
func TestGet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	db := openDB(t, path)
	s, err := Open(db)
	if err != nil {
		t.Fatal(err)
	}
	a, b := mk("a", "one", "two"), mk("bb", "three")
	m := digest.FromString("manifest")
	a.Manifests = []Manifest{{Repository: "docker.io/library/a", Descriptor: Descriptor{Digest: m, Size: 8}}}
	put(t, s, a, refA)
	put(t, s, b, refB)
	for round := range 2 {
		for ref, want := range map[string]*Image{
			string(a.ID): a, a.ID.Encoded(): a, "a": a, "a:latest": a, refA: a, "docker.io/a": a, "b:1": b,
			a.ID.Encoded()[:12]: a, "sha256:" + b.ID.Encoded()[:5]: b, "a@" + string(m): a, "a:other@" + string(m): a, string(m): a,
		} {
			got, err := s.Get(ref, nil)
			if err != nil || got.ID != want.ID {
				t.Errorf("round %d: Get(%s) = %v, %v", round, ref, got, err)
				continue
			}
			if string(got.Config) != string(want.Config) || !reflect.DeepEqual(got.Layers, want.Layers) || len(got.Names) != 1 {
				t.Errorf("round %d: Get(%s) = %+v, want %+v", round, ref, got, want)
			}
		}
		for _, ref := range []string{"b", "b:2", "c", "b@" + string(m), "ffffffffffff", "localhost/a"} {
			if _, err := s.Get(ref, nil); !errors.Is(err, ErrNotFound) {
				t.Errorf("round %d: Get(%s): %v, want ErrNotFound", round, ref, err)
			}
		}
		for _, ref := range []string{"", "A", "a:b:c", "../a", "a@sha256:x", "a b", strings.Repeat("x", 300)} {
			if img, err := s.Get(ref, nil); err == nil {
				t.Errorf("round %d: Get(%q) = %v", round, ref, img.ID)
			}
		}
		db.Close()
		db = openDB(t, path)
		if s, err = Open(db); err != nil {
			t.Fatal(err)
		}
	}
}

// An ambiguous beginning of an ID is an error, unless a name has that form.
func TestPrefix(t *testing.T) {
	s := open(t)
	var ids []string
	for i := range 40 {
		img := mk(fmt.Sprint("image", i))
		put(t, s, img)
		ids = append(ids, img.ID.Encoded())
	}
	slices.Sort(ids)
	for i := 1; i < len(ids); i++ {
		if ids[i][0] == ids[i-1][0] {
			if _, err := s.Get(ids[i][:1], nil); !errors.Is(err, ErrAmbiguous) {
				t.Errorf("Get(%s): %v, want ErrAmbiguous", ids[i][:1], err)
			}
			named := mk("named")
			put(t, s, named, "docker.io/library/"+ids[i][:1]+":latest")
			if got, err := s.Get(ids[i][:1], nil); err != nil || got.ID != named.ID {
				t.Errorf("a name that looks like the beginning of an ID: %v", err)
			}
			return
		}
	}
	t.Fatal("no two IDs begin alike")
}

// A name with images for several platforms gives the one asked for.
func TestPlatforms(t *testing.T) {
	s := open(t)
	amd, arm := mk("amd", "x"), mk("arm", "y")
	arm.Platform = ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	idx := &Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("index"), Size: 5}
	if err := s.Update(Update{Images: []*Image{amd, arm}, Names: []string{refA}, Index: idx}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		p    *ocispec.Platform
		want *Image
	}{
		{nil, amd},
		{&ocispec.Platform{OS: "linux", Architecture: "amd64"}, amd},
		{&arm.Platform, arm},
		{&ocispec.Platform{OS: "linux", Architecture: "arm64"}, arm},
		{&ocispec.Platform{OS: "linux", Architecture: "s390x"}, nil},
	} {
		got, err := s.Get("a", tt.p)
		if tt.want == nil {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%v: %v, want ErrNotFound", tt.p, err)
			}
		} else if err != nil || got.ID != tt.want.ID {
			t.Errorf("%v: %v", tt.p, err)
		}
	}
	for _, p := range []*ocispec.Platform{nil, &arm.Platform} {
		want := amd
		if p != nil {
			want = arm
		}
		if got, err := s.Get(string(idx.Digest), p); err != nil || got.ID != want.ID {
			t.Errorf("by the digest of the index, %v: %v", p, err)
		}
	}
	if _, err := s.Get(string(digest.FromString("no index")), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("by a digest of nothing: %v", err)
	}
	doc := Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("document")}
	if err := s.Update(Update{Images: []*Image{amd}, Names: []string{refB}, Documents: []Descriptor{doc}}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Name(refB); err != nil || len(n.Documents) != 1 || n.Documents[0].Digest != doc.Digest {
		t.Errorf("name %+v, %v", n, err)
	}
	r, _ := s.Roots()
	if !slices.Contains(r.Blobs, idx.Digest) || !slices.Contains(r.Blobs, doc.Digest) {
		t.Error("the index, or a document, is not kept")
	}
	if err := s.Delete(amd.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get("a", nil); err != nil || got.ID != arm.ID {
		t.Errorf("after one is deleted: %v", err)
	}
}

// Names move and go, images stay; deleting an image takes its names along.
func TestTagUntagDelete(t *testing.T) {
	s := open(t)
	a, b := mk("a", "one", "two"), mk("bb", "one")
	put(t, s, a, refA)
	put(t, s, b)
	if err := s.Tag(b.ID, refB); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(b.ID, refA); err != nil { // a dangles now
		t.Fatal(err)
	}
	if got, err := s.Get(string(a.ID), nil); err != nil || len(got.Names) != 0 {
		t.Errorf("a has names %v, %v", got.Names, err)
	}
	if got, _ := s.Get("a", nil); got.ID != b.ID || !slices.Equal(got.Names, []string{refA, refB}) {
		t.Errorf("b has names %v", got.Names)
	}
	if ids, err := s.Untag(refA); err != nil || len(ids) != 1 || ids[0] != b.ID {
		t.Errorf("Untag: %v, %v", ids, err)
	}
	if _, err := s.Untag(refA); !errors.Is(err, ErrNotFound) {
		t.Errorf("Untag twice: %v", err)
	}
	if err := s.Delete(b.ID); err != nil {
		t.Fatal(err)
	}
	if n, _ := s.Names(); len(n) != 0 {
		t.Errorf("left names %v", n)
	}
	if err := s.Delete(b.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Delete twice: %v", err)
	}
	if err := s.Tag(b.ID, refB); !errors.Is(err, ErrNotFound) {
		t.Errorf("Tag of nothing: %v", err)
	}
	for _, bad := range []string{"a", "docker.io/library/a", "docker.io/library/../a:x", "x y:z", refA + "@" + string(a.ID)} {
		if err := s.Tag(a.ID, bad); err == nil {
			t.Errorf("Tag(%q) succeeded", bad)
		}
	}
	if l, _ := s.List(); len(l) != 1 || l[0].ID != a.ID {
		t.Errorf("List: %v", l)
	}
}

// A chain is found as long as an image has it, and a layer's blobs as long as an image has the layer.
func TestChainsAndBlobs(t *testing.T) {
	s := open(t)
	a, b := mk("a", "one", "two"), mk("bb", "one", "three")
	put(t, s, a)
	put(t, s, b)
	one, two := digest.FromString("one"), digest.FromString("two")
	check := func(diffs []digest.Digest, want snapshot.ID) {
		t.Helper()
		if got, ok := s.Snapshot(ChainID(diffs)); got != want || ok != (want != "") {
			t.Errorf("Snapshot(%v) = %q, %v, want %q", diffs, got, ok, want)
		}
	}
	check([]digest.Digest{one}, "one")
	check([]digest.Digest{one, two}, "onetwo")
	check([]digest.Digest{two}, "")
	check(nil, "")
	if l, ok := s.Layer("onetwo"); !ok || l.DiffID != two || l.Size != 3 || l.Files != 2 {
		t.Errorf("Layer: %+v, %v", l, ok)
	}
	zs := Descriptor{MediaType: "zstd", Digest: digest.FromString("zs"), Size: 2}
	for range 2 {
		if err := s.SetBlob(one, zs, "localhost:5000/x"); err != nil {
			t.Fatal(err)
		}
	}
	blobs, origins, err := s.Blobs(one)
	if err != nil || len(blobs) != 2 || blobs[1].Digest != zs.Digest || !slices.Equal(origins, []string{"docker.io/library/a", "docker.io/library/bb", "localhost:5000/x"}) {
		t.Errorf("Blobs: %v %v %v", blobs, origins, err)
	}
	r, _ := s.Roots()
	if want := []snapshot.ID{"one", "onethree", "onetwo"}; !slices.Equal(r.Snapshots, want) || len(r.Blobs) != 4 {
		t.Errorf("Roots: %v", r)
	}
	if err := s.Delete(a.ID); err != nil {
		t.Fatal(err)
	}
	check([]digest.Digest{one}, "one")
	check([]digest.Digest{one, two}, "")
	if blobs, _, _ := s.Blobs(two); len(blobs) != 0 {
		t.Errorf("blobs of a layer that is gone: %v", blobs)
	}
	if blobs, _, _ := s.Blobs(one); len(blobs) != 2 {
		t.Errorf("blobs of a layer that is left: %v", blobs)
	}
}

// Chain IDs are those of the specification.
func TestChainID(t *testing.T) {
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	want := digest.FromString(string(digest.FromString(string(a)+" "+string(b))) + " " + string(c))
	if got := ChainID([]digest.Digest{a, b, c}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if ChainID(nil) != "" || ChainID([]digest.Digest{a}) != a {
		t.Error("chains of none and one")
	}
}

// Putting an image again keeps the manifests known; a record that contradicts itself is refused, with everything that
// would have been stored along.
func TestPutAgain(t *testing.T) {
	s := open(t)
	a := mk("a", "one")
	man := func(repo, d string) Manifest {
		return Manifest{Repository: repo, Descriptor: Descriptor{Digest: digest.FromString(d)}}
	}
	a.Manifests = []Manifest{man("x/a", "1")}
	put(t, s, a, refA)
	a.Manifests = []Manifest{man("y/a", "2"), man("x/a", "1")}
	a.Layers[0].Snapshot = "moved"
	put(t, s, a)
	if _, ok := s.Layer("one"); ok {
		t.Error("the snapshot of the old record is still known")
	}
	if id, _ := s.Snapshot(digest.FromString("one")); id != "moved" {
		t.Errorf("chain is in %q", id)
	}
	got, _ := s.Get("a", nil)
	if d := got.RepoDigests(); len(d) != 2 {
		t.Errorf("got %v", d)
	}
	if err := s.Forget(a.ID, "y/a", digest.FromString("2")); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Get("a", nil); len(got.Manifests) != 1 || got.Tagged.IsZero() {
		t.Errorf("got %+v", got)
	}
	bad := map[string]*Image{"config": mk("x", "one"), "diff ID": mk("x", "one"), "snapshot": mk("x", "one"), "blob": mk("x", "one")}
	bad["config"].Config = json.RawMessage(`{}`)
	bad["diff ID"].Layers[0].DiffID = "sha256:../x"
	bad["snapshot"].Layers[0].Snapshot = ""
	bad["blob"].Layers[0].Blobs[0].Digest = "sha256:x"
	for name, img := range bad {
		if err := s.Update(Update{Images: []*Image{mk("good"), img}, Names: []string{refB}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if l, _ := s.List(); len(l) != 1 {
		t.Errorf("List: %d images", len(l))
	}
	if err := s.Put(mk("x"), "not canonical"); err == nil {
		t.Error("bad name accepted")
	}
}

// Normal forms of references, and what is none.
func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"a": refA, "a:1": "docker.io/library/a:1", "u/a": "docker.io/u/a:latest", "localhost:5000/a": "localhost:5000/a:latest",
		"ghcr.io/x/y:z": "ghcr.io/x/y:z", "a:1@" + string(digest.FromString("x")): "docker.io/library/a:1",
		"a@" + string(digest.FromString("x")): "", "": "", "A": "", "a//b": "", "a:": "", "a\nb": "", "-a": "", "a:../x": "",
	} {
		got, err := Normalize(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Normalize(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	if got := Familiar(refA); got != "a:latest" {
		t.Errorf("Familiar: %s", got)
	}
}

// Concurrent use loses nothing.
func TestConcurrent(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				img := mk(fmt.Sprint(i, "-", j), "shared", fmt.Sprint(i, j))
				if err := s.Put(img, fmt.Sprintf("docker.io/library/x%d:%d", i, j)); err != nil {
					t.Error(err)
				}
				s.Snapshot(digest.FromString("shared"))
				if j%2 == 0 {
					if err := s.Delete(img.ID); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if l, _ := s.List(); len(l) != 40 {
		t.Errorf("%d images, want 40", len(l))
	}
	if _, ok := s.Snapshot(digest.FromString("shared")); !ok {
		t.Error("shared chain lost")
	}
}
