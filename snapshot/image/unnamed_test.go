package image

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func indexOf(s string) *Descriptor {
	return &Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(s), Size: int64(len(s))}
}

// index puts images without a name, as what an index leads to that has a manifest for each.
func index(t *testing.T, s *Store, name string, imgs ...*Image) digest.Digest {
	t.Helper()
	u := Update{Images: imgs, Index: indexOf(name)}
	for _, img := range imgs {
		u.Documents = append(u.Documents, Descriptor{Digest: digest.FromString(name + string(img.ID))})
	}
	if err := s.Update(u); err != nil {
		t.Fatal(err)
	}
	return u.Index.Digest
}

// unnamed returns which of the indices are there without a name, sorted, and how many images they lead to.
func unnamed(t *testing.T, s *Store, names ...string) (out []string, images int) {
	t.Helper()
	all, err := s.Unnamed()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		for _, name := range names {
			if n.Index.Digest == digest.FromString(name) {
				out, images = append(out, name), images+len(n.Images)
			}
		}
	}
	slices.Sort(out)
	return out, images
}

// An index that was given no name is found by its digest and by those of its manifests, for each platform; also after the
// database was opened again. What it is made of is kept, and no image has a name by it.
func TestUnnamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	db := openDB(t, path)
	s, err := Open(db)
	if err != nil {
		t.Fatal(err)
	}
	amd, arm := mk("a", "x"), mk("b", "x", "y")
	arm.Platform.Architecture = "arm64"
	d := index(t, s, "ix", amd, arm)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(openDB(t, path)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		ref, arch string
		want      digest.Digest
	}{
		{string(d), "", amd.ID},
		{d.Encoded(), "", amd.ID},
		{string(d), "arm64", arm.ID},
		{string(digest.FromString("ix" + string(arm.ID))), "arm64", arm.ID},
		{string(d), "s390x", ""},
		{"docker.io/library/a@" + string(d), "", ""},
	} {
		img, err := s.Get(tt.ref, &ocispec.Platform{Architecture: tt.arch})
		if tt.want == "" {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s for %s: got %v, %v; want none", tt.ref, tt.arch, img, err)
			}
			continue
		}
		if err != nil || img.ID != tt.want || len(img.Names) > 0 {
			t.Errorf("%s for %s: got %+v, %v; want %s", tt.ref, tt.arch, img, err, tt.want)
		}
	}
	r, err := s.Roots()
	if err != nil || !slices.Contains(r.Blobs, d) || !slices.Contains(r.Blobs, digest.FromString("ix"+string(arm.ID))) {
		t.Errorf("the roots are %v, %v", r.Blobs, err)
	}
	if names, err := s.Names(); err != nil || len(names) > 0 {
		t.Errorf("the names are %v, %v", names, err)
	}
}

// There is one index without a name for the same images, the last, whatever their order. It goes with the last of them, when
// a name gets it, and when it is removed.
func TestUnnamedEnds(t *testing.T) {
	a, b, c := mk("a", "x"), mk("b", "y"), mk("c", "z")
	for _, tt := range []struct {
		name   string
		do     func(s *Store) error
		want   []string
		images int
	}{
		{"stays", func(*Store) error { return nil }, []string{"ab", "bc"}, 4},
		{"made anew", func(s *Store) error { index(t, s, "ab2", b, a); return nil }, []string{"ab2", "bc"}, 4},
		{"an image gone", func(s *Store) error { return s.Delete(a.ID) }, []string{"ab", "bc"}, 3},
		{"all images gone", func(s *Store) error { return errors.Join(s.Delete(a.ID), s.Delete(b.ID)) }, []string{"bc"}, 1},
		// What is left of both is the same image: one leads to it.
		{"the same left", func(s *Store) error { return errors.Join(s.Delete(a.ID), s.Delete(c.ID)) }, []string{"bc"}, 1},
		{"removed", func(s *Store) error { return s.Unindex(digest.FromString("ab")) }, []string{"bc"}, 2},
		{"without an image", func(s *Store) error { return s.Unindex(digest.FromString("ab"), b.ID) }, []string{"ab", "bc"}, 3},
		{"none such", func(s *Store) error { return s.Unindex(digest.FromString("other")) }, []string{"ab", "bc"}, 4},
		{"named", func(s *Store) error {
			return s.Update(Update{Images: []*Image{a, b}, Names: []string{refA}, Index: indexOf("ab")})
		}, []string{"bc"}, 2},
		{"an image named", func(s *Store) error { return s.Tag(a.ID, refA) }, []string{"ab", "bc"}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			index(t, s, "ab", a, b)
			index(t, s, "bc", b, c)
			if err := tt.do(s); err != nil {
				t.Fatal(err)
			}
			got, images := unnamed(t, s, "ab", "ab2", "bc")
			if !slices.Equal(got, tt.want) || images != tt.images {
				t.Errorf("got %v of %d images; want %v of %d", got, images, tt.want, tt.images)
			}
		})
	}
}

// An index that a name has is that name's, also if it is made again without one.
func TestUnnamedOfName(t *testing.T) {
	s := open(t)
	a := mk("a", "x")
	if err := s.Update(Update{Images: []*Image{a}, Names: []string{refA}, Index: indexOf("ix")}); err != nil {
		t.Fatal(err)
	}
	d := index(t, s, "ix", a)
	if got, _ := unnamed(t, s, "ix"); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	if img, err := s.Get(string(d), nil); err != nil || img.ID != a.ID {
		t.Errorf("got %+v, %v", img, err)
	}
}
