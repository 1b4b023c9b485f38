// Package builder performs one build from request to result: it pins the sources, has a frontend translate, has the
// solver solve, and puts what came out where the request wants it.
//
// A build holds a lease from its first look at the store until its last write, so that nothing it has seen is collected
// under it. Its events come from several places (the solver, the translation, the export) and leave through one emitter,
// in order.
package builder

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/solver/session"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/images"
	"github.com/boxbuild/boxbuild/worker/transfer"
)

// Images are what a build asks about images that it starts from.
type Images interface {
	// Resolve pins img, as img.Resolve says: from the store or from the registry.
	Resolve(ctx context.Context, img *op.Image) (*op.Image, error)
	// Config returns the configuration of a pinned image, as it is stored.
	Config(ctx context.Context, img *op.Image) ([]byte, error)
}

// Deps are what a Builder works with.
type Deps struct {
	Solver    *solver.Solver
	Runner    *run.Runner
	Frontend  frontend.Frontend
	Images    Images
	Store     *image.Store
	Snapshots snapshot.Snapshotter
	Layers    *images.Layers
	Leases    *lease.Manager
	Transfer  *transfer.Service
	Platform  op.Platform
	// Entitlements are what builds may be granted: see frontend.ParseGrants.
	Entitlements []string
	// Devices are those that builds can name; nil for none.
	Devices executor.Devices
}

// A Builder performs builds. It is safe for concurrent use.
type Builder struct{ deps Deps }

var _ worker.Builder = (*Builder)(nil)

// New returns a Builder.
func New(deps Deps) *Builder { return &Builder{deps: deps} }

// Build implements worker.Builder.
func (b *Builder) Build(ctx context.Context, req *worker.BuildRequest, events func(solver.Event)) (*worker.BuildResult, error) {
	id := req.ID
	if id == "" {
		id = strings.ToLower(rand.Text())
	}
	outputs, err := b.plan(req)
	if err != nil {
		return nil, err
	}
	l := b.deps.Leases.Acquire("build " + id)
	defer b.release(ctx, l)
	ctx = lease.With(ctx, l)
	if req.Keychain != nil {
		ctx = registry.WithKeychain(ctx, req.Keychain)
	}
	if req.Session != nil {
		ctx = session.With(ctx, req.Session)
	}
	em := &emitter{sink: events, id: id, file: cmp.Or(req.Frontend.Filename, "Dockerfile")}
	env := &env{b: b, id: id, req: req, em: em}
	defer env.close()
	ctx = run.WithHost(ctx, env)

	fr := req.Frontend
	grants, err := b.grants(fr.Entitlements)
	if err != nil {
		return nil, err
	}
	env.grants = grants
	if fr.Default.OS == "" {
		fr.Default = b.deps.Platform
	}
	use := b.deps.Frontend
	if req.Use != nil {
		use = req.Use
	}
	if req.Call != frontend.Build {
		doc, err := frontend.Inspect(ctx, use, req.Call, &fr, env)
		if err != nil {
			return nil, err
		}
		return &worker.BuildResult{Report: doc}, nil
	}
	em.remark(stepReading, req.Warnings)
	out, err := use.Translate(ctx, &fr, env)
	if err != nil {
		return nil, err
	}
	if hasResult(out) {
		em.remark(stepMissing, req.Missing)
		em.remark(stepPlatforms, otherPlatforms(req.Platforms, out))
	}
	if err := b.admitOutput(out, grants); err != nil {
		return nil, located(err, out)
	}
	env.settle(out)
	if err := b.empty(out.Targets()); err != nil {
		return nil, err
	}
	if outputs, err = b.more(ctx, req, out, outputs, em); err != nil {
		return nil, err
	}
	if err := nameAsSaid(outputs, out); err != nil {
		return nil, err
	}
	if err := annotateAsSaid(outputs, out); err != nil {
		return nil, err
	}
	stores := slices.ContainsFunc(outputs, func(p plan) bool { return p.Type == worker.OutputImage })
	made, err := b.solve(ctx, id, out, em, stores)
	if err != nil {
		return nil, located(err, out)
	}
	return b.export(ctx, &result{images: made, multi: out.Multi, em: em, said: out.Metadata}, outputs)
}

// release ends the lease of a build, and removes what was kept for nothing but builds. What cannot be removed is garbage
// like other, and no failure of the build's.
func (b *Builder) release(ctx context.Context, l *lease.Lease) {
	l.Release()
	_ = b.deps.Leases.Sweep(context.WithoutCancel(ctx))
}

// solve finds the root file systems of the images and assembles these. If they are to be stored, what was made is written
// to the disk meanwhile: both need a third of a second for a layer of 100 MB.
func (b *Builder) solve(ctx context.Context, id string, out *frontend.Output, em *emitter, stores bool) ([]*built, error) {
	results, err := b.deps.Solver.Solve(ctx, &solver.Build{ID: id, Targets: out.Targets(), Events: em.emit})
	if err != nil {
		return nil, em.blamed(err)
	}
	made := make([]*built, len(out.Images))
	g, gctx := errgroup.WithContext(ctx)
	for i := range out.Images {
		img := &out.Images[i]
		root := solver.Result("scratch")
		if img.Root != nil {
			root, results = results[0], results[1:]
		}
		g.Go(func() error {
			top, err := b.deps.Runner.Materialize(gctx, root)
			if err != nil {
				return fmt.Errorf("reading the build's result: %w", err)
			}
			if stores {
				g.Go(func() error { return b.syncAhead(gctx, top) })
			}
			made[i], err = b.assemble(gctx, img, top, em)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return made, nil
}

// syncAhead has the snapshots written to the disk that an image depends on whose top is new, so that storeImages finds it
// done. It may do less than that needs, as for images that were built before, but an error is one of storeImages' too:
// the kernel reports it once only.
func (b *Builder) syncAhead(ctx context.Context, top snapshot.ID) error {
	if _, known := b.deps.Layers.DiffIDs.Known(top); known {
		return nil
	}
	return b.deps.Layers.Sync(ctx)
}

// located says of a failed step where in the user's file it comes from.
func located(err error, out *frontend.Output) error {
	var v *solver.VertexError
	if !errors.As(err, &v) || v.Vertex == nil || len(v.Vertex.Meta().Source) == 0 || isCanceled(err) {
		return err
	}
	var src *frontend.SourceError
	if errors.As(err, &src) {
		return err
	}
	m := v.Vertex.Meta()
	file, text := out.File, out.Text
	if m.Text != nil { // a graph of several files
		file, text = m.File, m.Text
	}
	return &frontend.SourceError{File: file, Text: text, Ranges: m.Source, Err: v}
}
