package gc

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/worker"
)

// A Rule says how much of the disk the build cache may take. Sizes are bytes, and 0 is no limit; a rule without any limit
// removes all that it is about.
type Rule struct {
	// All has also what images share.
	All bool
	// Filters say which records the rule is about, as for Filter; none is all of them.
	Filters []string
	// KeepFor spares what was used within that time.
	KeepFor time.Duration
	// Reserved is what the cache keeps whatever the other limits say.
	Reserved int64
	// MaxUsed is what the cache may take.
	MaxUsed int64
	// MinFree is what is to be free on the disk.
	MinFree int64
}

// Prune returns what there is to remove by the rule; false if the cache is within the limits. An error of the filters is a
// *frontend.UsageError.
func (r Rule) Prune(ctx context.Context, images worker.Images, free func() (int64, error)) (worker.PruneOptions, bool, error) {
	match, err := Filter(r.Filters)
	if err != nil {
		return worker.PruneOptions{}, false, err
	}
	opt := worker.PruneOptions{Cache: true, All: r.All, KeepFor: r.KeepFor, Match: match}
	if r.Reserved == 0 && r.MaxUsed == 0 && r.MinFree == 0 {
		return opt, true, nil
	}
	du, err := images.DiskUsage(ctx)
	if err != nil {
		return opt, false, err
	}
	var total int64
	for i := range du.Records {
		if !du.Records[i].Shared {
			total += du.Records[i].Size
		}
	}
	var have int64
	if r.MinFree != 0 {
		if have, err = free(); err != nil {
			return opt, false, err
		}
	}
	opt.KeepBytes = r.keep(total, have)
	return opt, total >= opt.KeepBytes, nil
}

// keep returns how many of total bytes the cache keeps when so many are free: as many as the most that it may have, fewer
// if the disk is to have more free, but never fewer than are reserved.
func (r Rule) keep(total, free int64) int64 {
	keep := r.MaxUsed
	if r.MinFree != 0 {
		switch lack := r.MinFree - free; {
		case lack <= 0 && keep == 0:
			keep = total + 1 // all is well
		case lack > 0 && keep == 0:
			keep = total - lack
		case lack > 0:
			keep = min(keep, total-lack)
		}
	}
	return max(keep, r.Reserved, 1) // 0 would be no limit at all
}

// Filter reads filters of records, in containerd's syntax with BuildKit's names. A record passes that passes one of them;
// nil passes all.
func Filter(list []string) (func(*worker.UsageRecord) bool, error) {
	if len(list) == 0 {
		return nil, nil
	}
	f, err := filters.ParseAll(list...)
	if err != nil {
		return nil, &frontend.UsageError{Message: "failed to parse filters " + strings.Join(list, ", ") + ": " + err.Error()}
	}
	return func(r *worker.UsageRecord) bool {
		return f.Match(filters.AdapterFunc(func(path []string) (string, bool) { return field(r, path) }))
	}, nil
}

// field is what filters may ask for.
func field(r *worker.UsageRecord, path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	switch path[0] {
	case "id":
		return r.ID, r.ID != ""
	case "parents":
		return strings.Join(r.Parents, ";"), len(r.Parents) > 0
	case "description":
		return r.Description, r.Description != ""
	case "inuse":
		return "", r.InUse
	case "mutable":
		return "", r.Mutable
	case "immutable":
		return "", !r.Mutable
	case "type":
		return r.Type, r.Type != ""
	case "shared":
		return "", r.Shared
	case "private":
		return "", !r.Shared
	}
	return "", false
}
