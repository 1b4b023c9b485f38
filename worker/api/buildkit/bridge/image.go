package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/errdefs"
	opspb "github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/frontend"
	llbfrontend "github.com/boxbuild/boxbuild/frontend/llb"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// Labels of images that hold frontends.
const (
	labelNoNetwork = "moby.buildkit.frontend.network.none"
	labelCaps      = "moby.buildkit.frontend.caps"
)

// capInputs is the capability of a frontend to read inputs.
const capInputs = "moby.buildkit.frontend.inputs"

// Gateway returns the frontend gateway.v0: the program in the image that attrs name as their "source".
func (b *Bridge) Gateway(attrs map[string]string, inputs map[string]*opspb.Definition) (frontend.Frontend, error) {
	if _, old := attrs["gateway-devel"]; old {
		return nil, &frontend.UsageError{Message: "development gateway is no longer supported"}
	}
	source, ok := attrs["source"]
	if !ok {
		return nil, &frontend.UsageError{Message: "no source specified for gateway"}
	}
	if err := b.checkAllowed(source); err != nil {
		return nil, err
	}
	return &image{b: b, attrs: attrs, inputs: inputs}, nil
}

// checkAllowed refuses sources that are in none of the repositories which are allowed, if any are named.
func (b *Bridge) checkAllowed(source string) error {
	if b.opt.NoImages {
		return &frontend.UsageError{Message: "invalid frontend: " + gatewayV0 + ": the daemon's configuration does not allow it"}
	}
	if len(b.allowed) == 0 {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(source)
	if err != nil {
		return &frontend.UsageError{Message: fmt.Sprintf("invalid gateway source %q: %v", source, err)}
	}
	if !b.allowed[reference.TrimNamed(named).Name()] {
		return &frontend.UsageError{Message: fmt.Sprintf("'%s' is not an allowed gateway source", source)}
	}
	return nil
}

// An image is the frontend that is in an image.
type image struct {
	b      *Bridge
	attrs  map[string]string
	inputs map[string]*opspb.Definition
}

// A program is what is to be run of an image.
type program struct {
	name   string // as the user knows it
	root   *solver.Input
	config frontend.ImageConfig
}

// Translate implements frontend.Frontend: it runs the program, which directs the build until it has ended.
func (f *image) Translate(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Output, error) {
	ctx, err := f.b.deeper(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.b.checkAllowed(f.attrs["source"]); err != nil {
		return nil, err
	}
	p, err := f.load(ctx, req, env)
	if err != nil {
		return nil, err
	}
	if err := f.checkCaps(p); err != nil {
		return nil, err
	}
	return f.run(ctx, p, req, env)
}

// load finds the image: under its name, or what a named context says instead.
func (f *image) load(ctx context.Context, req *frontend.Request, env frontend.Env) (*program, error) {
	source := f.attrs["source"]
	p := &program{name: source}
	value, replaced := f.attrs["context:"+source]
	ref := source
	switch kind, rest, _ := strings.Cut(value, ":"); {
	case !replaced:
	case kind == "docker-image":
		ref = strings.TrimPrefix(rest, "//")
	case kind == "input":
		def, ok := f.inputs[rest]
		if !ok {
			return nil, &frontend.UsageError{Message: fmt.Sprintf("invalid input %s for %s", rest, source)}
		}
		var err error
		if p.root, err = llbfrontend.Load(ctx, def, env); err != nil {
			return nil, err
		}
		md := make(map[string][]byte)
		if raw := f.attrs[prefixMetadata+rest]; raw != "" {
			if err := json.Unmarshal([]byte(raw), &md); err != nil {
				return nil, &frontend.UsageError{Message: fmt.Sprintf("failed to parse input metadata %s: %v", raw, err)}
			}
		}
		if raw := md[keyConfig]; raw != nil {
			if err := json.Unmarshal(raw, &p.config); err != nil {
				return nil, &frontend.UsageError{Message: fmt.Sprintf("failed to parse image config for %s: %v", source, err)}
			}
		}
		return p, nil
	default:
		return nil, &frontend.UsageError{Message: fmt.Sprintf("unsupported context source %s for %s: a frontend is an image", kind, source)}
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, &frontend.UsageError{Message: fmt.Sprintf("invalid gateway source %q: %v", ref, err)}
	}
	return p, f.pull(ctx, p, reference.TagNameOnly(named), req, env)
}

// pull pins the image and reads its configuration.
func (f *image) pull(ctx context.Context, p *program, named reference.Named, req *frontend.Request, env frontend.Env) error {
	img := &op.Image{Ref: named.String(), Platform: f.b.opt.Platform}
	if d, ok := named.(reference.Digested); ok {
		var err error
		if img.Digest, err = frontend.ParseDigest(d.Digest().String()); err != nil {
			return err
		}
		img.Ref = reference.TagNameOnly(reference.TrimNamed(named)).String()
		if t, ok := named.(reference.Tagged); ok {
			img.Ref = reference.TrimNamed(named).String() + ":" + t.Tag()
		}
	}
	if req.Pull {
		img.Resolve = op.ResolveForcePull
	}
	name := schemeImage + named.String()
	return frontend.AskStep(ctx, env, "resolve image config for "+name, img, func(ctx context.Context) error {
		src, err := env.Pin(ctx, img)
		if err != nil {
			return err
		}
		pinned, ok := src.(*op.Image)
		if !ok {
			return fmt.Errorf("%s is not an image", name)
		}
		config, err := env.ImageConfig(ctx, pinned)
		if err != nil {
			return err
		}
		p.config = *config
		meta := solver.Meta{Name: sourceName(ctx, named, img, pinned, env), Internal: true}
		p.root = &solver.Input{Vertex: solver.NewVertex(pinned, nil, meta)}
		return nil
	})
}

// sourceName returns what the step is called that makes the program's root: by the digest, too, that the name stood for.
func sourceName(ctx context.Context, named reference.Named, img, pinned *op.Image, env frontend.Env) string {
	name := schemeImage + named.String()
	if _, ok := named.(reference.Digested); ok {
		return name
	}
	d := pinned.Digest
	if r, ok := env.(frontend.Resolver); ok { // the digest of the index, where there is one
		if m, err := r.ResolveImage(ctx, img); err == nil && m.Digest != "" {
			d = m.Digest
		}
	}
	if d == "" {
		return name
	}
	return name + "@" + d.String()
}

// checkCaps refuses a program that does not have what is asked of it, as far as it says so.
func (f *image) checkCaps(p *program) error {
	has := capsOf(p.config.Config.Labels[labelCaps])
	want := capsOf(f.attrs["frontend.caps"])
	if len(f.inputs) > 0 {
		want[capInputs] = true
	}
	for _, c := range slices.Sorted(maps.Keys(want)) {
		if !has[c] {
			return errdefs.NewUnsupportedFrontendCapError(c)
		}
	}
	return nil
}

func capsOf(list string) map[string]bool {
	out := make(map[string]bool)
	for c := range strings.SplitSeq(list, ",") {
		if name, _, _ := strings.Cut(c, "+"); name != "" {
			out[name] = true
		}
	}
	return out
}

// run runs the program to its end. An error that it has returned goes before how it has ended, and that before a result.
func (f *image) run(ctx context.Context, p *program, req *frontend.Request, env frontend.Env) (*frontend.Output, error) {
	containers, ok := env.(frontend.Containers)
	if !ok {
		return nil, lacks("run frontends")
	}
	c := f.b.converse(ctx, req, env)
	c.inputs = f.inputs
	defer c.end()
	spec, err := f.container(p)
	if err != nil {
		return nil, err
	}
	ctr, err := containers.NewContainer(c.ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("preparing the frontend %s: %w", p.name, err)
	}
	defer ctr.Close()
	process, err := f.process(c, p)
	if err != nil {
		return nil, err
	}
	said := &tail{}
	err = logged(ctx, env, "frontend "+p.name, func(ctx context.Context, log io.Writer) error {
		end := serveStdio(c, process)
		defer end()
		process.Stderr = io.MultiWriter(said, log)
		running, err := ctr.Start(ctx, process)
		if err != nil {
			return fmt.Errorf("starting the frontend %s: %w", p.name, err)
		}
		code, err := running.Wait(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if code == 0 && err == nil {
			return nil
		}
		if returned := c.failure(); returned != nil {
			return returned
		}
		return said.explain(p.name, code, err)
	})
	if err != nil {
		return nil, err
	}
	return c.output()
}

// failure is the error that was returned, if one was.
func (c *conversation) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// container describes the sandbox of the program.
func (f *image) container(p *program) (*frontend.ContainerSpec, error) {
	spec := &frontend.ContainerSpec{Platform: f.b.opt.Platform}
	if none, _ := strconv.ParseBool(p.config.Config.Labels[labelNoNetwork]); none {
		spec.Network = op.NetworkNone
	}
	spec.Mounts = []frontend.ContainerMount{{ExecMount: op.ExecMount{Dest: "/"}, In: p.root}}
	def, err := llb.Encode(p.root, llb.Options{})
	if err != nil {
		return nil, fmt.Errorf("describing the frontend %s: %w", p.name, err)
	}
	raw, err := marshal(def)
	if err != nil {
		return nil, err
	}
	write := &op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: op.NoInput, Mkfile: &op.Mkfile{Path: "/frontend.bin", Mode: 0o400, Data: raw},
	}}}
	meta := solver.Meta{Name: "[internal] describe the frontend " + p.name, Internal: true, Hidden: true}
	spec.Mounts = append(spec.Mounts, frontend.ContainerMount{
		ExecMount: op.ExecMount{Dest: "/run/config/buildkit/metadata", ReadOnly: true},
		In:        &solver.Input{Vertex: solver.NewVertex(write, nil, meta)},
	})
	return spec, nil
}

// process describes the program's process, with what it is told in its environment. It is root's, whoever the image's user
// is, as with BuildKit.
func (f *image) process(c *conversation, p *program) (*frontend.ProcessSpec, error) {
	cfg := &p.config.Config
	s := &frontend.ProcessSpec{Args: cfg.Entrypoint, Env: slices.Clone(cfg.Env), Cwd: cfg.WorkingDir}
	if len(s.Args) == 0 {
		s.Args = []string{"/run"}
	}
	if s.Cwd == "" {
		s.Cwd = "/"
	}
	for i, k := range slices.Sorted(maps.Keys(f.attrs)) {
		s.Env = append(s.Env, fmt.Sprintf("BUILDKIT_FRONTEND_OPT_%d=%s=%s", i, k, f.attrs[k]))
	}
	workers, err := c.workerInfos()
	if err != nil {
		return nil, err
	}
	s.Env = append(s.Env, "BUILDKIT_SESSION_ID="+c.req.Session, "BUILDKIT_WORKERS="+workers, "BUILDKIT_EXPORTEDPRODUCT=boxbuild")
	return s, nil
}

// A workerInfo is a worker as frontends read it from their environment.
type workerInfo struct {
	ID        string
	Labels    map[string]string
	Platforms []op.Platform
}

func (c *conversation) workerInfos() (string, error) {
	infos := []workerInfo{}
	if c.b.opt.Workers != nil {
		for _, w := range c.b.opt.Workers(c.ctx) {
			info := workerInfo{ID: w.GetID(), Labels: w.GetLabels()}
			for _, p := range w.GetPlatforms() {
				info.Platforms = append(info.Platforms, platformOf(p))
			}
			infos = append(infos, info)
		}
	}
	raw, err := json.Marshal(infos)
	if err != nil {
		return "", fmt.Errorf("describing the workers: %w", err)
	}
	return string(raw), nil
}

// logged runs fn as a step that has output, if env has such steps.
func logged(ctx context.Context, env frontend.Env, name string, fn func(ctx context.Context, log io.Writer) error) error {
	if l, ok := env.(frontend.Logger); ok {
		return l.LoggedStep(ctx, name, fn)
	}
	return env.Step(ctx, name, func(ctx context.Context) error { return fn(ctx, io.Discard) })
}

// errClosed is what a frontend gets that goes on when its conversation is over.
var errClosed = errors.New("the conversation is over")
