package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// localTransfer is a Transfer without registries.
type localTransfer struct {
	Transfer
	l *Layers
}

func (t localTransfer) Manifest(_ context.Context, img *image.Image, _ ...image.Descriptor) (exporter.Manifest, error) {
	m := exporter.Manifest{Platform: img.Platform, Config: img.Config}
	for _, ly := range img.Layers {
		m.Layers = append(m.Layers, t.l.Layer(ly.Snapshot, ly.DiffID))
	}
	return m, nil
}

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func newService(t testing.TB, l *Layers, sources ...lease.Source) *Service {
	return New(Deps{Layers: l, Leases: lease.New(append(l.Sources(), sources...)...), Transfer: localTransfer{l: l}, Platform: amd64})
}

// eachService runs a test on every snapshotter.
func eachService(t *testing.T, fn func(t *testing.T, s *Service)) {
	each(t, func(t *testing.T, l *Layers) { fn(t, newService(t, l)) })
}

func importFile(t testing.TB, s *Service, name, file, content string) digest.Digest {
	t.Helper()
	id, err := s.Import(t.Context(), bytes.NewReader(gz(tarOf(t, file, content))), worker.ImportOptions{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// An imported tar is an image of one layer, with the changes applied; the same files give the same layer.
func TestImport(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		id, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, "b", "2", "a", "1")), worker.ImportOptions{
			Name: "busybox", Message: "hello", Changes: []string{
				`CMD ["/bin/sh"]`, "ENTRYPOINT echo hi", "ENV A=1 B=2", "ENV A=3", "LABEL k=v", "EXPOSE 80 53/udp", "VOLUME /data",
				"USER 1000", "WORKDIR /a", "WORKDIR b", "ONBUILD RUN true", "STOPSIGNAL 9",
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.Inspect(t.Context(), "busybox", nil)
		if err != nil || d.ID != id || digest.FromBytes(d.Raw) != id {
			t.Fatalf("got %+v, %v", d, err)
		}
		c := d.Config.Config
		got := fmt.Sprint(c.Cmd, c.Entrypoint, c.Env, c.Labels, c.ExposedPorts, c.Volumes, c.User, c.WorkingDir, c.OnBuild, c.StopSignal)
		if want := "[/bin/sh][/bin/sh -c echo hi][A=3 B=2]map[k:v]map[53/udp:{} 80/tcp:{}]map[/data:{}]1000/a/b[RUN true]9"; strings.ReplaceAll(got, "] ", "]") != want && got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		h, err := s.History(t.Context(), "busybox", nil)
		if err != nil || len(h) != 1 || h[0].Comment != "hello" || h[0].Size != d.Size || h[0].ID != string(id) || len(h[0].Tags) != 1 {
			t.Errorf("history %+v, %v", h, err)
		}
		if _, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, "a", "1", "b", "2")), worker.ImportOptions{Name: "again"}); err != nil {
			t.Fatal(err)
		}
		if again, _ := s.Inspect(t.Context(), "again", nil); again.Layers[0] != d.Layers[0] {
			t.Errorf("other diff ID for the same files: %v and %v", again.Layers, d.Layers)
		}
		for _, ch := range []string{"RUN true", "FROM x", "nonsense", "COPY a b", "EXPOSE x"} {
			var ue *frontend.UsageError
			if _, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, "a", "1")), worker.ImportOptions{Changes: []string{ch}}); !errors.As(err, &ue) {
				t.Errorf("%s: %v", ch, err)
			}
		}
		if _, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, "../a", "1")), worker.ImportOptions{}); !errors.Is(err, layer.ErrUnsafe) {
			t.Errorf("hostile tar: %v", err)
		}
		n := 0
		for range s.deps.Layers.Snapshots.All(t.Context()) {
			n++
		}
		if n != 2 {
			t.Errorf("%d snapshots, want 2", n)
		}
	})
}

// What is saved is loaded again elsewhere: names, configs and layers, also those of pulled images; loading it twice changes
// nothing.
func TestSaveLoad(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		a := importFile(t, s, "a:1", "f", "hello")
		if err := s.Tag(t.Context(), "a:1", "localhost:5000/b:2"); err != nil {
			t.Fatal(err)
		}
		pulled := putPulled(t, s, "c:3", "a tar of somebody else")
		var b bytes.Buffer
		if err := s.Save(t.Context(), []string{"a", "localhost:5000/b:2", string(pulled)}, nil, &b); err != nil {
			t.Fatal(err)
		}
		other := newService(t, newLayers(t, t.TempDir(), "native"))
		for range 2 {
			var seen []string
			got, err := other.Load(t.Context(), bytes.NewReader(gz(b.Bytes())), worker.LoadOptions{Progress: func(st solver.Status) {
				if !st.Ended.IsZero() {
					seen = append(seen, st.Action)
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, g := range got {
				names = append(names, fmt.Sprint(g.Name, " ", g.ID))
			}
			slices.Sort(names)
			want := []string{" " + string(pulled), "a:1 " + string(a), "localhost:5000/b:2 " + string(a)}
			if !slices.Equal(names, want) || len(seen) != 2 {
				t.Errorf("got %q, want %q; progress %v", names, want, seen)
			}
		}
		l, _ := other.List(t.Context())
		if len(l) != 2 {
			t.Errorf("%d images", len(l))
		}
		d, err := other.Inspect(t.Context(), "a:1", nil)
		if err != nil {
			t.Fatal(err)
		}
		img, _ := other.images.Get(string(d.ID), nil)
		if got := list(t, other.deps.Layers, img.Layers[0].Snapshot); got != "f=hello " {
			t.Errorf("layer has %s", got)
		}
		if err := s.Save(t.Context(), []string{"none"}, nil, io.Discard); !errors.Is(err, worker.ErrNotFound) {
			t.Errorf("saving nothing: %v", err)
		}
		arm := &ocispec.Platform{OS: "linux", Architecture: "arm64"}
		if _, err := other.Load(t.Context(), bytes.NewReader(b.Bytes()), worker.LoadOptions{Platforms: []op.Platform{*arm}}); !errors.Is(err, worker.ErrNotFound) {
			t.Errorf("another platform: %v", err)
		}
	})
}

// putPulled stores an image whose layer came from a registry.
func putPulled(t testing.TB, s *Service, name, content string) digest.Digest {
	t.Helper()
	layers, err := s.deps.Layers.Unpack(t.Context(), []Packed{packed(s.deps.Layers, tarOf(t, "p", content), nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := frontend.ImageConfig{}
	c.Platform = amd64
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layers[0].DiffID}}
	c.Config.Labels = map[string]string{"pulled": "yes"}
	img, err := finish(&c, layers)
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := image.Normalize(name)
	doc, _ := s.deps.Layers.Blobs.Put("m", []byte("manifest of "+name), true)
	img.Manifests = []image.Manifest{{Repository: repoOf(ref), Descriptor: doc}}
	if err := s.store(t.Context(), image.Update{Images: []*image.Image{img}, Names: []string{ref}}); err != nil {
		t.Fatal(err)
	}
	return img.ID
}

func effects(r []worker.Removed) string {
	var out []string
	for _, e := range r {
		if e.Untagged != "" {
			out = append(out, "-"+e.Untagged)
		} else {
			out = append(out, "x"+e.Deleted[7:12])
		}
	}
	return strings.Join(out, " ")
}

func snapshots(t testing.TB, s *Service) (n int) {
	for _, err := range s.deps.Layers.Snapshots.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// Removing follows docker's rules, and frees what nothing else keeps.
func TestRemove(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		a := importFile(t, s, "a:1", "f", "a")
		short := string(a)[7:12]
		tag := func(dst string) {
			t.Helper()
			if err := s.Tag(t.Context(), "a:1", dst); err != nil {
				t.Fatal(err)
			}
		}
		remove := func(ref string, force bool) string {
			t.Helper()
			r, err := s.Remove(t.Context(), ref, worker.RemoveOptions{Force: force})
			if err != nil {
				return err.Error()
			}
			return effects(r)
		}
		tag("a:2")
		tag("b:1")
		if _, err := s.Remove(t.Context(), string(a), worker.RemoveOptions{}); !errors.Is(err, worker.ErrInUse) {
			t.Errorf("by ID with several names: %v", err)
		}
		for _, tt := range [][2]string{{"a:2", "-a:2"}, {"docker.io/library/b:1", "-b:1"}, {"a:1", "-a:1 x" + short}} {
			if got := remove(tt[0], false); got != tt[1] {
				t.Errorf("removing %s: %s, want %s", tt[0], got, tt[1])
			}
		}
		if n := snapshots(t, s); n != 0 {
			t.Errorf("%d snapshots left", n)
		}
		if _, err := s.Remove(t.Context(), "a:1", worker.RemoveOptions{}); !errors.Is(err, worker.ErrNotFound) {
			t.Errorf("again: %v", err)
		}

		p := putPulled(t, s, "p:1", "x")
		d := string(digest.FromString("manifest of p:1"))
		if got, want := remove("p:1", false), "-p:1 -p@"+d+" x"+string(p)[7:12]; got != want {
			t.Errorf("pulled: got %s, want %s", got, want)
		}
		p = putPulled(t, s, "p:1", "x")
		if got, want := remove("p@"+d, false), "-p@"+d; got != want {
			t.Errorf("by digest: got %s, want %s", got, want)
		}
		if got, want := remove(string(p)[7:19], false), "-p:1 x"+string(p)[7:12]; got != want {
			t.Errorf("by the beginning of the ID: got %s, want %s", got, want)
		}

		importFile(t, s, "c:1", "f", "c")
		s.deps.Users = func(digest.Digest) []worker.ImageUser { return []worker.ImageUser{{Container: "box"}} }
		for _, ref := range []string{"c:1", string(mustInspect(t, s, "c:1").ID)} {
			if _, err := s.Remove(t.Context(), ref, worker.RemoveOptions{}); !errors.Is(err, worker.ErrInUse) {
				t.Errorf("%s in use: %v", ref, err)
			}
		}
		if got := remove("c:1", true); got != "-c:1" {
			t.Errorf("in use, by force: %s", got)
		}
	})
}

func mustInspect(t testing.TB, s *Service, ref string) *worker.ImageDetail {
	t.Helper()
	d, err := s.Inspect(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// twoPlatforms stores an image for amd64 and one for arm64 under the names.
func twoPlatforms(t testing.TB, s *Service, names ...string) (amd, arm *image.Image) {
	t.Helper()
	importFile(t, s, "first", "f", "amd")
	importFile(t, s, "second", "f", "arm")
	amd, _ = s.images.Get("first", nil)
	other, _ := s.images.Get("second", nil)
	c := configOf(other)
	c.Architecture = "arm64"
	arm, err := finish(c, other.Layers)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store(t.Context(), image.Update{Images: []*image.Image{amd, arm}, Names: names}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"first", "second"} {
		if _, err := s.Remove(t.Context(), n, worker.RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return amd, arm
}

var (
	arm64 = op.Platform{OS: "linux", Architecture: "arm64"}
	s390x = op.Platform{OS: "linux", Architecture: "s390x"}
)

// Of a name for several platforms the one that is asked for is looked at; the daemon's own if none is.
func TestFindPlatform(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		amd, arm := twoPlatforms(t, s, "docker.io/library/m:latest")
		for _, tt := range []struct {
			ref  string
			p    *op.Platform
			want *image.Image
		}{{"m", nil, amd}, {"m", &amd64, amd}, {"m", &arm64, arm}, {string(arm.ID), &arm64, arm}, {"m", &s390x, nil}, {string(arm.ID), &amd64, nil}} {
			d, err := s.Inspect(t.Context(), tt.ref, tt.p)
			h, herr := s.History(t.Context(), tt.ref, tt.p)
			if tt.want == nil {
				const text = "was found but does not provide the specified platform (linux/"
				if !errors.Is(err, worker.ErrNotFound) || !errors.Is(herr, worker.ErrNotFound) || !strings.Contains(err.Error(), text) {
					t.Errorf("%s for %v: %v, %v", tt.ref, tt.p, err, herr)
				}
			} else if err != nil || herr != nil || d.ID != tt.want.ID || h[0].ID != string(tt.want.ID) {
				t.Errorf("%s for %v: %v, %v", tt.ref, tt.p, err, herr)
			}
		}
		if _, err := s.Inspect(t.Context(), "none", &amd64); !errors.Is(err, worker.ErrNotFound) {
			t.Errorf("no image: %v", err)
		}
	})
}

// Removing the image for a platform leaves the name to the others, and removes nothing if one of those wanted is not there.
func TestRemovePlatform(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		amd, arm := twoPlatforms(t, s, "docker.io/library/m:latest", "docker.io/library/n:latest")
		remove := func(ref string, p ...op.Platform) string {
			t.Helper()
			r, err := s.Remove(t.Context(), ref, worker.RemoveOptions{Platforms: p})
			if err != nil && !errors.Is(err, worker.ErrNotFound) {
				t.Fatal(err)
			}
			return effects(r)
		}
		if got := remove("m", arm64, s390x); got != "" {
			t.Errorf("one of those wanted is missing: %s", got)
		}
		if got := remove("m", arm64); got != "" {
			t.Errorf("it has another name: %s", got)
		}
		if got, want := remove("n", arm64), "x"+string(arm.ID)[7:12]; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if d := mustInspect(t, s, "m"); d.ID != amd.ID {
			t.Errorf("left is %s", d.ID)
		}
		if n := snapshots(t, s); n != 1 {
			t.Errorf("%d snapshots", n)
		}
		if got, want := remove("m", amd64), "-m:latest"; got != want {
			t.Errorf("the last one of the name: got %s, want %s", got, want)
		}
		if got, want := remove(string(amd.ID), amd64), "-n:latest x"+string(amd.ID)[7:12]; got != want {
			t.Errorf("by ID: got %s, want %s", got, want)
		}
	})
}

// Removing a name takes it from all its images, whatever their platforms, and those go that had nothing else. What the
// registry called them goes with it, and is named once; another image's reference by the same digest is left alone.
func TestRemoveAllPlatforms(t *testing.T) {
	const m, n, repo = "docker.io/library/m:latest", "docker.io/library/n:latest", "docker.io/library/m"
	index := image.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("index"), Size: 5}
	idx := "m@" + string(index.Digest)
	for _, tt := range []struct {
		name      string
		names     []string
		remaining string // a tag that the amd64 image gets beside
		pulled    bool
		ref, want string
	}{
		{name: "built", names: []string{m}, ref: "m", want: "-m:latest xA xB"},
		{name: "pulled", names: []string{m}, pulled: true, ref: "m", want: "-m:latest -" + idx + " xA xB"},
		{name: "by digest", names: []string{m}, pulled: true, ref: idx, want: "-" + idx},
		{name: "two names", names: []string{m, n}, pulled: true, ref: "m", want: "-m:latest -" + idx},
		{name: "one has another tag", names: []string{m}, pulled: true, remaining: "m:2", ref: "m", want: "-m:latest xB"},
		{name: "one has another name", names: []string{m}, pulled: true, remaining: "o:2", ref: "m", want: "-m:latest -" + idx + " xB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t, newLayers(t, t.TempDir(), "native"))
			amd, arm := twoPlatforms(t, s, tt.names...)
			if tt.pulled {
				for _, img := range []*image.Image{amd, arm} {
					img.Manifests = []image.Manifest{{Repository: repo, Descriptor: index}, {
						Repository: repo, Descriptor: image.Descriptor{Digest: digest.FromString("of " + string(img.ID))}, Inner: true,
					}}
				}
				if err := s.images.Update(image.Update{Images: []*image.Image{amd, arm}, Names: tt.names, Index: &index}); err != nil {
					t.Fatal(err)
				}
			}
			if tt.remaining != "" {
				if err := s.Tag(t.Context(), string(amd.ID), tt.remaining); err != nil {
					t.Fatal(err)
				}
			}
			r, err := s.Remove(t.Context(), tt.ref, worker.RemoveOptions{})
			got := strings.NewReplacer("x"+string(amd.ID)[7:12], "xA", "x"+string(arm.ID)[7:12], "xB").Replace(effects(r))
			if err != nil || got != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
			left, err := s.images.List()
			if want := 2 - strings.Count(tt.want, "xA") - strings.Count(tt.want, "xB"); err != nil || len(left) != want {
				t.Errorf("%d images left, %v; want %d", len(left), err, want)
			}
			for _, img := range left {
				if slices.Contains(img.RepoDigests(), "docker.io/library/"+idx) != (tt.remaining == "m:2") {
					t.Errorf("%s has the digests %q", img.ID, img.RepoDigests())
				}
			}
		})
	}
}

// A container that uses one of a name's images keeps the name, unless that is forced.
func TestRemoveUsedPlatform(t *testing.T) {
	s := newService(t, newLayers(t, t.TempDir(), "native"))
	_, arm := twoPlatforms(t, s, "docker.io/library/m:latest")
	s.deps.Users = func(id digest.Digest) []worker.ImageUser {
		if id == arm.ID {
			return []worker.ImageUser{{Container: "box"}}
		}
		return nil
	}
	if _, err := s.Remove(t.Context(), "m", worker.RemoveOptions{}); !errors.Is(err, worker.ErrInUse) {
		t.Errorf("got %v", err)
	}
	if l, err := s.images.List(); err != nil || len(l) != 2 || len(l[0].Names)+len(l[1].Names) != 2 {
		t.Errorf("left are %+v, %v", l, err)
	}
	r, err := s.Remove(t.Context(), "m", worker.RemoveOptions{Force: true})
	if got := effects(r); err != nil || !strings.HasPrefix(got, "-m:latest x") || strings.Contains(got, string(arm.ID)[7:12]) {
		t.Errorf("by force: %s, %v", got, err)
	}
}

// Saving a name saves all that it has, or the platforms that are asked for; loading chooses likewise.
func TestSavePlatforms(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		amd, arm := twoPlatforms(t, s, "docker.io/library/m:latest")
		for _, tt := range []struct {
			name       string
			save, load []op.Platform
			want       []*image.Image
		}{
			{"all", nil, nil, []*image.Image{amd, arm}},
			{"one saved", []op.Platform{arm64}, nil, []*image.Image{arm}},
			{"one loaded", nil, []op.Platform{arm64}, []*image.Image{arm}},
			{"both", []op.Platform{arm64, amd64}, []op.Platform{amd64, arm64, s390x}, []*image.Image{amd, arm}},
		} {
			var b bytes.Buffer
			if err := s.Save(t.Context(), []string{"m"}, tt.save, &b); err != nil {
				t.Fatal(tt.name, err)
			}
			other := newService(t, newLayers(t, t.TempDir(), "native"))
			if _, err := other.Load(t.Context(), bytes.NewReader(b.Bytes()), worker.LoadOptions{Platforms: tt.load}); err != nil {
				t.Fatal(tt.name, err)
			}
			n, err := other.images.Name("docker.io/library/m:latest")
			if err != nil || len(n.Images) != len(tt.want) {
				t.Errorf("%s: got %+v, %v", tt.name, n, err)
				continue
			}
			for _, img := range tt.want {
				if !slices.Contains(n.Images, img.ID) {
					t.Errorf("%s: %v is missing", tt.name, img.Platform)
				}
			}
		}
		if err := s.Save(t.Context(), []string{"m"}, []op.Platform{s390x}, io.Discard); !errors.Is(err, worker.ErrNotFound) {
			t.Errorf("no such platform: %v", err)
		}
	})
}

// Names for several platforms are copied whole.
func TestTagPlatforms(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		importFile(t, s, "x", "f", "a")
		one, _ := s.images.Get("x", nil)
		c := configOf(one)
		c.Architecture = "arm64"
		two, err := finish(c, one.Layers)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.store(t.Context(), image.Update{Images: []*image.Image{two, one}, Names: []string{"docker.io/library/m:latest"}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Tag(t.Context(), "m", "n:1"); err != nil {
			t.Fatal(err)
		}
		n, err := s.images.Name("docker.io/library/n:1")
		if err != nil || len(n.Images) != 2 {
			t.Errorf("got %+v, %v", n, err)
		}
		if d := mustInspect(t, s, "n:1"); d.ID != one.ID {
			t.Errorf("got the image for %v", d.Platform)
		}
		if err := s.Tag(t.Context(), "m", "Bad Name"); err == nil {
			t.Error("bad name accepted")
		}
		if _, err := s.History(t.Context(), "none", nil); !errors.Is(err, worker.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	})
}

// A damaged config is an image without history, and no crash.
func TestOddConfig(t *testing.T) {
	for _, c := range []string{"", "null", "[]", `{"history":5}`, `{"history":[null,{}]}`} {
		configOf(&image.Image{Config: json.RawMessage(c)})
	}
	for _, tt := range []struct {
		filters string
		want    bool
	}{{"", true}, {"k", true}, {"k=v", true}, {"k=w", false}, {"x", false}, {"k!=v", false}, {"k!=w", true}, {"x!", true}, {"k!", false}} {
		var f []string
		if tt.filters != "" {
			f = []string{tt.filters}
		}
		if got := matchLabels(map[string]string{"k": "v"}, f); got != tt.want {
			t.Errorf("%s: %v", tt.filters, got)
		}
	}
}

// An image that is called by a name has of its repository the digest of that name, and goes with its last name although an
// index led to more manifests of it.
func TestDigestsOfNames(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		id := putPulled(t, s, "p:1", "x")
		img, err := s.images.Get("p:1", nil)
		if err != nil {
			t.Fatal(err)
		}
		first := img.Manifests[0]
		doc, err := s.deps.Layers.Blobs.Put("m", []byte("another"), true)
		if err != nil {
			t.Fatal(err)
		}
		repo := first.Repository
		img.Manifests = append(img.Manifests, image.Manifest{Repository: repo, Descriptor: doc})
		for name, d := range map[string]*image.Descriptor{":1": &first.Descriptor, ":2": &doc, ":3": nil} {
			if err := s.store(t.Context(), image.Update{Images: []*image.Image{img}, Names: []string{repo + name}, Served: d}); err != nil {
				t.Fatal(err)
			}
		}
		for ref, want := range map[string][]image.Descriptor{
			"p:1": {first.Descriptor}, "p:2": {doc}, "p:3": {first.Descriptor, doc}, string(id): {first.Descriptor, doc},
		} {
			var all []string
			for _, d := range want {
				all = append(all, repo+"@"+string(d.Digest))
			}
			slices.Sort(all)
			if got := mustInspect(t, s, ref).RepoDigests; !slices.Equal(got, all) {
				t.Errorf("%s: got %q, want %q", ref, got, all)
			}
		}
		img.Manifests = []image.Manifest{{Repository: "x/inner", Descriptor: doc, Inner: true}}
		if err := s.images.Put(img); err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{"p:1", "p:2", "p:3"} {
			if _, err := s.Remove(t.Context(), n, worker.RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.images.Get(string(id), nil); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("after the last name: %v", err)
		}
	})
}
