package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A name has a row with its own digest, or with all of its repository where it is not known which is its own; a repository
// with digests alone has one, too, so that only an image without any of both is dangling.
func TestRows(t *testing.T) {
	const a, b = "docker.io/library/a", "localhost:5000/b"
	hex := func(digit string) string { return "sha256:" + strings.Repeat(digit, 64) }
	x, y, z := hex("1"), hex("2"), hex("3")
	img := &boxbuildv1.ImageSummary{
		Names: []string{a + ":1", a + ":2", a + ":3"}, RepoDigests: []string{a + "@" + x, a + "@" + y, b + "@" + z},
		NameDigests: map[string]string{a + ":1": y, a + ":2": ""},
	}
	only := &boxbuildv1.ImageSummary{RepoDigests: []string{b + "@" + z}}
	bare := &boxbuildv1.ImageSummary{}
	all := []*boxbuildv1.ImageSummary{img, only, bare}
	for _, tt := range []struct {
		opt  imagesOptions
		want []string
	}{
		{imagesOptions{all: true}, []string{
			"[" + a + ":1] [" + a + "@" + y + "]", "[" + a + ":2] []", "[" + a + ":3] [" + a + "@" + x + " " + a + "@" + y + "]",
			"[] [" + b + "@" + z + "]", "[] [" + b + "@" + z + "]", "[] []",
		}},
		{imagesOptions{references: []string{"localhost:5000/b"}}, []string{"[] [" + b + "@" + z + "]", "[] [" + b + "@" + z + "]"}},
		{imagesOptions{references: []string{"a:1"}}, []string{"[" + a + ":1] [" + a + "@" + y + "]"}},
		{imagesOptions{dangling: "true"}, []string{"[] []"}},
		{imagesOptions{dangling: "false", references: []string{"localhost:*/*"}}, []string{"[] [" + b + "@" + z + "]", "[] [" + b + "@" + z + "]"}},
	} {
		list, err := tt.opt.choose(all, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range rows(list) {
			got = append(got, fmt.Sprintf("%v %v", r.RepoTags, r.RepoDigests))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v:\ngot  %q\nwant %q", tt.opt, got, tt.want)
		}
	}
}

// Of a name for several platforms the image for the daemon's own is listed, or the first, and once, whatever is asked for;
// an image that has another name, too, is listed under that.
func TestStanding(t *testing.T) {
	image := func(id, arch string, names ...string) *boxbuildv1.ImageSummary {
		return &boxbuildv1.ImageSummary{Id: id, Names: names, Platform: &boxbuildv1.Platform{Os: "linux", Architecture: arch}}
	}
	const m, n, o = "docker.io/library/m:1", "docker.io/library/n:1", "docker.io/library/o:1"
	own := &boxbuildv1.Platform{Os: "linux", Architecture: "amd64"}
	for _, tt := range []struct {
		name string
		all  []*boxbuildv1.ImageSummary
		opt  imagesOptions
		want string
	}{
		{"the daemon's own is last", []*boxbuildv1.ImageSummary{image("1", "arm64", m), image("2", "s390x", m), image("3", "amd64", m)}, imagesOptions{}, "3 [m:1]"},
		{"none is the daemon's own", []*boxbuildv1.ImageSummary{image("1", "arm64", m, n), image("2", "s390x", m, n)}, imagesOptions{}, "1 [m:1],1 [n:1]"},
		{"one has another name", []*boxbuildv1.ImageSummary{image("1", "amd64", m, n), image("2", "arm64", m, o)}, imagesOptions{}, "1 [m:1],1 [n:1],2 [o:1]"},
		{"by reference", []*boxbuildv1.ImageSummary{image("1", "amd64", m), image("2", "arm64", m, o)}, imagesOptions{references: []string{"m"}}, "1 [m:1]"},
		{"before one that is not shown", []*boxbuildv1.ImageSummary{image("1234", "amd64", m), image("5678", "arm64", m)}, imagesOptions{before: "5678"}, ""},
		{"without a name", []*boxbuildv1.ImageSummary{image("1", "amd64"), image("2", "arm64")}, imagesOptions{all: true}, "1 [],2 []"},
	} {
		list, err := tt.opt.choose(tt.all, own)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range rows(list) {
			for i := range r.RepoTags {
				r.RepoTags[i] = familiar(r.RepoTags[i])
			}
			got = append(got, fmt.Sprint(r.ID, " ", r.RepoTags))
		}
		if strings.Join(got, ",") != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
