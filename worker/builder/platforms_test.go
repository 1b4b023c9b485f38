package builder

import (
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// TestOtherPlatforms checks which results are warned of: those for other platforms than were asked for, whatever their order.
func TestOtherPlatforms(t *testing.T) {
	amd64, arm64 := op.Platform{OS: "linux", Architecture: "amd64"}, op.Platform{OS: "linux", Architecture: "arm64"}
	windows := op.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.1"}
	for _, tc := range []struct {
		asked string
		have  []op.Platform
		multi bool
		want  []string
	}{
		{asked: "", have: []op.Platform{amd64, arm64}, multi: true},
		{asked: "linux/amd64", have: []op.Platform{amd64}},
		{asked: "linux/x86_64", have: []op.Platform{amd64}, multi: true},
		{asked: "linux/arm64,linux/amd64", have: []op.Platform{amd64, arm64}, multi: true},
		{asked: "windows/amd64", have: []op.Platform{windows}},
		{
			asked: "linux/amd64,linux/arm64", have: []op.Platform{amd64},
			want: []string{"Multiple platforms requested but result is not multi-platform"},
		},
		{asked: "linux/arm64", have: []op.Platform{amd64}, want: []string{`Requested platform "linux/arm64" does not match result platform "linux/amd64"`}},
		{
			asked: "linux/amd64", have: []op.Platform{arm64, amd64}, multi: true,
			want: []string{"Requested platforms linux/amd64 do not match result platforms linux/amd64,linux/arm64"},
		},
		{
			asked: "linux/amd64,linux/s390x", have: []op.Platform{amd64, arm64}, multi: true,
			want: []string{"Requested platforms linux/amd64,linux/s390x do not match result platforms linux/amd64,linux/arm64"},
		},
		{asked: "linux/amd64,linux/amd64", have: []op.Platform{amd64}, want: []string{`Duplicate platform result requested "linux/amd64"`}},
		{asked: "a/b/c/d/e", have: []op.Platform{amd64}, want: []string{`Invalid platform result requested "a/b/c/d/e": `}},
	} {
		out := &frontend.Output{Multi: tc.multi}
		for _, p := range tc.have {
			out.Images = append(out.Images, frontend.Image{Platform: p})
		}
		var asked []string
		if tc.asked != "" {
			asked = strings.Split(tc.asked, ",")
		}
		var got []string
		for _, w := range otherPlatforms(asked, out) {
			got = append(got, w.Short)
		}
		if !slices.EqualFunc(got, tc.want, func(g, w string) bool { return g == w || strings.HasSuffix(w, ": ") && strings.HasPrefix(g, w) }) {
			t.Errorf("%q, %v: got %q, want %q", tc.asked, tc.have, got, tc.want)
		}
	}
}
