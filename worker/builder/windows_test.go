package builder

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// TestCheckWindows checks which builds are refused for an image for Windows: those that do something with its files. The
// error is of the line that does.
func TestCheckWindows(t *testing.T) {
	linux := &op.Image{Ref: "docker.io/library/a:latest", Digest: digest.FromString("a"), Platform: op.Platform{OS: "linux"}}
	nano := &op.Image{Ref: "docker.io/library/nano:latest", Digest: digest.FromString("n"), Platform: op.Platform{OS: "windows"}}
	image := func(o *op.Image) *solver.Vertex { return solver.NewVertex(o, nil, solver.Meta{}) }
	onto := func(vs ...*solver.Vertex) *solver.Vertex {
		var in []solver.Input
		for _, v := range vs {
			in = append(in, solver.Input{Vertex: v})
		}
		return solver.NewVertex(&op.Merge{}, in, solver.Meta{Source: []solver.Range{{Start: 2, End: 2}}})
	}
	config := func(system string) *frontend.ImageConfig {
		c := &frontend.ImageConfig{}
		c.OS = system
		return c
	}
	for name, tt := range map[string]struct {
		root    *solver.Vertex
		base    *op.Image
		config  *frontend.ImageConfig
		refused string
	}{
		"nothing":                   {},
		"Linux":                     {root: onto(image(linux)), base: linux, config: config("linux")},
		"Windows from scratch":      {root: onto(onto())},
		"a configuration":           {root: image(nano), base: nano, config: config("windows")},
		"copied into":               {root: onto(onto(image(nano))), base: nano, config: config("windows"), refused: nano.Ref},
		"copied out of":             {root: onto(image(linux), image(nano)), base: linux, config: config("linux"), refused: nano.Ref},
		"not asked for as such":     {root: onto(image(linux)), base: linux, config: config("windows"), refused: linux.Ref},
		"only the base says so":     {root: onto(image(linux)), base: nano, config: config("windows")},
		"deep, and met another way": {root: onto(onto(onto(image(linux))), onto(image(nano))), base: linux, refused: nano.Ref},
	} {
		out := &frontend.Output{File: "Dockerfile", Text: []byte("a\nb\n"), Images: []frontend.Image{{Base: tt.base, BaseConfig: tt.config}}}
		if tt.root != nil {
			out.Images[0].Root = &solver.Input{Vertex: tt.root}
		}
		err := checkWindows(out)
		var src *frontend.SourceError
		switch {
		case tt.refused == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.refused != "" && (!errors.As(err, &src) || src.Ranges[0].Start != 2 || !strings.Contains(err.Error(), tt.refused)):
			t.Errorf("%s: got %v", name, err)
		}
	}
}
