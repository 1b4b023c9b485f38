package buildkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// Solve implements the service: one build, from the request to the answer.
func (s *Server) Solve(ctx context.Context, in *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	resp := &controlapi.SolveResponse{}
	err := s.perform(ctx, "Solve", func(ctx context.Context) (err error) {
		resp.ExporterResponse, err = s.solve(ctx, in)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (s *Server) solve(ctx context.Context, in *controlapi.SolveRequest) (map[string]string, error) {
	modernise(in)
	byID := unmoby(in)
	if in.GetRef() == "" { // the words are those of BuildKit's database
		return nil, status.Error(codes.Internal, "key required")
	}
	if !s.claim(in.GetRef()) {
		return nil, fmt.Errorf("job ID %s exists", in.GetRef())
	}
	defer s.unclaim(in.GetRef())
	b := &build{server: s, in: in}
	req, err := b.request(ctx)
	if err != nil {
		// It is a build all the same, which fails at once: the history has it, and who watches it is not kept waiting.
		req = b.blank()
		req.Use, req.Outputs = refusal{err}, []worker.Output{{Type: worker.OutputNone}}
	}
	if b.sess != nil {
		var unbind func()
		ctx, unbind = b.sess.bind(ctx)
		defer unbind()
	}
	defer b.close()
	res, err := s.opt.Builder.Build(ctx, req, func(solver.Event) {}) // who wants to know watches
	if errors.Is(err, worker.ErrRunning) || errors.Is(err, worker.ErrRecorded) {
		return nil, fmt.Errorf("job ID %s exists", in.GetRef())
	}
	if err != nil {
		return nil, because(ctx, err)
	}
	answer := b.answer(res)
	if id := answer["containerimage.config.digest"]; byID && id != "" {
		answer["containerimage.digest"] = id
	}
	if b.sess != nil && in.GetEnableSessionExporter() {
		sess, err := b.sess.get(ctx)
		if err != nil {
			return nil, err
		}
		if err := sess.FinalizeExport(ctx, answer); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// because returns why a build was cancelled, if that is why it failed: a session that is lost says more than that ctx has
// ended.
func because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || !errors.Is(err, context.Canceled) || errors.Is(err, cause) {
		return err
	}
	var lost *bksession.LostError
	if errors.As(cause, &lost) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// modernise moves what old clients put elsewhere to where it is today.
func modernise(in *controlapi.SolveRequest) {
	if in.Cache == nil {
		in.Cache = &controlapi.CacheOptions{}
	}
	c := in.Cache
	if ref := c.GetExportRefDeprecated(); ref != "" {
		attrs := map[string]string{}
		for k, v := range c.GetExportAttrsDeprecated() {
			attrs[k] = v
		}
		attrs["ref"] = ref
		c.Exports = append(c.Exports, &controlapi.CacheOptionsEntry{Type: "registry", Attrs: attrs})
	}
	for _, ref := range c.GetImportRefsDeprecated() {
		c.Imports = append(c.Imports, &controlapi.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	c.ExportRefDeprecated, c.ExportAttrsDeprecated, c.ImportRefsDeprecated = "", nil, nil
	if len(in.GetExporters()) == 0 && in.GetExporterDeprecated() != "" {
		in.Exporters = []*controlapi.Exporter{{Type: in.GetExporterDeprecated(), Attrs: in.GetExporterAttrsDeprecated()}}
	}
	in.ExporterDeprecated, in.ExporterAttrsDeprecated = "", nil
}

// typeMoby is what docker's clients call an output into the daemon's own images.
const typeMoby = "moby"

// unmoby gives such outputs the name that they have here, and says whether there is one: its image is then told of by its
// ID, by which docker runs it, where it is not pushed.
func unmoby(in *controlapi.SolveRequest) (found bool) {
	for _, e := range in.GetExporters() {
		if e.GetType() != typeMoby {
			continue
		}
		e.Type = string(worker.OutputImage)
		delete(e.GetAttrs(), "prefer-image-digest")
		found = found || e.GetAttrs()["push"] != "true"
	}
	return found
}

// A build is one Solve call.
type build struct {
	server *Server
	in     *controlapi.SolveRequest
	sess   *lateSession           // nil if the request names none
	chosen []*controlapi.Exporter // by the client, when it knew what was made
	choice *choice                // that it has made already; nil before
	done   []func()
}

func (b *build) close() {
	for _, f := range b.done {
		f()
	}
}

// blank is a request that says only whose it is.
func (b *build) blank() *worker.BuildRequest {
	in := b.in
	req := &worker.BuildRequest{
		ID: in.GetRef(), Internal: in.GetInternal(),
		AskRegistries: true,
		Origin:        worker.Origin{Frontend: in.GetFrontend(), Attrs: in.GetFrontendAttrs()},
	}
	for _, e := range in.GetExporters() {
		req.Origin.Outputs = append(req.Origin.Outputs, worker.OriginOutput{Type: e.GetType(), Attrs: e.GetAttrs()})
	}
	return req
}

// A refusal is the frontend of a request that cannot be met.
type refusal struct{ err error }

// Translate implements frontend.Frontend.
func (r refusal) Translate(context.Context, *frontend.Request, frontend.Env) (*frontend.Output, error) {
	return nil, r.err
}

// request makes the request for the builder.
func (b *build) request(ctx context.Context) (_ *worker.BuildRequest, err error) {
	in := b.in
	if err := b.checkVersion(); err != nil {
		return nil, err
	}
	req := b.blank()
	b.newer(req)
	if in.GetSession() != "" {
		b.sess = late(in.GetSession(), b.server.opt.Sessions)
		req.Sources = &sources{manager: b.server.opt.Sessions, own: b.sess}
		req.Keychain, req.Session = &lateKeychain{b.sess}, b.sess
	}
	if req.Policy, err = b.policy(ctx); err != nil {
		return nil, err
	}
	if req.Outputs, err = b.outputs(ctx, req); err != nil {
		return nil, err
	}
	if in.GetEnableSessionExporter() && b.sess != nil {
		req.More = b.more
	}
	if err := b.undone(req); err != nil {
		return nil, err
	}
	if err := b.translation(req); err != nil {
		return nil, err
	}
	req.Frontend.Default = b.server.platforms(ctx)[0]
	req.Frontend.Entitlements = in.GetEntitlements()
	if list, ok := in.GetFrontendAttrs()["platform"]; ok {
		req.Platforms = strings.Split(list, ",")
	} else {
		req.Platforms = []string{platforms.FormatAll(platforms.Normalize(req.Frontend.Default))}
	}
	return req, nil
}

// answer is what the client is told of the result: what the exporters say, as BuildKit's do.
func (b *build) answer(res *worker.BuildResult) map[string]string {
	images := false
	for _, e := range slices.Concat(b.in.GetExporters(), b.chosen) {
		switch worker.OutputType(e.GetType()) {
		case worker.OutputImage, worker.OutputOCI, worker.OutputDocker:
			images = true
		case worker.OutputLocal, worker.OutputTar, worker.OutputNone:
		}
	}
	out := map[string]string{}
	for k, v := range res.Metadata {
		if images || strings.HasPrefix(k, "frontend.") {
			out[k] = v
		}
	}
	if out[metaName] != "" && res.LastNamed != "" {
		out[metaName] = res.LastNamed
	}
	if name, ok := b.asGiven(out[metaName]); ok {
		out[metaName] = name
	}
	return out
}

// metaName is where an answer has the names of the image.
const metaName = "image.name"

// asGiven is the names of the image as the client wrote them, if its last output with any is one that BuildKit tells so of;
// of archives it tells full names, and where the frontend says the name it is that.
func (b *build) asGiven(full string) (string, bool) {
	for _, e := range slices.Backward(slices.Concat(b.in.GetExporters(), b.chosen)) {
		name := e.GetAttrs()["name"]
		if name == "" && e.GetAttrs()["dangling-name-prefix"] == "" {
			continue
		}
		if name == "" || name == "*" || worker.OutputType(e.GetType()) != worker.OutputImage || strings.Count(name, ",") != strings.Count(full, ",") {
			return "", false
		}
		return name, true
	}
	return "", false
}
