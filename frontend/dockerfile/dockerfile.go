// Package dockerfile is the frontend for Dockerfiles: it turns one into a graph of vertices and an image configuration,
// as BuildKit's own Dockerfile frontend does, through BuildKit's parser.
//
// It works in five passes, each with a type that is its product:
//
//	text    → document    parse.go     what is written: stages, instructions, directives
//	        → plan        bind.go      stages with names bound: bases, sources of COPY and mounts, the target
//	        → origins     resolve.go   the bases that are needed, pinned, with their configurations and ONBUILD triggers
//	        → steps       expand.go    each stage's instructions with all arguments expanded: configuration, history, steps
//	        → vertices    graph.go     contexts pinned to what the steps read, and the graph
//
// Nothing is asked of the Env before the pass that needs it, and what a pass asks it asks in parallel, since a build in
// which nothing changed consists of little else. A translation lives as long as one call of Translate and belongs to
// one goroutine, except while it waits for the Env.
//
// DESIGN.md has the decisions.
package dockerfile

import (
	"context"
	"strconv"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile/ignore"
	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

type dockerfile struct{}

// New returns the frontend for Dockerfiles. It has no state.
func New() frontend.Frontend { return dockerfile{} }

// Translate implements frontend.Frontend.
func (dockerfile) Translate(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Output, error) {
	if off, err := strconv.ParseBool(req.BuildArgs["BUILDKIT_DISABLE_FILEOP"]); err == nil && off {
		return nil, &frontend.UsageError{Message: `support for "BUILDKIT_DISABLE_FILEOP" build-arg was removed in BuildKit 0.11`}
	}
	src, err := load(ctx, req, env)
	if err != nil {
		return nil, err
	}
	if err := src.followSyntax(req); err != nil {
		return nil, err
	}
	asked := req.Platforms
	if len(asked) == 0 {
		asked = []op.Platform{newTranslation(req, env, src).native}
	}
	multi, err := isMulti(req, len(asked))
	if err != nil {
		return nil, err
	}
	ts := make([]*translation, len(asked))
	out := &frontend.Output{File: src.name, Text: src.text, Images: make([]frontend.Image, len(asked)), Multi: multi}
	common := &shared{}
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range asked {
		t := newTranslation(req, env, src)
		t.shared, t.platform, t.multi, t.quiet = common, platforms.Normalize(p), multi, i > 0
		t.budget.left /= len(asked)
		ts[i] = t
		g.Go(func() error { return src.located(t.run(ctx)) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, t := range ts {
		out.Images[i] = *t.graph()
	}
	return out, nil
}

// newTranslation returns a translation that lacks only the platform.
func newTranslation(req *frontend.Request, env frontend.Env, src *source) *translation {
	native := platforms.Normalize(req.Default)
	if native.OS == "" {
		native = platforms.DefaultSpec()
	}
	return &translation{
		req: req, env: env, src: src, shared: &shared{}, contexts: namedContexts(req.Contexts), native: native,
		implicit: len(req.Platforms) == 0, budget: &budget{left: budgetBytes}, lintsLeft: maxLints, placesLeft: maxPlaces,
	}
}

// isMulti says whether names have to tell platforms apart: when there are several, or as the request says.
func isMulti(req *frontend.Request, platforms int) (bool, error) {
	v := req.BuildArgs["BUILDKIT_MULTI_PLATFORM"]
	if v == "" && req.Multi == nil {
		return platforms > 1, nil
	}
	b, err := req.Multi != nil && *req.Multi, error(nil)
	if v != "" {
		b, err = strconv.ParseBool(v)
	}
	switch {
	case err != nil:
		return false, &frontend.UsageError{Message: "invalid boolean value for multi-platform: " + v}
	case !b && platforms > 1:
		return false, &frontend.UsageError{Message: "conflicting config: returning multiple target platforms is not allowed"}
	}
	return b, nil
}

// A translation is one Dockerfile on its way to the graph for one platform.
type translation struct {
	req    *frontend.Request
	env    frontend.Env
	src    *source
	shared *shared

	native   op.Platform // of the daemon
	platform op.Platform // that the image is for
	implicit bool        // nobody asked for platform, so the base image's stays
	multi    bool        // other platforms are built too; names tell them apart
	quiet    bool        // warnings are another platform's to report
	all      bool        // stages that the target does not need are worked through as well
	// inspected says that nothing will be built.
	inspected bool
	findings  *[]report.Warning // takes what the checks find, instead of the Env

	doc     *document
	globals *vars                  // the scope of FROM
	defs    map[string]*definition // of the global arguments
	plan    plan
	context *tree           // the build context; nil if there is none
	out     *ignore.Matcher // see excluded
	epoch   epoch
	budget  *budget

	contexts  map[string]string // the named ones, by familiar name
	lintsLeft int               // comparisons that may still be made for warnings and their suggestions
	warned    int
	where     []parser.Range // of the last warning
	source    []solver.Range // the same
	// placesLeft is how many lines a report may still name one by one.
	placesLeft int
}

// run performs the passes up to the graph.
func (t *translation) run(ctx context.Context) error {
	if err := t.analyse(ctx); err != nil {
		return err
	}
	return t.pinTrees(ctx)
}

// analyse performs the passes that find all errors there are in the text.
func (t *translation) analyse(ctx context.Context) error {
	var err error
	if t.doc, err = parse(t.src, t.lintConfig); err != nil {
		return t.src.inText(err)
	}
	if err := t.bindGlobals(); err != nil {
		return t.src.inText(err)
	}
	if err := t.resolveEpoch(ctx); err != nil {
		return t.src.inText(err)
	}
	if err := t.bind(); err != nil {
		return t.src.inText(err)
	}
	needed, err := t.resolve(ctx)
	if err != nil {
		return err
	}
	t.warnUnused()
	if err := t.expand(ctx, needed); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return t.src.inText(err)
	}
	return t.src.inText(t.doc.lintError())
}
