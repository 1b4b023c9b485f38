package images

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// The digest of an index, which is what a build for several platforms prints, removes the names that have the index, and of
// its images what is nobody else's; with the rules of an ID.
func TestRemoveIndex(t *testing.T) {
	const m, n = "docker.io/library/m:latest", "docker.io/library/n:latest"
	index := image.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("index"), Size: 5}
	for _, tt := range []struct {
		name      string
		names     []string
		served    bool   // the index is a registry's
		other     string // a tag that the amd64 image gets beside
		user      string // "runs" or "stopped": a container of the arm64 image
		opt       worker.RemoveOptions
		ref, want string // an error's beginning, or the effects
	}{
		{name: "built", names: []string{m}, want: "-m:latest xA xB"},
		{name: "without its algorithm", names: []string{m}, ref: index.Digest.Encoded(), want: "-m:latest xA xB"},
		{name: "pulled", names: []string{m}, served: true, want: "-m:latest xA xB"},
		{name: "two names", names: []string{m, n}, want: "conflict: unable to delete " + index.Digest.Encoded()[:12] + " (must be forced)"},
		{name: "two names by force", names: []string{m, n}, opt: worker.RemoveOptions{Force: true}, want: "-m:latest -n:latest xA xB"},
		{name: "one has another name", names: []string{m}, other: "o", want: "-m:latest xB"},
		{name: "one platform", names: []string{m}, opt: worker.RemoveOptions{Platforms: []op.Platform{arm64}}, want: "xB"},
		{name: "one platform of two names", names: []string{m, n}, opt: worker.RemoveOptions{Platforms: []op.Platform{arm64}}, want: "xB"},
		{name: "none such", names: []string{m}, ref: string(digest.FromString("other")), want: "removing image|No such image"},
		{name: "runs", names: []string{m}, user: "runs", opt: worker.RemoveOptions{Force: true}, want: "conflict: unable to delete"},
		{name: "stopped", names: []string{m}, user: "stopped", want: "conflict: unable to delete"},
		{
			name: "stopped, by force", names: []string{m}, user: "stopped", opt: worker.RemoveOptions{Force: true},
			want: "-m:latest xA xB",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t, newLayers(t, t.TempDir(), "native"))
			amd, arm := twoPlatforms(t, s, tt.names...)
			u := image.Update{Images: []*image.Image{amd, arm}, Names: tt.names, Index: &index}
			if tt.served {
				u.Index, u.Served = nil, &index
			}
			if err := s.images.Update(u); err != nil {
				t.Fatal(err)
			}
			if tt.other != "" {
				if err := s.Tag(t.Context(), string(amd.ID), tt.other); err != nil {
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
			got := strings.NewReplacer("x"+string(amd.ID)[7:12], "xA", "x"+string(arm.ID)[7:12], "xB").Replace(effects(r))
			if err != nil {
				got = err.Error()
			}
			wants := strings.Split(tt.want, "|")
			if failed := err != nil; failed && !strings.HasPrefix(got, wants[0]) && !errors.Is(err, worker.ErrNotFound) || !failed && got != tt.want {
				t.Errorf("got %s; want %s", got, tt.want)
			}
			left, lerr := s.images.List()
			if want := 2 - strings.Count(got, "xA") - strings.Count(got, "xB"); lerr != nil || len(left) != want {
				t.Errorf("%d images left, %v; want %d", len(left), lerr, want)
			}
		})
	}
}

// What the digest of an index means is copied, and saved, with all platforms, as its name would be.
func TestTagAndSaveIndex(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		index := image.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("index"), Size: 5}
		amd, arm := twoPlatforms(t, s, "docker.io/library/m:latest")
		err := s.images.Update(image.Update{Images: []*image.Image{amd, arm}, Names: []string{"docker.io/library/m:latest"}, Index: &index})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Tag(t.Context(), string(index.Digest), "n:1"); err != nil {
			t.Fatal(err)
		}
		n, err := s.images.Name("docker.io/library/n:1")
		if err != nil || len(n.Images) != 2 || n.Index == nil || n.Index.Digest != index.Digest {
			t.Errorf("got %+v, %v", n, err)
		}
		var b bytes.Buffer
		if err := s.Save(t.Context(), []string{string(index.Digest)}, nil, &b); err != nil {
			t.Fatal(err)
		}
		other := newService(t, newLayers(t, t.TempDir(), "native"))
		if _, err := other.Load(t.Context(), bytes.NewReader(b.Bytes()), worker.LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		all, err := other.images.List()
		if err != nil || len(all) != 2 || slices.ContainsFunc(all, func(i *image.Image) bool { return len(i.Names) > 0 }) {
			t.Errorf("loaded are %+v, %v", all, err)
		}
	})
}
