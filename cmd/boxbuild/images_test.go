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
		list, err := tt.opt.choose(all)
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
