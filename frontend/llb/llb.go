// Package llb takes LLB definitions for what a user writes: a frontend for clients that have made their graph themselves.
//
// A definition comes from outside, so nothing in it is believed that a build's own pins are: see distrust. All of its
// sources are pinned at once; what fails names the lines of the user's file, if the definition has them.
package llb

import (
	"context"
	"errors"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// defaultPath is the PATH of an image that nobody has configured.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxPins bounds how many sources of a definition are pinned at the same time.
const maxPins = 32

// An Image is a definition for one platform.
type Image struct {
	Definition *pb.Definition // nil or empty for the empty tree
	Platform   op.Platform    // the daemon's if it is zero
	// Config is the image's configuration as the client wrote it; nil for the one that BuildKit gives an image without.
	Config []byte
}

// A Frontend translates definitions. It is safe for concurrent use.
type Frontend struct {
	images []Image
	multi  bool
}

var _ frontend.Frontend = (*Frontend)(nil)

// New returns a frontend for one definition.
func New(def *pb.Definition) *Frontend { return &Frontend{images: []Image{{Definition: def}}} }

// NewIndex returns a frontend for an index of images.
func NewIndex(images ...Image) *Frontend { return &Frontend{images: images, multi: true} }

// Translate implements frontend.Frontend. Of the request only the platform of the daemon counts.
func (f *Frontend) Translate(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Output, error) {
	out := &frontend.Output{Multi: f.multi, Images: make([]frontend.Image, len(f.images))}
	g, gctx := errgroup.WithContext(ctx)
	for i := range f.images {
		g.Go(func() error {
			img := &f.images[i]
			root, err := Load(gctx, img.Definition, env)
			if err != nil {
				return err
			}
			p := img.Platform
			if p.OS == "" {
				p = req.Default
			}
			p = platforms.Normalize(p)
			out.Images[i] = frontend.Image{Platform: p, Root: root, Config: DefaultConfig(p), Raw: img.Config}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range out.Images {
		if root := out.Images[i].Root; root != nil && out.File == "" {
			m := root.Vertex.Meta()
			out.File, out.Text = m.File, m.Text
		}
	}
	return out, nil
}

// DefaultConfig returns the configuration that BuildKit gives an image of which only the tree is known.
func DefaultConfig(p op.Platform) frontend.ImageConfig {
	var c frontend.ImageConfig
	c.Platform = p
	c.RootFS.Type = "layers"
	c.Config.WorkingDir = "/"
	if p.OS != "windows" {
		c.Config.Env = []string{"PATH=" + defaultPath}
	}
	return c
}

// Load decodes a definition, pins its sources and returns its root; nil for the empty tree. An error in an operation or a
// source is a *frontend.SourceError, if the definition says where it comes from; a *llb.CapError is inside where the
// definition asks for more than boxbuild has.
func Load(ctx context.Context, def *pb.Definition, env frontend.Env) (*solver.Input, error) {
	g, err := llb.Decode(def)
	if err != nil {
		var bad *llb.OpError
		if errors.As(err, &bad) {
			return nil, located(&bad.At, err)
		}
		return nil, err
	}
	if g.Root == nil {
		return nil, nil
	}
	return Pin(ctx, g.Root, env)
}

// Pin pins the sources of a graph that was decoded from outside, and returns its root.
func Pin(ctx context.Context, root *solver.Input, env frontend.Env) (*solver.Input, error) {
	sources := llb.Claims(*root)
	asked := make(map[string]int, len(sources)) // equal sources are one question
	var questions []*solver.Vertex
	for _, v := range sources {
		if k := question(v); asked[k] == 0 {
			questions = append(questions, v)
			asked[k] = len(questions)
		}
	}
	pinned := make([]op.Source, len(questions))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxPins)
	for i, v := range questions {
		g.Go(func() (err error) {
			src, ok := v.Op().(op.Source)
			if !ok {
				panic("llb: a source that is none")
			}
			pinned[i], err = pin(gctx, v, distrust(src), env)
			m := v.Meta()
			return located(&m, err)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	with := make(map[*solver.Vertex]solver.Op, len(sources))
	for _, v := range sources {
		with[v] = pinned[asked[question(v)]-1]
	}
	return &llb.Replace([]solver.Input{*root}, with)[0], nil
}

// question names what is asked when the source of v is pinned: all that the definition says of it.
func question(v *solver.Vertex) string { return string(llb.Digest(v)) }

// pin pins a source, as a step that is shown as its vertex: the client knows no other. What is fetched by it later is shown
// there too.
func pin(ctx context.Context, v *solver.Vertex, src op.Source, env frontend.Env) (pinned op.Source, err error) {
	part := ""
	switch s := src.(type) {
	case *op.Blob:
		return env.Pin(ctx, src)
	case *op.Image:
		if s.Digest != "" { // there is nothing to find out
			return env.Pin(ctx, src)
		}
		part = "resolve " + s.Ref
	}
	fn := func(ctx context.Context) (err error) {
		pinned, err = env.Pin(ctx, src)
		return err
	}
	known, decoded := llb.Decoded(v)
	if e, ok := env.(frontend.SourceStepper); ok && decoded {
		if err = e.SourceStep(ctx, v, known, part, fn); err != nil && ctx.Err() == nil {
			err = &solver.VertexError{Vertex: v, Err: err} // the client finds what failed by it
		}
	} else {
		err = env.Step(ctx, v.Name(), fn)
	}
	return pinned, err
}

// distrust takes back what a definition claims that its source was pinned to, where to believe it would do harm. The root
// of a directory names a tree of whoever sent it: anybody who knows it could read that. A commit or a digest names what
// it is the hash of; but that it was signed is found out when it is pinned.
func distrust(src op.Source) op.Source {
	switch s := src.(type) {
	case *op.Local:
		if s.Root != "" {
			c := *s
			c.Root = ""
			return &c
		}
	case *op.Git:
		if s.Commit != "" && s.Signature != nil {
			c := *s
			c.Checksum, c.FetchByCommit, c.Commit = s.Commit, true, ""
			return &c
		}
	case *op.HTTP:
		if s.Digest != "" && s.Signature != nil {
			c := *s
			if c.Checksum == "" {
				c.Checksum = s.Digest
			}
			c.Digest, c.Name = "", ""
			return &c
		}
	}
	return src
}

// located says where in the user's file an error comes from.
func located(m *solver.Meta, err error) error {
	var have *frontend.SourceError
	if err == nil || len(m.Source) == 0 || errors.As(err, &have) || errors.Is(err, context.Canceled) {
		return err
	}
	return &frontend.SourceError{File: m.File, Text: m.Text, Ranges: m.Source, Err: err}
}
