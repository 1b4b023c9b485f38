package dockerfile

import (
	"context"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver/op"
)

// A convertingEnv answers for one image when it is asked about another, as a source policy may have it.
type convertingEnv struct {
	*fakeEnv
	from, to string
}

func (e *convertingEnv) Pin(ctx context.Context, src op.Source) (op.Source, error) {
	if img, ok := src.(*op.Image); ok && img.Ref == e.from {
		converted := *img
		converted.Ref, converted.Digest = e.to, ""
		src = &converted
	}
	return e.fakeEnv.Pin(ctx, src)
}

// TestConverted checks that a step names the image from which it starts, and not one in whose place that is.
func TestConverted(t *testing.T) {
	const to = "example.com/other:2"
	for from, text := range map[string]string{
		"docker.io/library/alpine:3": "FROM alpine:3\n",
		"docker.io/library/a:1":      "FROM a:1@sha256:1111111111111111111111111111111111111111111111111111111111111111\n",
	} {
		c := dockerfileCase(t, text+"RUN x\n")
		out, err := New().Translate(t.Context(), c.req, &convertingEnv{c.env, from, to})
		if err != nil {
			t.Fatal(err)
		}
		base := out.Images[0].Root.Vertex.Inputs()[0].Vertex
		want := "[1/2] FROM " + to + "@" + string(base.Op().(*op.Image).Digest)
		if got := base.Name(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestTargetContext checks that a context which is a stage of the file is that stage wherever its name is used: what is
// made is the same as with the stage's own name there.
func TestTargetContext(t *testing.T) {
	const stages = "FROM busybox AS one\nRUN one\nFROM busybox AS two\nRUN two\n"
	for context, c := range map[string]struct{ file, same string }{
		"nc=target:two":  {stages + "FROM nc\nRUN x\n", stages + "FROM two\nRUN x\n"},
		"nc=target:1":    {stages + "FROM nc\nCOPY --from=nc /a /b\n", stages + "FROM two\nCOPY --from=nc /a /b\n"},
		"nc=target:ONE":  {stages + "FROM two\nCOPY --from=nc /a /b\n", stages + "FROM two\nCOPY --from=one /a /b\n"},
		"m=target:one":   {stages + "FROM two\nRUN --mount=from=m,target=/m x\n", stages + "FROM two\nRUN --mount=from=one,target=/m x\n"},
		"two=target:one": {stages + "FROM two\nRUN x\n", stages + "FROM one\nRUN x\n"},
	} {
		name, value, _ := strings.Cut(context, "=")
		tc, plain := dockerfileCase(t, c.file), dockerfileCase(t, c.same)
		tc.req.Contexts[name] = value
		if context == "nc=target:1" {
			plain.req.Contexts["nc"] = "target:two"
		}
		got, err := tc.translate()
		if err != nil {
			t.Errorf("%s: %v", context, err)
			continue
		}
		want, err := plain.translate()
		if err != nil {
			t.Fatal(err)
		}
		if g, w := got.Images[0].Root.Vertex.Recipe(), want.Images[0].Root.Vertex.Recipe(); g != w {
			t.Errorf("%s: not the same graph as with the name of the stage", context)
		}
	}
	for file, want := range map[string]string{
		stages + "FROM nc\n":                                                       `target stage "later" for context nc could not be found`,
		"FROM nc\nFROM busybox AS later\n":                                         `target stage "later" for context nc could not be found`,
		"FROM x AS nc\nFROM busybox AS later\n":                                    `target stage "later" for context nc could not be found`,
		"FROM busybox AS later\nCOPY --from=nc /a /\n":                             "circular dependency",
		"FROM x\nCOPY --from=nc /a /\nFROM busybox AS later\nCOPY --from=0 /a /\n": "circular dependency",
		"FROM x AS y\nCOPY --from=nc /a /\nFROM busybox AS later\nFROM y\n":        "it needs to be defined before current stage",
	} {
		c := dockerfileCase(t, file)
		c.req.Contexts["nc"] = "target:later"
		if _, err := c.translate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", file, err, want)
		}
	}
}
