package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	pb "github.com/moby/buildkit/frontend/gateway/pb"
	opspb "github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	llbfrontend "github.com/boxbuild/boxbuild/frontend/llb"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/attrs"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/policy"
)

// The frontends that a request can name.
const (
	dockerfileV0 = "dockerfile.v0"
	gatewayV0    = "gateway.v0"
)

// A result is what a solve came to: one ref or one by platform. A nil ref is the empty tree.
type result struct {
	refs     map[string]*ref // nil if there is one
	one      *ref
	metadata map[string][]byte
}

// all returns the refs that are not the empty tree.
func (r *result) all() []*ref {
	var out []*ref
	for _, k := range slices.Sorted(maps.Keys(r.refs)) {
		if r.refs[k] != nil {
			out = append(out, r.refs[k])
		}
	}
	if r.one != nil {
		out = append(out, r.one)
	}
	return out
}

// Solve turns a definition into a ref, or has a frontend make some. Nothing is made yet unless Evaluate is set.
func (c *conversation) Solve(ctx context.Context, in *pb.SolveRequest) (*pb.SolveResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.SolveResponse, error) {
		if err := c.checkSolve(in); err != nil {
			return nil, err
		}
		r, err := c.solve(ctx, in)
		if err != nil {
			return nil, err
		}
		if r.refs != nil && !in.GetAllowResultReturn() {
			return nil, errors.New("solve did not return default result")
		}
		if in.GetEvaluate() {
			g, gctx := errgroup.WithContext(ctx)
			for _, x := range r.all() {
				g.Go(func() error { return c.evaluate(gctx, x) })
			}
			if err := g.Wait(); err != nil {
				return nil, err
			}
		}
		return c.respond(in, r)
	})
}

func (c *conversation) checkSolve(in *pb.SolveRequest) error {
	if slices.Contains(in.GetCacheImports(), nil) {
		return status.Error(codes.InvalidArgument, "invalid nil cache import")
	}
	for _, e := range in.GetCacheImports() {
		c.env.Warn(solver.Warning{
			Short: fmt.Sprintf("no cache was imported from %s: this daemon uses its own cache only", attrs.CacheEntry{Type: e.GetType(), Attrs: e.GetAttrs()}),
		})
	}
	if slices.Contains(in.GetSourcePolicies(), nil) {
		return status.Error(codes.InvalidArgument, "invalid nil source policy")
	}
	if len(in.GetSourcePolicies()) > 0 && in.GetFrontend() != "" {
		c.env.Warn(solver.Warning{
			Short:  "the source policies of a solve by a frontend have no effect",
			Detail: []string{"They apply to a definition. Give them to the build, or to what the frontend solves."},
		})
	}
	return nil
}

// solve is Solve without the protocol around it.
func (c *conversation) solve(ctx context.Context, in *pb.SolveRequest) (*result, error) {
	defined := len(in.GetDefinition().GetDef()) > 0
	switch name := in.GetFrontend(); {
	case defined && name != "":
		return nil, errors.New("cannot solve with both Definition and Frontend specified")
	case defined:
		root, err := llbfrontend.Load(ruled(ctx, in.GetSourcePolicies(), policy.OwnFirst), in.GetDefinition(), c.env)
		if err != nil || root == nil {
			return &result{}, err
		}
		r := newRef(*root)
		r.def = in.GetDefinition()
		return &result{one: r}, nil
	case name == "":
		return &result{}, nil
	default:
		return c.ask(ctx, name, in.GetFrontendOpt(), in.GetFrontendInputs())
	}
}

// ask has a frontend make a result.
func (c *conversation) ask(ctx context.Context, name string, opts map[string]string, inputs map[string]*opspb.Definition) (*result, error) {
	ctx, err := c.b.deeper(withAsker(ctx, c))
	if err != nil {
		return nil, err
	}
	switch name {
	case gatewayV0:
		use, err := c.b.Gateway(opts, inputs)
		if err != nil {
			return nil, err
		}
		out, err := use.Translate(ctx, c.request(frontend.Request{}, opts), c.env)
		if err != nil {
			return nil, err
		}
		return ofOutput(out)
	case dockerfileV0:
		parsed, err := attrs.Parse(opts)
		if err != nil {
			return nil, err
		}
		req := c.request(parsed.Request, opts)
		use := c.b.Dockerfile(inputs)
		if parsed.Call != frontend.Build || parsed.Describe {
			return inspect(ctx, use, parsed, req, c.env)
		}
		for _, w := range parsed.Warnings {
			c.env.Warn(w)
		}
		out, err := use.Translate(ctx, req, c.env)
		if err != nil {
			return nil, err
		}
		c.remember(out)
		return ofOutput(out)
	}
	return nil, fmt.Errorf("invalid frontend: %s", name)
}

// request completes a request for a frontend with what is the build's.
func (c *conversation) request(req frontend.Request, opts map[string]string) *frontend.Request {
	req.Default, req.Entitlements, req.Session = c.req.Default, c.req.Entitlements, c.req.Session
	if req.Attrs == nil {
		req.Attrs = opts
	}
	_, req.Forwarded = opts["cmdline"]
	return &req
}

// respond makes the refs known and tells of them.
func (c *conversation) respond(in *pb.SolveRequest, r *result) (*pb.SolveResponse, error) {
	out := &pb.Result{Metadata: r.metadata}
	resp := &pb.SolveResponse{Result: out}
	array := in.GetAllowResultArrayRef()
	if r.refs == nil {
		one, err := c.tell(r.one)
		if err != nil {
			return nil, err
		}
		out.Result = &pb.Result_Ref{Ref: one}
		if !array {
			out.Result = &pb.Result_RefDeprecated{RefDeprecated: one.Id}
		}
		if !in.GetAllowResultReturn() {
			resp.Ref = one.Id
		}
		return resp, c.final(in, one.Id, r)
	}
	refs, ids := make(map[string]*pb.Ref), make(map[string]string)
	for k, x := range r.refs {
		told, err := c.tell(x)
		if err != nil {
			return nil, err
		}
		refs[k], ids[k] = told, told.Id
	}
	out.Result = &pb.Result_Refs{Refs: &pb.RefMap{Refs: refs}}
	if !array {
		out.Result = &pb.Result_RefsDeprecated{RefsDeprecated: &pb.RefMapDeprecated{Refs: ids}}
	}
	return resp, nil
}

// tell makes a ref known, with its definition, which may be put into others.
func (c *conversation) tell(r *ref) (*pb.Ref, error) {
	if r == nil {
		return &pb.Ref{}, nil
	}
	if r.def == nil {
		var err error
		in := r.in
		if r.def, err = llb.Encode(&in, llb.Options{Session: c.req.Session}); err != nil {
			return nil, err
		}
	}
	return &pb.Ref{Id: c.add(r), Def: r.def}, nil
}

// final is Return for clients from before there was such a call: the solve says that its result is the build's.
func (c *conversation) final(in *pb.SolveRequest, id string, r *result) error {
	if !in.GetFinal() {
		return nil
	}
	var given map[string][]byte
	if len(in.GetExporterAttr()) > 0 {
		if err := json.Unmarshal(in.GetExporterAttr(), &given); err != nil {
			return status.Errorf(codes.InvalidArgument, "reading the exporter's attributes: %v", err)
		}
	}
	md := make(map[string][]byte, len(given)+len(r.metadata))
	maps.Copy(md, given)
	maps.Copy(md, r.metadata)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.returned {
		c.result = &pb.Result{Metadata: md, Result: &pb.Result_RefDeprecated{RefDeprecated: id}}
	}
	return nil
}
