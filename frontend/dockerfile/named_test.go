package dockerfile

import (
	"strings"
	"testing"
)

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
