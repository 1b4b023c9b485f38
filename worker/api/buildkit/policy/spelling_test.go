package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/solver/op"
)

// TestSpellings checks that what is denied is denied however it is written, as BuildKit's fix of CVE-2026-93326 and its
// siblings wants it: by a definition whose attributes name another repository than its identifier, and by other spellings of
// the same. What is allowed is allowed as it is written, so that a list of what is allowed stays as narrow as it looks.
func TestSpellings(t *testing.T) {
	const commit = "0123456789012345678901234567890123456789"
	for _, tt := range []struct {
		rule string
		ids  []string // "identifier key=value…"
	}{
		{"deny wildcard git://example.com/evil/r*", []string{
			"git://example.com/evil/r", "git://example.com/evil/r.git", "git://example.com/evil/r#main", "git://example.com/evil/r.git#main:sub",
			"git://EXAMPLE.com/evil/r", "git://example.com:443/evil/r", "git://example.com:22/evil/r.git", "git://example.com./evil/r",
			"git://example.com//evil//r", "git://example.com/x/../evil/r", "git://example.com/evil/./r/",
			"git://x/y git.fullurl=https://example.com/evil/r", "git://x/y git.fullurl=ssh://git@example.com/evil/r.git",
			"git://x/y git.fullurl=git@example.com:evil/r.git", "git://x/y git.fullurl=https://user:pass@Example.Com:443/evil/r.git",
			"git://x/y git.fullurl=HTTPS://example.com/evil/%72", "git://x/y#" + commit + " git.fullurl=https://example.com/evil/r",
			"git://example.com/good git.fullurl=http://example.com/evil/r git.checkoutbundle=true",
		}},
		{"deny exact git://example.com/evil/r", []string{"git://example.com/evil/r.git", "git://Example.com/evil/r"}},
		{"deny exact git://example.com/evil/r.git", []string{"git://example.com/evil/r", "git://example.com:443/evil/r"}},
		{"deny wildcard https://example.com/evil/*", []string{
			"https://example.com/evil/f", "https://EXAMPLE.com/evil/f", "https://example.com:443/evil/f", "https://example.com./evil/f",
			"https://user:pass@example.com/evil/f", "https://user@example.com:443/evil/f", "https://example.com//evil/f",
			"https://example.com/x/../evil/f", "https://example.com/./evil/f", "https://example.com/%65vil/f", "https://example.com/evil/f#x",
			"https://example.com/evil/f?x=y", "https://example.com:/evil/f",
		}},
		{"deny exact https://example.com/evil", []string{"https://Example.com/evil", "https://example.com/evil#x"}},
		{"deny wildcard docker-image://docker.io/*", []string{
			"docker-image://app", "docker-image://library/app:1", "docker-image://docker.io/library/app", "docker-image://index.docker.io/library/app:1",
			"docker-image://DOCKER.io/library/app:1", "docker-image://registry-1.docker.io/library/app", "docker-image://docker.io:443/library/app",
		}},
		{"deny wildcard docker-image://ghcr.io/evil/*", []string{"docker-image://GHCR.io/evil/app", "docker-image://ghcr.io:443/evil/app:1"}},
	} {
		p, bare := rules(t, tt.rule), rules(t, "deny wildcard *", strings.Replace(tt.rule, "deny", "allow", 1))
		for _, id := range tt.ids {
			words := strings.Fields(id)
			in := &pb.SourceOp{Identifier: words[0], Attrs: map[string]string{}}
			for _, kv := range words[1:] {
				k, v, _ := strings.Cut(kv, "=")
				in.Attrs[k] = v
			}
			src, err := decode(&pb.Op{Op: &pb.Op_Source{Source: in}})
			if err != nil {
				t.Logf("%s: no source: %v", id, err)
				continue
			}
			if got, err := p.Apply(t.Context(), src, nil); !errors.Is(err, ErrDenied) {
				t.Errorf("%s: %s is %v, %v", tt.rule, id, got, err)
			}
			written, _ := Written(src)
			_, err = bare.Apply(t.Context(), src, nil)
			if literal := strings.TrimSuffix(strings.Fields(tt.rule)[2], "*"); err == nil && !strings.HasPrefix(written.GetIdentifier(), literal) {
				t.Errorf("%s is allowed, which is written otherwise", id)
			}
		}
	}
	// Others stay what they are.
	p := rules(t, "deny wildcard git://example.com/evil/r*", "deny wildcard https://example.com/evil/*", "deny exact docker-image://docker.io/library/app:1")
	for _, src := range []op.Source{
		&op.Git{Remote: "https://example.com/good/r.git"}, &op.Git{Remote: "https://other.example.com/evil/r"}, &op.Git{Remote: "https://example.com:8443/evil/r"},
		&op.HTTP{URL: "https://example.com/good/../fine/evil"}, &op.HTTP{URL: "http://example.com/evil/f"}, image("app:2"),
		&op.Image{Ref: "example.com/library/app:1"},
	} {
		if got, err := p.Apply(t.Context(), src, nil); err != nil || got != src {
			t.Errorf("%s: %v, %v", src, got, err)
		}
	}
	// A conversion is of the source, too, however it is written.
	got, err := rules(t, "convert wildcard docker-image://docker.io/library/* docker-image://mirror.example/${1}").
		Apply(t.Context(), &op.Image{Ref: "DOCKER.io/library/app:1"}, nil)
	if img, ok := got.(*op.Image); err != nil || !ok || img.Ref != "mirror.example/app:1" {
		t.Errorf("got %v, %v", got, err)
	}
}
