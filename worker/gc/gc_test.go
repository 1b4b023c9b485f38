package gc

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// images has records, and removes what it is asked to remove at once.
type images struct {
	worker.Images
	records []worker.UsageRecord
	pruned  []worker.PruneOptions
	err     error
}

func (i *images) DiskUsage(context.Context) (*worker.DiskUsage, error) {
	return &worker.DiskUsage{Records: slices.Clone(i.records)}, i.err
}

func (i *images) Prune(ctx context.Context, opt worker.PruneOptions) (*worker.PruneReport, error) {
	i.pruned = append(i.pruned, opt)
	rep := &worker.PruneReport{}
	var total int64
	for _, r := range i.records {
		total += r.Size
	}
	i.records = slices.DeleteFunc(i.records, func(r worker.UsageRecord) bool {
		if opt.KeepBytes > 0 && total <= opt.KeepBytes || opt.Match != nil && !opt.Match(&r) {
			return false
		}
		total -= r.Size
		rep.Freed += r.Size
		return true
	})
	return rep, ctx.Err()
}

func records(sizes ...int64) []worker.UsageRecord {
	var out []worker.UsageRecord
	for _, s := range sizes {
		out = append(out, worker.UsageRecord{Type: "regular", Size: s})
	}
	return out
}

// How much the cache keeps follows from the three limits; what is reserved goes before what is to be free.
func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   Rule
		free   int64
		keep   int64
		wanted bool
	}{
		{"no limit", Rule{}, 0, 0, true},
		{"below the most", Rule{MaxUsed: 101}, 0, 101, false},
		{"above the most", Rule{MaxUsed: 60}, 0, 60, true},
		{"enough free", Rule{MinFree: 50}, 50, 101, false},
		{"too little free", Rule{MinFree: 50}, 20, 70, true},
		{"too little free, above the most", Rule{MinFree: 50, MaxUsed: 60}, 20, 60, true},
		{"too little free, most above", Rule{MinFree: 50, MaxUsed: 90}, 20, 70, true},
		{"more to free than there is", Rule{MinFree: 500}, 20, 1, true},
		{"reserved", Rule{MinFree: 500, Reserved: 80}, 20, 80, true},
		{"reserved more than there is", Rule{MinFree: 500, Reserved: 180}, 20, 180, false},
		{"only reserved", Rule{Reserved: 30}, 0, 30, true},
	} {
		img := &images{records: append(records(60, 40), worker.UsageRecord{Size: 1000, Shared: true})}
		opt, wanted, err := c.rule.Prune(t.Context(), img, func() (int64, error) { return c.free, nil })
		if err != nil || wanted != c.wanted || opt.KeepBytes != c.keep {
			t.Errorf("%s: got %d, %v, %v; want %d, %v", c.name, opt.KeepBytes, wanted, err, c.keep, c.wanted)
		}
	}
}

// Filters are in containerd's words, and one of several is enough.
func TestFilter(t *testing.T) {
	all := []worker.UsageRecord{
		{ID: "a", Type: "source.local", Description: "files", Parents: []string{"p"}},
		{ID: "b", Type: "exec.cachemount", Mutable: true, InUse: true},
		{ID: "c", Type: "regular", Shared: true},
	}
	for _, c := range []struct {
		filters []string
		want    string
	}{
		{nil, "abc"},
		{[]string{"type==source.local"}, "a"},
		{[]string{"type==source.local", "type==exec.cachemount"}, "ab"},
		{[]string{"type==source.local,mutable"}, ""},
		{[]string{"mutable"}, "b"},
		{[]string{"immutable"}, "ac"},
		{[]string{"inuse"}, "b"},
		{[]string{"shared"}, "c"},
		{[]string{"private"}, "ab"},
		{[]string{"id~=a|c"}, "ac"},
		{[]string{"description==files"}, "a"},
		{[]string{"parents==p"}, "a"},
		{[]string{"nonsense==x"}, ""},
	} {
		match, err := Filter(c.filters)
		if err != nil {
			t.Errorf("%v: %v", c.filters, err)
			continue
		}
		got := ""
		for i := range all {
			if match == nil || match(&all[i]) {
				got += all[i].ID
			}
		}
		if got != c.want {
			t.Errorf("%v: got %q, want %q", c.filters, got, c.want)
		}
	}
	var use *frontend.UsageError
	if _, err := Filter([]string{"type=="}); !errors.As(err, &use) {
		t.Errorf("a broken filter: got %v, want a usage error", err)
	}
}

// Rules are applied in order, each to what those before it have left.
func TestCollect(t *testing.T) {
	img := &images{records: records(10, 20, 30, 40)}
	img.records[1].Type = "source.local"
	c := New(Options{
		Images: img, Log: slog.New(slog.DiscardHandler), FreeSpace: func() (int64, error) { return 0, nil },
		Rules: func() ([]Rule, error) {
			return []Rule{{Filters: []string{"type==source.local"}, MaxUsed: 1}, {MaxUsed: 81}, {All: true, MaxUsed: 70}}, nil
		},
	})
	freed, err := c.Collect(t.Context())
	if err != nil || freed != 30 || len(img.pruned) != 2 {
		t.Errorf("got %d, %v, %d runs", freed, err, len(img.pruned))
	}
	img.err = errors.New("the disk is broken")
	if _, err := c.Collect(t.Context()); err == nil {
		t.Error("an error of the store is not told")
	}
}

// builds is a builder whose builds do nothing.
type builds struct{}

func (builds) Build(context.Context, *worker.BuildRequest, func(solver.Event)) (*worker.BuildResult, error) {
	return nil, nil
}

// The rules are applied a second after a build, however many end meanwhile, and not again within a minute; nothing happens
// while nobody builds, nor after Close.
func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		c := New(Options{
			Images: &images{}, Log: slog.New(slog.DiscardHandler), FreeSpace: func() (int64, error) { return 0, nil },
			Rules: func() ([]Rule, error) { return []Rule{{}}, nil }, Report: func(int64, error) { runs.Add(1) },
		})
		b := c.Wrap(builds{})
		build := func(n int) {
			for range n {
				if _, err := b.Build(t.Context(), nil, nil); err != nil {
					t.Error(err)
				}
			}
		}
		after := func(d time.Duration, want int32) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := runs.Load(); got != want {
				t.Errorf("got %d runs, want %d", got, want)
			}
		}
		after(time.Hour, 0)
		build(3)
		after(time.Second/2, 0)
		build(1)
		after(time.Second, 1)
		build(2)
		after(30*time.Second, 1)
		after(time.Minute, 2)
		after(time.Hour, 2)
		build(1)
		after(time.Second, 3)
		build(1)
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		build(1)
		after(time.Hour, 3)
	})
}

// Close ends a run that is under way, and waits for it.
func TestCloseEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended error
		c := New(Options{
			Images: &slow{}, Log: slog.New(slog.DiscardHandler), FreeSpace: func() (int64, error) { return 0, nil },
			Rules: func() ([]Rule, error) { return []Rule{{}}, nil }, Report: func(_ int64, err error) { ended = err },
		})
		if _, err := c.Wrap(builds{}).Build(t.Context(), nil, nil); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if err := c.Close(); err != nil || !errors.Is(ended, context.Canceled) {
			t.Errorf("got %v, and the run ended with %v", err, ended)
		}
	})
}

// slow images take until they are told to stop.
type slow struct{ worker.Images }

func (*slow) Prune(ctx context.Context, _ worker.PruneOptions) (*worker.PruneReport, error) {
	<-ctx.Done()
	return &worker.PruneReport{}, ctx.Err()
}
