package dockerfile

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver/op"
)

// A noContextEnv gives nothing of the context away, as a source policy may have it.
type noContextEnv struct {
	*fakeEnv
}

func (e *noContextEnv) Pin(ctx context.Context, src op.Source) (op.Source, error) {
	if l, ok := src.(*op.Local); ok && l.Name == "context" {
		return nil, errBroken
	}
	return e.fakeEnv.Pin(ctx, src)
}

// TestContextNotNeeded checks that nothing of the context is asked for, .dockerignore included, by a build that reads
// nothing of it, and that one which does is told; also where only a variable or a trigger says so.
func TestContextNotNeeded(t *testing.T) {
	const triggers = `{"architecture":"amd64","os":"linux","config":{"OnBuild":["COPY a /"]},"rootfs":{"type":"layers"}}`
	for text, needs := range map[string]bool{
		"FROM scratch\nLABEL a=b\n":                                      false,
		"FROM a\nRUN --mount=type=cache,target=/c x\n":                   false,
		"FROM a AS b\nRUN x\nFROM scratch\nCOPY --from=b x y\n":          false,
		"FROM scratch\nCOPY <<f /\nx\nf\n":                               false,
		"FROM scratch\nADD https://e.com/x /\n":                          false,
		"FROM scratch\nARG U=https://e.com/x\nADD $U /\n":                false,
		"FROM scratch AS unused\nCOPY a /\nFROM scratch\nENV A=b\n":      false,
		"FROM scratch\nCOPY a /\n":                                       true,
		"FROM scratch\nADD a /\n":                                        true,
		"FROM scratch\nARG U=a\nADD $U /\n":                              true,
		"FROM a\nRUN --mount=target=/m x\n":                              true,
		"FROM a\nARG T=bind\nRUN --mount=type=$T,target=/m x\n":          true,
		"FROM triggers\n":                                                true,
		"FROM scratch AS b\nCOPY a /\nFROM scratch\nCOPY --from=b / /\n": true,
	} {
		c := dockerfileCase(t, text)
		c.env.images["docker.io/library/triggers:latest"], c.env.urls["*"] = triggers, "x"
		_, err := New().Translate(t.Context(), c.req, &noContextEnv{c.env})
		if needs != errors.Is(err, errBroken) || !needs && err != nil {
			t.Errorf("%q: got %v, needs the context: %v", text, err, needs)
		}
		if asked := slices.Contains(c.env.steps, "[internal] load "+ignoreName); asked != needs {
			t.Errorf("%q: steps %q", text, c.env.steps)
		}
	}
}

// TestMountsContext checks which mounts are known to be of the context before variables have values.
func TestMountsContext(t *testing.T) {
	for text, want := range map[string]bool{
		"RUN":                     false,
		"RUN x --mount=target=/m": false,
		"RUN --mount=target=/m x": true,
		"RUN --mount=type=BIND,src=a,target=/m x":                             true,
		"RUN --network=none --mount=type=cache,target=/c --mount=target=/m x": true,
		"RUN --mount=type=bind,from=a,target=/m x":                            false,
		"RUN --mount=target=/m,type=$T x":                                     false,
		"RUN --mount=type=secret,id=a x":                                      false,
	} {
		if got := mountsContext(text); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

// TestIgnoreAfterImages checks that an image which is not there is the error, not what comes after it.
func TestIgnoreAfterImages(t *testing.T) {
	c := dockerfileCase(t, "FROM busybox\nCOPY a /\n")
	c.env.images = nil
	_, err := New().Translate(t.Context(), c.req, &noContextEnv{c.env})
	if err == nil || errors.Is(err, errBroken) || !strings.Contains(err.Error(), "busybox:latest: not found") {
		t.Errorf("got %v", err)
	}
}

// TestCopyWithoutContext checks that COPY of a stage and ADD of a URL need no context to be given at all.
func TestCopyWithoutContext(t *testing.T) {
	c := dockerfileCase(t, "")
	c.req.Dockerfile, c.req.Context, c.env.urls["*"] = nil, nil, "x"
	c.req.Text = []byte("FROM a AS b\nFROM scratch\nCOPY --from=b x y\nADD https://e.com/x /\n")
	if _, err := c.translate(); err != nil {
		t.Error(err)
	}
}

// TestLargeDefinition checks that a Dockerfile or .dockerignore which is too large to be read does not come, and that a file which
// only could be the Dockerfile is in nobody's way.
func TestLargeDefinition(t *testing.T) {
	const text = "FROM scratch\nCOPY a /\n"
	large := strings.Repeat("#", maxFile+1)
	for name, tt := range map[string]struct {
		files map[string]string
		want  string // the beginning of the error; none if it is built
	}{
		"Dockerfile":     {map[string]string{"Dockerfile": large}, `failed to read dockerfile: "/Dockerfile" has 16777217 bytes`},
		"only the other": {map[string]string{"dockerfile": large}, `failed to read dockerfile: "/dockerfile" has 16777217 bytes`},
		"also the other": {map[string]string{"Dockerfile": text, "dockerfile": large}, ""},
		"its ignore": {
			map[string]string{"Dockerfile": text, "Dockerfile.dockerignore": large},
			`failed to read dockerfile: "/Dockerfile.dockerignore" has 16777217 bytes`,
		},
		"ignore":       {map[string]string{"Dockerfile": text, ignoreName: large}, `reading .dockerignore: "/.dockerignore" has 16777217 bytes`},
		"another file": {map[string]string{"Dockerfile": text, "a": large}, ""},
	} {
		c := dockerfileCase(t, text)
		c.env.dirs["context"], c.env.dirs["dockerfile"] = tt.files, tt.files
		_, err := New().Translate(t.Context(), c.req, c.env)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
