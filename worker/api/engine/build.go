package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/moby/api/types/build"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/attrs"
	"github.com/boxbuild/boxbuild/worker/gc"
)

// running are builds by the ID under which their clients may cancel them. The zero value is ready.
type running struct {
	mu  sync.Mutex // guards all
	all map[string]context.CancelCauseFunc
}

// errCanceled is the cause with which a client ends a build.
var errCanceled = errors.New("the build was cancelled")

// enter notes a build, under an ID unless that is empty. Its context ends when it is cancelled.
func (r *running) enter(ctx context.Context, id string) (_ context.Context, leave func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	if id == "" {
		return ctx, func() { cancel(nil) }, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all[id] != nil {
		cancel(nil)
		return nil, nil, fmt.Errorf("build %s: %w", id, worker.ErrRunning)
	}
	if r.all == nil {
		r.all = map[string]context.CancelCauseFunc{}
	}
	r.all[id] = cancel
	return ctx, func() {
		cancel(nil)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.all, id)
	}, nil
}

func (r *running) cancel(id string) {
	r.mu.Lock()
	cancel := r.all[id]
	r.mu.Unlock()
	if cancel != nil {
		cancel(errCanceled)
	}
}

// cancelBuild cancels a build. One that has ended is none, and that is no error.
func (s *Server) cancelBuild(_ context.Context, c *call) error {
	id := c.get("id")
	if id == "" {
		return worker.Invalidf("build ID not provided")
	}
	s.builds.cancel(id)
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// build is docker build with the builder of the API: from a tar that is the request's body, from a URL, or from a session
// that the client has opened.
func (s *Server) build(ctx context.Context, c *call) error {
	q, err := parseBuild(c)
	if err != nil {
		return err
	}
	ctx, leave, err := s.builds.enter(ctx, q.id)
	if err != nil {
		return err
	}
	defer leave()
	// The client may still send while it hears of the first steps.
	_ = http.NewResponseController(c.w).EnableFullDuplex() // HTTP/1.1 has it
	p := newProgress(c)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	box := newOutbox(newNarrator(p, q), cancel)
	defer box.close()
	var id string
	if q.session != "" {
		id, err = s.sessionBuild(ctx, q, box.event)
	} else {
		id, err = s.bodyBuild(ctx, c, q, box.event)
	}
	box.close()
	if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	if err != nil {
		return p.end(buildError(err))
	}
	box.narrator.done(id, q.tags, !c.before(30))
	return nil
}

// A commandError is the failure of a command in docker's words.
type commandError struct{ *executor.ExitError }

func (e *commandError) Error() string {
	return fmt.Sprintf("The command '%s' returned a non-zero code: %d", strings.Join(e.Args, " "), e.Exit.Code)
}

func (e *commandError) Unwrap() error { return e.ExitError }

// buildError is why a build has failed, as clients that show no more than a line have to know it.
func buildError(err error) error {
	if exit := (*executor.ExitError)(nil); errors.As(err, &exit) && exit.Exit.Signal == 0 {
		return &commandError{exit}
	}
	return err
}

// sessionBuild is a build for which the client has opened a session: one in BuildKit's words.
func (s *Server) sessionBuild(ctx context.Context, q *buildQuery, event func(solver.Event)) (string, error) {
	if s.opt.Solve == nil || s.opt.Watch == nil {
		return "", missing("this daemon builds nothing from sessions")
	}
	in := &controlapi.SolveRequest{
		Ref: strings.ToLower(rand.Text()), Session: q.session, Frontend: "dockerfile.v0", FrontendAttrs: q.attrs,
		Entitlements: q.entitlements, Cache: &controlapi.CacheOptions{},
	}
	for _, o := range q.outputs {
		in.Exporters = append(in.Exporters, &controlapi.Exporter{Type: imageType(o.Type), Attrs: named(o, q.tags)})
	}
	if len(q.outputs) == 0 {
		in.Exporters = []*controlapi.Exporter{{Type: "image", Attrs: named(buildOutput{Type: "image"}, q.tags)}}
	}
	watched := make(chan struct{})
	watch, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(watched)
		_ = s.opt.Watch(watch, in.Ref, watchWait, func(ev solver.Event) error { // the build itself says why it failed
			event(ev)
			return nil
		})
	}()
	res, err := s.opt.Solve(ctx, in)
	if err != nil {
		stop()
	}
	<-watched
	if err != nil {
		return "", err
	}
	return res.GetExporterResponse()["containerimage.config.digest"], nil
}

// imageType is the type of an output that docker calls by another name.
func imageType(t string) string {
	if t == "moby" || t == "" {
		return "image"
	}
	return t
}

// named are the attributes of an output, with the names for the image unless it has some.
func named(o buildOutput, tags []string) map[string]string {
	out := map[string]string{}
	for k, v := range o.Attrs {
		out[k] = v
	}
	switch imageType(o.Type) {
	case "image", "docker", "oci":
		if out["name"] == "" && len(tags) > 0 {
			out["name"] = strings.Join(tags, ",")
		}
	}
	return out
}

// bodyBuild is a build whose context is the request's body, or at a URL.
func (s *Server) bodyBuild(ctx context.Context, c *call, q *buildQuery, event func(solver.Event)) (string, error) {
	body := &upload{body: c.r.Body, id: strings.ToLower(rand.Text())}
	switch q.remote {
	case remoteSession:
		return "", worker.Invalidf("the build context is in a session, and the request names none")
	case "":
		q.attrs["context"] = "http://" + op.SessionHost + "/" + body.id
	}
	for _, o := range q.outputs {
		if imageType(o.Type) != "image" {
			return "", worker.Invalidf("an output of type %s needs a session", o.Type)
		}
	}
	parsed, err := attrs.Parse(q.attrs)
	if err != nil {
		return "", err
	}
	req := &worker.BuildRequest{
		Frontend: parsed.Request, Call: parsed.Call, Sources: body, Keychain: registryConfig(c), Tags: q.tags,
		Outputs: []worker.Output{{Type: worker.OutputImage}},
		Origin:  worker.Origin{Frontend: "dockerfile.v0", Attrs: q.attrs, Outputs: []worker.OriginOutput{{Type: "image"}}},
	}
	req.Frontend.Default, req.Frontend.Entitlements = s.opt.Platform, q.entitlements
	res, err := s.opt.Builder.Build(ctx, req, event)
	if err != nil || len(res.Images) == 0 {
		return "", err
	}
	return res.Images[0].ID.String(), nil
}

// An upload is the body of a request as the context of a build.
type upload struct {
	id   string
	body io.ReadCloser

	mu    sync.Mutex // guards taken
	taken bool
}

var _ worker.Uploads = (*upload)(nil)

// Directory implements worker.Sources: there are none.
func (u *upload) Directory(_ context.Context, name string) (filesync.Source, error) {
	return nil, &frontend.UsageError{Message: fmt.Sprintf("the client has no directory %q", name)}
}

// Upload implements worker.Uploads.
func (u *upload) Upload(_ context.Context, id string) (io.ReadCloser, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if id != u.id || u.taken {
		return nil, fmt.Errorf("there is no upload %s, or it has been read", id)
	}
	u.taken = true
	return u.body, nil
}

// pruneCache removes what the build cache has too much of.
func (s *Server) pruneCache(ctx context.Context, c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	rule := gc.Rule{All: c.is("all")}
	if rule.Filters, rule.KeepFor, err = cacheFilters(filters); err != nil {
		return err
	}
	sizes := map[string]*int64{"keep-storage": &rule.Reserved}
	if !c.before(48) {
		sizes["reserved-space"], sizes["max-used-space"], sizes["min-free-space"] = new(int64), &rule.MaxUsed, &rule.MinFree
	}
	for key, to := range sizes {
		if *to, err = c.number(key); err != nil {
			return worker.Invalidf("%s is in bytes and expects an integer, got %s", key, c.get(key))
		}
	}
	if r := sizes["reserved-space"]; r != nil && *r != 0 {
		rule.Reserved = *r
	}
	free := s.opt.FreeSpace
	if free == nil {
		free = func() (int64, error) { return 0, errors.ErrUnsupported }
	}
	out := build.CachePruneReport{CachesDeleted: []string{}}
	opt, wanted, err := rule.Prune(ctx, s.opt.Images, free)
	if err != nil {
		return err
	}
	if wanted {
		rep, err := s.opt.Images.Prune(ctx, opt)
		if err != nil {
			return err
		}
		out.CachesDeleted, out.SpaceReclaimed = append(out.CachesDeleted, rep.Cache...), uint64(max(rep.Freed, 0))
	}
	return c.send(http.StatusOK, out)
}
