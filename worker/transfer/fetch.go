package transfer

import (
	"context"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver"
)

// A fetcher downloads the layers of one pull, all at once. What it has started ends with stop.
type fetcher struct {
	ctx    context.Context //nolint:containedctx // the pull's: a download lives as long as that, not as a call
	s      *Service
	repo   registry.Repo
	status *reporter

	mu   sync.Mutex // guards over, and that nothing starts after it
	over bool
	wg   sync.WaitGroup
}

// A layerFetch is the download of one layer.
type layerFetch struct {
	f    *fetcher
	desc ocispec.Descriptor
	once sync.Once
	done chan struct{}
	err  error // once done is closed
}

func (f *fetcher) layer(desc ocispec.Descriptor) *layerFetch {
	return &layerFetch{f: f, desc: desc, done: make(chan struct{})}
}

// start begins the download, if nobody has. It reports false if the pull has ended.
func (l *layerFetch) start() bool {
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false
	}
	l.once.Do(func() {
		f.wg.Go(func() {
			defer close(l.done)
			l.err = f.s.download(f.ctx, f.repo, l.desc, f.status.report)
		})
	})
	return true
}

// fetch returns when the layer is in the store. It is called for whoever wants the layer, which may be another pull than
// the one that began: if that was cancelled the layer is downloaded for the caller alone.
func (l *layerFetch) fetch(ctx context.Context) error {
	if l.start() {
		select {
		case <-l.done:
			if l.err == nil || l.f.ctx.Err() == nil {
				return l.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return l.f.s.download(ctx, l.f.repo, l.desc, func(solver.Status) {})
}

// stop lets nothing more start and waits for what has.
func (f *fetcher) stop() {
	f.mu.Lock()
	f.over = true
	f.mu.Unlock()
	f.wg.Wait()
	f.status.stop()
}

// A reporter passes statuses on until it is stopped: layers that several pulls wait for are unpacked for all of them, and
// may be so still when the one whose progress they report has ended.
type reporter struct {
	mu sync.Mutex // guards to, and the order of calls of it
	to func(solver.Status)
}

func (r *reporter) report(s solver.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.to != nil {
		r.to(s)
	}
}

func (r *reporter) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = nil
}
