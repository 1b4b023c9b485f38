package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	opspb "github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/frontend"
	llbfrontend "github.com/boxbuild/boxbuild/frontend/llb"
	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// Dockerfile returns the frontend for Dockerfiles: dockerfile.v0, with trees that whoever asks has made, and with the
// frontends in images that the Dockerfiles themselves ask for.
func (b *Bridge) Dockerfile(inputs map[string]*opspb.Definition) frontend.Frontend {
	return &dockerfile{b: b, inputs: inputs}
}

type dockerfile struct {
	b      *Bridge
	inputs map[string]*opspb.Definition
}

var _ frontend.Inspector = (*dockerfile)(nil)

// prefixMetadata begins the attributes that have the metadata of an input.
const prefixMetadata = "input-metadata:"

// request returns req with the inputs.
func (d *dockerfile) request(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Request, error) {
	if len(d.inputs) == 0 {
		return req, nil
	}
	out := *req
	out.Inputs = maps.Clone(req.Inputs)
	if out.Inputs == nil {
		out.Inputs = make(map[string]frontend.Tree)
	}
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		root, err := llbfrontend.Load(ctx, d.inputs[name], env)
		if err != nil {
			return nil, fmt.Errorf("reading the input %s: %w", name, err)
		}
		t := frontend.Tree{Root: root}
		if raw, ok := req.Attrs[prefixMetadata+name]; ok {
			md := make(map[string][]byte)
			if err := json.Unmarshal([]byte(raw), &md); err != nil {
				return nil, &frontend.UsageError{Message: fmt.Sprintf("failed to parse input metadata %s: %v", raw, err)}
			}
			t.Config = md[keyConfig]
		}
		out.Inputs[name] = t
	}
	return &out, nil
}

// Translate implements frontend.Frontend.
func (d *dockerfile) Translate(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Output, error) {
	full, err := d.request(ctx, req, env)
	if err != nil {
		return nil, err
	}
	out, err := d.b.opt.Dockerfile.Translate(ctx, full, env)
	var foreign *frontend.ForeignError
	if !errors.As(err, &foreign) {
		return out, err
	}
	return d.foreign(ctx, foreign, req, env, frontend.Build)
}

// foreign has the frontend in an image do what a Dockerfile asks for.
func (d *dockerfile) foreign(
	ctx context.Context, f *frontend.ForeignError, req *frontend.Request, env frontend.Env, call frontend.Call,
) (*frontend.Output, error) {
	attrs := format(req, call)
	attrs["source"], attrs["cmdline"] = f.Ref, f.Cmdline
	inputs := d.inputs
	if req.Text != nil {
		def, err := textDefinition(req)
		if err != nil {
			return nil, err
		}
		if inputs = maps.Clone(inputs); inputs == nil {
			inputs = make(map[string]*opspb.Definition)
		}
		inputs[localDockerfile] = def
	}
	out, err := (&image{b: d.b, attrs: attrs, inputs: inputs}).Translate(ctx, req, env)
	return out, askedFor(f, err)
}

// askedFor says of an error of a frontend where that was asked for, unless it has a place of its own.
func askedFor(f *frontend.ForeignError, err error) error {
	var at *frontend.SourceError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.As(err, &at):
		return err
	case errors.As(f.Err, &at):
		return &frontend.SourceError{File: at.File, Text: at.Text, Ranges: at.Ranges, Err: err}
	}
	return fmt.Errorf("failed with build-arg:BUILDKIT_SYNTAX = %s: %w", f.Cmdline, err)
}

// textDefinition is the tree with a Dockerfile that came without one.
func textDefinition(req *frontend.Request) (*opspb.Definition, error) {
	name := req.Filename
	if name == "" {
		name = "Dockerfile"
	}
	write := &op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: op.NoInput, Mkfile: &op.Mkfile{Path: "/" + name, Mode: 0o644, Data: req.Text},
	}}}
	return llb.Encode(&solver.Input{Vertex: solver.NewVertex(write, nil, solver.Meta{Internal: true})}, llb.Options{})
}

// answerAs has a question about a Dockerfile answered.
func answerAs[D any, P interface {
	*D
	report.Document
}](ctx context.Context, d *dockerfile, req *frontend.Request, env frontend.Env, call frontend.Call) (P, error) {
	full, err := d.request(ctx, req, env)
	if err != nil {
		return nil, err
	}
	doc, err := frontend.Inspect(ctx, d.b.opt.Dockerfile, call, full, env)
	var foreign *frontend.ForeignError
	if !errors.As(err, &foreign) {
		if err != nil {
			return nil, err
		}
		p, ok := doc.(P)
		if !ok {
			return nil, fmt.Errorf("the frontend answers with a %T", doc)
		}
		return p, nil
	}
	out, err := d.foreign(ctx, foreign, req, env, call)
	if err != nil {
		return nil, err
	}
	text, ok := out.Metadata[keyJSON]
	if !ok {
		return nil, &frontend.UsageError{Message: "the frontend " + foreign.Ref + " can only build"}
	}
	p := P(new(D))
	return p, report.Read(text, p)
}

// Check implements frontend.Inspector.
func (d *dockerfile) Check(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Findings, error) {
	return answerAs[report.Findings](ctx, d, req, env, frontend.Check)
}

// Outline implements frontend.Inspector.
func (d *dockerfile) Outline(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Outline, error) {
	return answerAs[report.Outline](ctx, d, req, env, frontend.Outline)
}

// Targets implements frontend.Inspector.
func (d *dockerfile) Targets(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Targets, error) {
	return answerAs[report.Targets](ctx, d, req, env, frontend.Targets)
}
