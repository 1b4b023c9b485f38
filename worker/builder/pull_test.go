package builder_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

var arm64 = op.Platform{OS: "linux", Architecture: "arm64"}

// name is a canonical name in the rig's registry.
func (r *rig) name(repo string) string { return r.host + "/" + repo + ":latest" }

// pull pulls the image repo.
func (r *rig) pull(repo string, change ...func(*worker.TransferOptions)) (*worker.PullResult, error) {
	var opt worker.TransferOptions
	for _, f := range change {
		f(&opt)
	}
	return r.move.Pull(r.t.Context(), r.name(repo), opt)
}

// multi puts an image for amd64 and arm64 into the registry, and returns the index.
func (r *rig) multi(repo, text string) []byte {
	r.t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, p := range []op.Platform{amd64, arm64} {
		l := layer(r.t, "sh", text+p.Architecture)
		conf := bytes.ReplaceAll(config(r.t, l), []byte("amd64"), []byte(p.Architecture))
		d, raw := r.registry.PutImage(repo, "", conf, l)
		var m struct{ MediaType string }
		if err := json.Unmarshal(raw, &m); err != nil {
			r.t.Fatal(err)
		}
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: m.MediaType, Digest: digest.Digest(d), Size: int64(len(raw)), Platform: &p,
		})
	}
	raw, err := json.Marshal(index)
	if err != nil {
		r.t.Fatal(err)
	}
	r.registry.PutManifest(repo, "latest", index.MediaType, raw)
	return raw
}

// platforms are the architectures of the images that a name has, sorted.
func (r *rig) platforms(name string) []string {
	r.t.Helper()
	n, err := r.store.Name(name)
	if errors.Is(err, image.ErrNotFound) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, id := range n.Images {
		img, err := r.store.Get(string(id), nil)
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, img.Platform.Architecture)
	}
	slices.Sort(out)
	return out
}

// TestPullCancelled checks that of two pulls that share a layer one can be cancelled while it downloads for both: the
// other goes on, and the first hears no more of it, nor is a later pull held up.
func TestPullCancelled(t *testing.T) {
	r := newRig(t)
	shared := layer(t, "sh", strings.Repeat("a shell", 10_000))
	r.registry.PutImage("one", "latest", config(t, shared), shared)
	r.registry.PutImage("two", "latest", config(t, shared, layer(t, "b", "b")), shared, layer(t, "b", "b"))
	r.registry.Fail(registrytest.Fault{Kind: registrytest.Blob, Match: "/one/blobs/" + string(digest.FromBytes(shared)), StallAfter: 1000, Times: 1})
	ctx, cancel := context.WithCancel(t.Context())
	var over atomic.Bool
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := r.move.Pull(ctx, r.name("one"), worker.TransferOptions{Progress: func(solver.Status) {
			if over.Load() {
				t.Error("progress of a pull that has ended")
			}
		}})
		over.Store(true)
		first <- err
	}()
	asked := func(path string) bool {
		return slices.ContainsFunc(r.registry.Requests(), func(q registrytest.Request) bool { return strings.Contains(q.Path, path) })
	}
	for !asked("/one/blobs/" + string(digest.FromBytes(shared))) {
		time.Sleep(time.Millisecond)
	}
	go func() {
		_, err := r.pull("two")
		second <- err
	}()
	for !asked("/two/blobs/" + string(digest.FromBytes(layer(t, "b", "b")))) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // it waits for the first layer now, or soon; both must do
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v, want that it was cancelled", err)
	}
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	r.registry.Heal()
	if _, err := r.pull("one"); err != nil {
		t.Errorf("a third: %v", err)
	}
	if left := r.leases.Leases(); len(left) > 0 {
		t.Errorf("leases are left: %q", left)
	}
}

// TestPullSynced checks that an image is in the store only after its layers are on the disk.
func TestPullSynced(t *testing.T) {
	r := newRig(t)
	r.base("base")
	syncs := 0
	r.synced = func() {
		if _, err := r.store.Get(r.name("base"), nil); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("while the layers are synced the store has the image (%v)", err)
		}
		syncs++
	}
	if _, err := r.pull("base"); err != nil {
		t.Fatal(err)
	}
	if syncs == 0 {
		t.Error("the layers were not synced")
	}
}

// A pull says that it has brought something only if it has, also of an image that is for another platform than the one that
// was asked for.
func TestPullUpdated(t *testing.T) {
	r := newRig(t)
	r.base("base")
	r.multi("multi", "one")
	forARM := func(o *worker.TransferOptions) { o.Platform = &arm64 }
	for i, tt := range []struct {
		repo   string
		change []func(*worker.TransferOptions)
		want   bool
	}{
		{"base", nil, true},
		{"base", []func(*worker.TransferOptions){forARM}, false},
		{"base", nil, false},
		{"multi", nil, true},
		{"multi", []func(*worker.TransferOptions){forARM}, true},
		{"multi", []func(*worker.TransferOptions){forARM}, false},
		{"multi", nil, false},
	} {
		got, err := r.pull(tt.repo, tt.change...)
		if err != nil || got.Updated != tt.want {
			t.Errorf("%d: %s: %+v, %v; want %v", i, tt.repo, got, err, tt.want)
		}
	}
}

// TestTwoPulls checks that two pulls of the same image at once download each layer once, and that garbage collection
// all the while takes nothing away from them.
func TestTwoPulls(t *testing.T) {
	r := newRig(t)
	var layers [][]byte
	for _, n := range []string{"a", "b", "c", "d"} {
		layers = append(layers, layer(t, n, strings.Repeat(n, 100_000)))
	}
	r.registry.PutImage("base", "latest", config(t, layers...), layers...)
	r.registry.Forget()
	stop := make(chan struct{})
	var wg, collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := r.leases.Collect(context.Background(), lease.Policy{}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 4 {
		wg.Go(func() {
			if _, err := r.pull("base"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(stop)
	collector.Wait()
	blobs := 0
	for _, q := range r.registry.Requests() {
		for _, l := range layers {
			if q.Method == http.MethodGet && strings.HasSuffix(q.Path, string(digest.FromBytes(l))) {
				blobs++
			}
		}
	}
	if blobs != len(layers) {
		t.Errorf("%d downloads, want %d", blobs, len(layers))
	}
	if _, err := r.leases.Collect(t.Context(), lease.Policy{}); err != nil {
		t.Fatal(err)
	}
	img, err := r.store.Get(r.name("base"), nil)
	if err != nil {
		t.Fatal(err)
	}
	l := r.leases.Acquire("check")
	defer l.Release()
	for _, m := range img.Manifests {
		if !r.blobs.Has(m.Descriptor) {
			t.Errorf("manifest %s was collected", m.Descriptor.Digest)
		}
	}
	for _, x := range img.Layers {
		if err := l.Hold(t.Context(), lease.ID(x.Snapshot)); err != nil {
			t.Errorf("a layer was collected: %v", err)
		}
	}
}

// TestTagBesideDigest checks that a tag beside a digest, which nobody has looked up, is not given to the image.
func TestTagBesideDigest(t *testing.T) {
	r := newRig(t)
	d := r.base("base")
	r.multi("base", "newer")
	if _, _, err := r.build("FROM HOST/base:latest@" + d + "\n"); err != nil {
		t.Fatal(err)
	}
	if got := r.platforms(r.name("base")); got != nil {
		t.Errorf("the build has made the tag name an image for %q", got)
	}
	if _, err := r.move.Pull(t.Context(), r.host+"/base:latest@"+d, worker.TransferOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := r.platforms(r.name("base")); got != nil {
		t.Errorf("the pull has made the tag name an image for %q", got)
	}
}

// TestPlatformsOfName checks that images for several platforms can have the name of the index that leads to them, and that
// a build for another platform does not take a name away from the user's own image.
func TestPlatformsOfName(t *testing.T) {
	r := newRig(t)
	index := r.multi("base", "")
	for _, want := range [][]string{{"amd64"}, {"amd64", "arm64"}} {
		if _, _, err := r.build("FROM --platform=linux/" + want[len(want)-1] + " HOST/base\n"); err != nil {
			t.Fatal(err)
		}
		if got := r.platforms(r.name("base")); !slices.Equal(got, want) {
			t.Errorf("the name has images for %q, want %q", got, want)
		}
	}
	n, err := r.store.Name(r.name("base"))
	if err != nil || n.Index == nil || n.Index.Digest != digest.FromBytes(index) {
		t.Errorf("the index of the name is %+v (%v)", n.Index, err)
	}
	r.registry.Forget()
	for _, p := range []string{"amd64", "arm64"} {
		if _, _, err := r.build("FROM --platform=linux/" + p + " HOST/base\n"); err != nil {
			t.Fatal(err)
		}
	}
	if q := r.registry.Requests(); len(q) > 0 {
		t.Errorf("the registry was asked for %s %s", q[0].Method, q[0].Path)
	}
	r.multi("base", "newer")
	if _, err := r.pull("base"); err != nil {
		t.Fatal(err)
	}
	if got := r.platforms(r.name("base")); !slices.Equal(got, []string{"amd64"}) {
		t.Errorf("after the tag has moved the name has images for %q, want only what was pulled", got)
	}

	r.multi("own", "")
	mine := func(q *worker.BuildRequest) { q.Tags = []string{r.name("own")} }
	if _, _, err := r.build("FROM HOST/base\nLABEL mine=1\n", mine); err != nil {
		t.Fatal(err)
	}
	before, err := r.store.Get(r.name("own"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.build("FROM --platform=linux/arm64 HOST/own\n"); err != nil {
		t.Fatal(err)
	}
	if after, err := r.store.Get(r.name("own"), nil); err != nil || after.ID != before.ID {
		t.Errorf("the user's image has lost its name to %v (%v)", after, err)
	}
}

// TestKnownOfOthers checks that what a registry has shown to one user is not shown to another, who names it by digest.
func TestKnownOfOthers(t *testing.T) {
	r := newRig(t)
	r.registry.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}
	d := r.base("private")
	ann := registry.StaticKeychain(r.host, authn.AuthConfig{Username: "ann", Password: "secret"})
	bob := registry.StaticKeychain(r.host, authn.AuthConfig{Username: "bob", Password: "guess"})
	img := &op.Image{Ref: r.name("private"), Platform: amd64}
	pinned, err := r.move.Resolve(registry.WithKeychain(t.Context(), ann), img)
	if err != nil || pinned.Digest != digest.Digest(d) {
		t.Fatalf("got %v, %v", pinned, err)
	}
	for name, tc := range map[string]struct {
		ctx  context.Context //nolint:containedctx // a row of a table of users
		want error
	}{
		"ann":    {registry.WithKeychain(t.Context(), ann), nil},
		"bob":    {registry.WithKeychain(t.Context(), bob), registry.ErrUnauthorized},
		"nobody": {t.Context(), registry.ErrUnauthorized},
	} {
		if _, err := r.move.Config(tc.ctx, pinned); !errors.Is(err, tc.want) {
			t.Errorf("config for %s: got %v, want %v", name, err, tc.want)
		}
	}
	r.registry.Forget()
	if _, err := r.move.Config(registry.WithKeychain(t.Context(), ann), pinned); err != nil || len(r.registry.Requests()) > 0 {
		t.Errorf("what ann was shown is not remembered for her: %v", err)
	}
}

// TestDeletedMeanwhile checks that an image which a build was pinned to can be deleted before the build uses it, also
// if it is in no registry.
func TestDeletedMeanwhile(t *testing.T) {
	r := newRig(t)
	r.base("base")
	r.file("a", "one")
	res, _, err := r.build("FROM HOST/base\nCOPY a /a\n", func(q *worker.BuildRequest) { q.Tags = []string{r.name("mine")} })
	if err != nil {
		t.Fatal(err)
	}
	l := r.leases.Acquire("a build")
	ctx := lease.With(t.Context(), l)
	pinned, err := r.move.Resolve(ctx, &op.Image{Ref: r.name("mine"), Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Delete(res.Images[0].ID); err != nil {
		t.Fatal(err)
	}
	evict := lease.Policy{Evict: func(lease.Unit) bool { return true }}
	if _, err := r.leases.Collect(t.Context(), evict); err != nil {
		t.Fatal(err)
	}
	if _, err := r.move.Config(ctx, pinned); err != nil {
		t.Errorf("config: %v", err)
	}
	if id, err := r.move.Root(ctx, pinned, func(solver.Status) {}); err != nil || id == "" {
		t.Errorf("root: %q, %v", id, err)
	}
	l.Release()
	if _, err := r.leases.Collect(t.Context(), evict); err != nil {
		t.Fatal(err)
	}
	l = r.leases.Acquire("a later build")
	defer l.Release()
	if id, err := r.move.Root(lease.With(t.Context(), l), pinned, func(solver.Status) {}); err == nil {
		t.Errorf("a build that begins after it has gone gets %q", id)
	}
}

// TestSeveralOutputs checks that the result has the names of all image outputs.
func TestSeveralOutputs(t *testing.T) {
	r := newRig(t)
	r.base("base")
	res, _, err := r.build("FROM HOST/base\n", func(q *worker.BuildRequest) {
		q.Outputs = []worker.Output{
			{Type: worker.OutputImage, Attrs: map[string]string{"name": "one:1"}},
			{Type: worker.OutputImage, Attrs: map[string]string{"name": "two:1"}},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"docker.io/library/app:1", "docker.io/library/one:1", "docker.io/library/two:1"}
	if got := res.Images[0].Names; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if got := res.Metadata["image.name"]; got != strings.Join(want, ",") {
		t.Errorf("metadata says %q, want %q", got, want)
	}
}

// Names of one image keep what the registry had under each of them, whatever is pulled under another, and in whatever order: a
// push sends that, and the digest that a pull tells is that. A copy of the name sends it elsewhere.
func TestNamesKeepManifests(t *testing.T) {
	tagged := func(r *rig, ref string) string { return r.host + "/" + ref }
	for _, order := range [][]string{{"app:plain", "app:noted", "app:index"}, {"app:index", "app:noted", "app:plain"}} {
		r := newRig(t)
		l := layer(t, "sh", "a shell")
		d, plain := r.registry.PutImage("app", "plain", config(t, l), l)
		var m ocispec.Manifest
		if err := json.Unmarshal(plain, &m); err != nil {
			t.Fatal(err)
		}
		inner := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.Digest(d), Size: int64(len(plain)), Platform: &amd64}
		m.Annotations = map[string]string{"k": "v"}
		noted := marshal(t, m)
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{inner}}
		index.SchemaVersion = 2
		docs := map[string][]byte{"app:plain": plain, "app:noted": noted, "app:index": marshal(t, index)}
		r.registry.PutManifest("app", "noted", m.MediaType, noted)
		r.registry.PutManifest("app", "index", index.MediaType, docs["app:index"])
		var id digest.Digest
		for range 2 { // also when all is known
			for _, name := range order {
				got, err := r.move.Pull(t.Context(), tagged(r, name), worker.TransferOptions{})
				if err != nil || got.Digest != digest.FromBytes(docs[name]) {
					t.Fatalf("%v: pulling %s: %+v, %v; want digest %s", order, name, got, err, digest.FromBytes(docs[name]))
				}
				id = got.ID
			}
		}
		for name, want := range docs {
			copied := strings.Replace(name, "app", "copy", 1)
			n, err := r.store.Name(tagged(r, name))
			if err != nil || n.Served == nil || n.Served.Digest != digest.FromBytes(want) {
				t.Fatalf("%v: %s is %+v, %v", order, name, n, err)
			}
			if err := r.images.Tag(t.Context(), tagged(r, name), tagged(r, copied)); err != nil {
				t.Fatal(err)
			}
			for _, to := range []string{name, copied} {
				got, err := r.move.Push(t.Context(), tagged(r, to), worker.TransferOptions{})
				if err != nil || got.Digest != digest.FromBytes(want) {
					t.Errorf("%v: pushing %s: %s, %v; want %s", order, to, got.Digest, err, want)
				}
			}
			if n, err := r.store.Name(tagged(r, copied)); err != nil || n.Served == nil || n.Served.Digest != digest.FromBytes(want) {
				t.Errorf("%v: after a push %s is %+v, %v", order, copied, n, err)
			}
		}
		// A name of its own, of the ID alone, gets no annotations of another's.
		if err := r.images.Tag(t.Context(), string(id), tagged(r, "bare:1")); err != nil {
			t.Fatal(err)
		}
		if got, err := r.move.Push(t.Context(), tagged(r, "bare:1"), worker.TransferOptions{}); err != nil || got.Digest == digest.FromBytes(noted) {
			t.Errorf("%v: pushing a bare ID: %s, %v", order, got.Digest, err)
		}
	}
}

// What an index leads to is no digest of the image until it is pulled as such.
func TestInnerManifests(t *testing.T) {
	r := newRig(t)
	index := r.multi("app", "sh")
	if _, err := r.pull("app"); err != nil {
		t.Fatal(err)
	}
	img, err := r.store.Get(r.name("app"), nil)
	if err != nil {
		t.Fatal(err)
	}
	repo := r.host + "/app@"
	if got, want := img.RepoDigests(), []string{repo + string(digest.FromBytes(index))}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(index, &idx); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second pull by tag takes nothing back
		if _, err := r.move.Pull(t.Context(), repo+string(idx.Manifests[0].Digest), worker.TransferOptions{}); err != nil {
			t.Fatal(err)
		}
		if img, err = r.store.Get(r.name("app"), nil); err != nil || len(img.RepoDigests()) != 2 {
			t.Errorf("got %q, %v, want two", img.RepoDigests(), err)
		}
		if _, err := r.pull("app"); err != nil {
			t.Fatal(err)
		}
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
