package buildkit

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/llb"
	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/policy"
)

// policy is what the request says of sources; nil if that is nothing.
func (b *build) policy(ctx context.Context) (worker.SourcePolicy, error) {
	in := b.in
	if in.GetSourcePolicy() == nil && in.GetSourcePolicySession() == "" {
		return nil, nil
	}
	var verifier grpc.ClientConnInterface
	if id := in.GetSourcePolicySession(); id != "" {
		sess, err := b.server.opt.Sessions.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		verifier = sess.Conn()
	}
	return policy.New(in.GetSourcePolicy(), verifier)
}

// A fed frontend gets trees that the client has made, as definitions, beside its request.
type fed struct {
	next     frontend.Frontend
	inputs   map[string]*pb.Definition
	metadata map[string]string // about inputs, by their names
}

var (
	_ frontend.Frontend  = (*fed)(nil)
	_ frontend.Inspector = (*fed)(nil)
)

// configKey is what the metadata of an input has its image's configuration under.
const configKey = "containerimage.config"

// feed returns the request with the trees in it.
func (f *fed) feed(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Request, error) {
	more := *req
	more.Inputs = make(map[string]frontend.Tree, len(f.inputs))
	for name, def := range f.inputs {
		root, err := llb.Load(ctx, def, env)
		if err != nil {
			return nil, fmt.Errorf("loading the input %s: %w", name, err)
		}
		more.Inputs[name] = frontend.Tree{Root: root}
	}
	for name, text := range f.metadata {
		t, ok := more.Inputs[name]
		if !ok {
			continue
		}
		var md map[string][]byte
		if err := json.Unmarshal([]byte(text), &md); err != nil {
			return nil, &frontend.UsageError{Message: fmt.Sprintf("failed to unmarshal input metadata for %s: %v", name, err)}
		}
		t.Config = md[configKey]
		more.Inputs[name] = t
	}
	return &more, nil
}

// Translate implements frontend.Frontend.
func (f *fed) Translate(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Output, error) {
	req, err := f.feed(ctx, req, env)
	if err != nil {
		return nil, err
	}
	return f.next.Translate(ctx, req, env)
}

// Check implements frontend.Inspector.
func (f *fed) Check(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Findings, error) {
	req, err := f.feed(ctx, req, env)
	if err != nil {
		return nil, err
	}
	return inspect[*report.Findings](ctx, f.next, frontend.Check, req, env)
}

// Outline implements frontend.Inspector.
func (f *fed) Outline(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Outline, error) {
	req, err := f.feed(ctx, req, env)
	if err != nil {
		return nil, err
	}
	return inspect[*report.Outline](ctx, f.next, frontend.Outline, req, env)
}

// Targets implements frontend.Inspector.
func (f *fed) Targets(ctx context.Context, req *frontend.Request, env frontend.Env) (*report.Targets, error) {
	req, err := f.feed(ctx, req, env)
	if err != nil {
		return nil, err
	}
	return inspect[*report.Targets](ctx, f.next, frontend.Targets, req, env)
}

// inspect is frontend.Inspect with a document of type D.
func inspect[D report.Document](ctx context.Context, f frontend.Frontend, call frontend.Call, req *frontend.Request, env frontend.Env) (D, error) {
	var none D
	doc, err := frontend.Inspect(ctx, f, call, req, env)
	if err != nil {
		return none, err
	}
	d, ok := doc.(D)
	if !ok {
		return none, fmt.Errorf("the frontend has answered with a %T", doc)
	}
	return d, nil
}
