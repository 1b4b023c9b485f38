// Package gc keeps the build cache within its limits: after builds, by rules that an operator has given. A rule is about
// some records of the cache, and says how much of the disk the cache may take and how long what was used is spared.
//
// Life cycle: New, Wrap; a build that ends has the rules applied a second later, at most once a minute; Close ends a run
// that is under way. Nothing runs, and no timer is set, while nobody builds.
//
// Lock order: Collector.mu is a leaf.
package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

const (
	// pause is how long after a build the rules are applied: builds come one after the other.
	pause = time.Second
	// interval is how long after one run the next one may begin. A run looks at every record.
	interval = time.Minute
)

// Options are what a Collector needs.
type Options struct {
	Images worker.Images
	// Rules returns the rules, which are applied in order. It is asked at each run, as parts of a disk may change.
	Rules func() ([]Rule, error)
	// FreeSpace returns how many bytes are free where the store is.
	FreeSpace func() (int64, error)
	Log       *slog.Logger
	// Report is told of every run: how many bytes were freed. It may be nil.
	Report func(freed int64, err error)
}

// A Collector applies rules after builds. It is safe for concurrent use.
type Collector struct {
	opt    Options
	ctx    context.Context //nolint:containedctx // of the runs, which nobody calls; Close ends it
	cancel context.CancelFunc

	mu     sync.Mutex // guards all below
	timer  *time.Timer
	closed bool
	last   time.Time      // when the last run ended
	runs   sync.WaitGroup // is added to under mu
}

// New returns a Collector that has nothing to do yet.
func New(opt Options) *Collector {
	c := &Collector{opt: opt}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Wrap returns b with the rules applied after its builds.
func (c *Collector) Wrap(b worker.Builder) worker.Builder {
	return &collected{Builder: b, collector: c}
}

type collected struct {
	worker.Builder
	collector *Collector
}

// Build implements worker.Builder.
func (b *collected) Build(
	ctx context.Context, req *worker.BuildRequest, events func(solver.Event),
) (*worker.BuildResult, error) {
	defer b.collector.soon()
	return b.Builder.Build(ctx, req, events)
}

// soon has the rules applied, unless that is to happen anyway.
func (c *Collector) soon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.timer != nil {
		return
	}
	wait := pause
	if !c.last.IsZero() {
		wait = max(wait, interval-time.Since(c.last))
	}
	c.timer = time.AfterFunc(wait, c.run)
}

// run applies the rules, and tells of it.
func (c *Collector) run() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.runs.Add(1)
	c.timer = nil // a build that ends from now on wants another run
	c.mu.Unlock()
	defer c.runs.Done()
	freed, err := c.Collect(c.ctx)
	switch {
	case err != nil && !errors.Is(err, context.Canceled):
		c.opt.Log.Warn("collecting garbage", "error", err)
	case freed > 0:
		c.opt.Log.Info("garbage collected", "bytes", freed)
	}
	if c.opt.Report != nil {
		c.opt.Report(freed, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now()
}

// Collect applies the rules now and returns how many bytes that freed.
func (c *Collector) Collect(ctx context.Context) (freed int64, err error) {
	rules, err := c.opt.Rules()
	if err != nil {
		return 0, fmt.Errorf("collecting garbage: %w", err)
	}
	for i, r := range rules {
		opt, wanted, err := r.Prune(ctx, c.opt.Images, c.opt.FreeSpace)
		if err != nil {
			return freed, fmt.Errorf("applying rule %d: %w", i+1, err)
		}
		if !wanted {
			continue
		}
		rep, err := c.opt.Images.Prune(ctx, opt)
		if rep != nil {
			freed += rep.Freed
		}
		if err != nil {
			return freed, fmt.Errorf("applying rule %d: %w", i+1, err)
		}
	}
	return freed, nil
}

// Close ends a run that is under way and lets none begin any more. It is idempotent.
func (c *Collector) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.cancel()
	c.runs.Wait()
	return nil
}
