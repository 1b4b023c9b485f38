package buildkit

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/llb"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/attrs"
)

// The frontends that a request may name.
const (
	frontDockerfile = "dockerfile.v0"
	frontGateway    = "gateway.v0"
)

// translation says in req what is to be built, and how that is to be translated.
func (b *build) translation(req *worker.BuildRequest) (err error) {
	in := b.in
	req.Frontend.Session = in.GetSession()
	name, opts := in.GetFrontend(), in.GetFrontendAttrs()
	if name == frontGateway && opts["source"] == frontDockerfile && !hasNamed(opts, frontDockerfile) {
		// The Dockerfile frontend by the name that an image would have.
		opts = maps.Clone(opts)
		delete(opts, "source")
		name = frontDockerfile
	}
	defined := len(in.GetDefinition().GetDef()) > 0
	switch {
	case defined && name != "":
		return &frontend.UsageError{Message: "cannot solve with both Definition and Frontend specified"}
	case defined:
		req.Use = llb.New(in.GetDefinition())
		return nil
	case name == "" && in.GetDefinition() != nil:
		req.Use = nothing{} // a definition of nothing is one
		return nil
	case name == "":
		return b.direct(req)
	case name == frontGateway:
		if b.server.opt.Gateway == nil {
			return &frontend.UsageError{Message: "invalid frontend: " + name}
		}
		req.Use, err = b.server.opt.Gateway(opts, in.GetFrontendInputs())
		return err
	case name == frontDockerfile:
		parsed, err := attrs.Parse(opts)
		if err != nil {
			return err
		}
		if parsed.Describe {
			// The list of calls is metadata of a result that only those get who direct the build themselves.
			req.Use, req.Outputs = nothing{}, []worker.Output{{Type: worker.OutputNone}}
			return nil
		}
		req.Frontend, req.Call = parsed.Request, parsed.Call
		req.Warnings = append(req.Warnings, parsed.Warnings...)
		req.Frontend.Attrs, req.Frontend.Session = opts, in.GetSession()
		if len(in.GetFrontendInputs()) > 0 {
			req.Use = b.server.opt.Inputs(in.GetFrontendInputs())
		}
		return nil
	}
	return &frontend.UsageError{Message: fmt.Sprintf("invalid frontend: %s", name)}
}

// nothing is the frontend of a request that builds nothing: an image without files, if an output wants one.
type nothing struct{}

// Translate implements frontend.Frontend.
func (nothing) Translate(_ context.Context, req *frontend.Request, _ frontend.Env) (*frontend.Output, error) {
	return &frontend.Output{Images: []frontend.Image{{Platform: req.Default, Config: llb.DefaultConfig(req.Default)}}}, nil
}

// direct lets the client direct the build.
func (b *build) direct(req *worker.BuildRequest) (err error) {
	if b.server.opt.Direct == nil {
		return &frontend.UsageError{Message: "the request has neither a frontend nor a definition"}
	}
	var returned func(context.Context, map[string][]byte, []string)
	if req.More != nil {
		returned = b.choose
	}
	use, done, err := b.server.opt.Direct(b.in.GetRef(), b.in.GetFrontendInputs(), returned)
	if err != nil {
		return err
	}
	req.Use = use
	b.done = append(b.done, done)
	return nil
}

// hasNamed says whether attributes have a context of that name, for one platform or for all.
func hasNamed(opts map[string]string, name string) bool {
	for k := range opts {
		if k == "context:"+name || strings.HasPrefix(k, "context:"+name+"::") {
			return true
		}
	}
	return false
}
