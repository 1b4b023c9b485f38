package images

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// unnamed makes the index of two images that were given no name, as a build does: its bytes are a blob.
func unnamed(t testing.TB, s *Service, content string) (index image.Descriptor, amd, arm *image.Image) {
	t.Helper()
	const held = "docker.io/library/held:latest"
	amd, arm = twoPlatforms(t, s, held)
	l := s.deps.Leases.Acquire("test")
	defer l.Release()
	d := digest.FromString(content)
	if err := l.Reserve(t.Context(), blobItem(d)); err != nil {
		t.Fatal(err)
	}
	index, err := s.deps.Layers.Blobs.Put(ocispec.MediaTypeImageIndex, []byte(content), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.images.Update(image.Update{Images: []*image.Image{amd, arm}, Index: &index}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), held, worker.RemoveOptions{}); err != nil { // the index keeps them
		t.Fatal(err)
	}
	return index, amd, arm
}

// called shows an index and two images by letters.
func called(removed []worker.Removed, index image.Descriptor, amd, arm *image.Image) string {
	return strings.NewReplacer(
		"x"+index.Digest.Encoded()[:5], "xI", "x"+amd.ID.Encoded()[:5], "xA", "x"+arm.ID.Encoded()[:5], "xB",
	).Replace(effects(removed))
}

// The digest of an index that no name has removes it with what it alone leads to, with the rules of an ID. Its bytes go with
// it, and not before.
func TestRemoveUnnamed(t *testing.T) {
	for _, tt := range []struct {
		name string
		tag  string // of the amd64 image
		also bool   // another index leads to the amd64 image
		user string // "runs" or "stopped": a container of the arm64 image
		ref  string // what is removed; the index if empty
		opt  worker.RemoveOptions
		want string // an error's beginning, or the effects
		left bool   // the index is left
	}{
		{name: "all", want: "xI xA xB"},
		{name: "one is tagged", tag: "t", want: "xI xB"},
		{name: "one is elsewhere", also: true, want: "xI xB"},
		{name: "one platform", opt: worker.RemoveOptions{Platforms: []op.Platform{arm64}}, want: "xB", left: true},
		{name: "each platform", opt: worker.RemoveOptions{Platforms: []op.Platform{amd64, arm64}}, want: "xA xI xB"},
		{name: "a tag of one", tag: "t", ref: "t", want: "-t:latest", left: true},
		{name: "runs", user: "runs", opt: worker.RemoveOptions{Force: true}, want: "conflict: unable to delete", left: true},
		{name: "stopped", user: "stopped", want: "conflict: unable to delete", left: true},
		{name: "stopped, by force", user: "stopped", opt: worker.RemoveOptions{Force: true}, want: "xI xA xB"},
		{
			name: "platform is used", user: "stopped", opt: worker.RemoveOptions{Platforms: []op.Platform{arm64}},
			want: "conflict: unable to delete", left: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t, newLayers(t, t.TempDir(), "native"))
			index, amd, arm := unnamed(t, s, "index")
			if tt.tag != "" {
				if err := s.Tag(t.Context(), string(amd.ID), tt.tag); err != nil {
					t.Fatal(err)
				}
			}
			if tt.also {
				other := image.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("other")}
				if err := s.images.Update(image.Update{Images: []*image.Image{amd}, Index: &other}); err != nil {
					t.Fatal(err)
				}
			}
			s.deps.Users = func(id digest.Digest) []worker.ImageUser {
				if tt.user == "" || id != arm.ID {
					return nil
				}
				return []worker.ImageUser{{Container: "box", Running: tt.user == "runs"}}
			}
			ref := string(index.Digest)
			if tt.ref != "" {
				ref = tt.ref
			}
			r, err := s.Remove(t.Context(), ref, tt.opt)
			got := called(r, index, amd, arm)
			if err != nil {
				got = err.Error()
			}
			if failed := err != nil; failed && !strings.HasPrefix(got, tt.want) || !failed && got != tt.want {
				t.Errorf("got %s; want %s", got, tt.want)
			}
			if _, err := s.deps.Leases.Collect(t.Context(), lease.Policy{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Inspect(t.Context(), string(index.Digest), nil); (err == nil) != tt.left {
				t.Errorf("inspecting the index: %v", err)
			}
			if has := s.deps.Layers.Blobs.Has(index); has != tt.left {
				t.Errorf("the index's bytes are there: %t; want %t", has, tt.left)
			}
		})
	}
}

// An index that no name has is copied with all platforms to a name, which then is all that has it; and saved with them.
func TestTagAndSaveUnnamed(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		index, amd, arm := unnamed(t, s, "index")
		var b bytes.Buffer
		if err := s.Save(t.Context(), []string{string(index.Digest)}, nil, &b); err != nil {
			t.Fatal(err)
		}
		other := newService(t, newLayers(t, t.TempDir(), "native"))
		if _, err := other.Load(t.Context(), bytes.NewReader(b.Bytes()), worker.LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		if all, err := other.images.List(); err != nil || len(all) != 2 {
			t.Errorf("loaded are %+v, %v", all, err)
		}
		if err := s.Save(t.Context(), []string{string(index.Digest)}, []op.Platform{s390x}, &b); err == nil {
			t.Error("what is not there was saved")
		}
		if err := s.Tag(t.Context(), string(index.Digest), "n:1"); err != nil {
			t.Fatal(err)
		}
		n, err := s.images.Name("docker.io/library/n:1")
		if err != nil || len(n.Images) != 2 || n.Index == nil || n.Index.Digest != index.Digest {
			t.Errorf("got %+v, %v", n, err)
		}
		r, err := s.Remove(t.Context(), "n:1", worker.RemoveOptions{})
		if got, want := called(r, index, amd, arm), "-n:1 xA xB"; err != nil || got != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	})
}

// Pruning removes an index that no name has as it removes an image that has none. One whose images all have names goes alone,
// one of what is spared stays.
func TestPruneUnnamed(t *testing.T) {
	for _, tt := range []struct {
		name string
		tags bool // each image has a tag
		used bool // by a container: the arm64 image
		opt  worker.PruneOptions
		want string
		left bool
	}{
		{name: "dangling", want: "xA xB xI"},
		{name: "named", tags: true, want: "xI"},
		{name: "named, all", tags: true, opt: worker.PruneOptions{All: true}, want: "-a:latest xA -b:latest xB xI"},
		{name: "used", used: true, want: "xA", left: true},
		{name: "young", opt: worker.PruneOptions{KeepFor: time.Hour}, left: true},
		{name: "named and young", tags: true, opt: worker.PruneOptions{KeepFor: time.Hour}, left: true},
		{name: "labels", opt: worker.PruneOptions{Labels: []string{"none"}}, left: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t, newLayers(t, t.TempDir(), "native"))
			index, amd, arm := unnamed(t, s, "index")
			if tt.tags {
				for name, img := range map[string]*image.Image{"a": amd, "b": arm} {
					if err := s.Tag(t.Context(), string(img.ID), name); err != nil {
						t.Fatal(err)
					}
				}
			}
			s.deps.Users = func(id digest.Digest) []worker.ImageUser {
				if tt.used && id == arm.ID {
					return []worker.ImageUser{{Container: "box"}}
				}
				return nil
			}
			tt.opt.Images = true
			rep, err := s.Prune(t.Context(), tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			// Which image comes first is a matter of when they were made.
			got := called(rep.Images, index, amd, arm)
			got = strings.Replace(strings.Replace(got, "xB xA", "xA xB", 1), "-b:latest xB -a:latest xA", "-a:latest xA -b:latest xB", 1)
			if got != tt.want {
				t.Errorf("got %s; want %s", got, tt.want)
			}
			if _, err := s.Inspect(t.Context(), string(index.Digest), nil); (err == nil) != tt.left {
				t.Errorf("inspecting the index: %v", err)
			}
			if has := s.deps.Layers.Blobs.Has(index); has != tt.left {
				t.Errorf("the index's bytes are there: %t; want %t", has, tt.left)
			}
		})
	}
}
