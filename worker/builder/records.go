package builder

import (
	"context"
	"errors"
	"iter"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/cachedb"
	"github.com/boxbuild/boxbuild/solver/run"
)

// Records are what a lease.Manager has to know of the build cache: each record keeps the snapshots that are its results,
// until it is evicted.
func Records(c *cachedb.Cache) lease.Source {
	return lease.Source{
		Kind: lease.Record, Class: lease.Cached,
		List: func(ctx context.Context) iter.Seq2[lease.Info, error] {
			return func(yield func(lease.Info, error) bool) {
				for rec, err := range c.Records(ctx) {
					if err != nil {
						yield(lease.Info{}, err)
						return
					}
					info := lease.Info{
						Item: lease.Item{Kind: lease.Record, Name: rec.Key.String()}, Created: rec.Created, Used: rec.LastUsed,
					}
					for _, r := range rec.Results {
						if id, ok := run.SnapshotOf(r); ok && id != "" {
							info.Refs = append(info.Refs, lease.ID(id))
						}
					}
					if !yield(info, nil) {
						return
					}
				}
			}
		},
		Stat: func(ctx context.Context, name string) error {
			k, err := solver.ParseKey(name)
			if err != nil {
				return err
			}
			_, err = c.Lookup(ctx, k)
			if errors.Is(err, solver.ErrMiss) {
				return snapshot.ErrNotFound
			}
			return err
		},
		Remove: func(ctx context.Context, name string) error {
			k, err := solver.ParseKey(name)
			if err != nil {
				return err
			}
			return c.Delete(ctx, k)
		},
	}
}

// Describe returns a function that says what made a record of c: the name of the step. It returns "" for what is not there.
func Describe(c *cachedb.Cache) func(ctx context.Context, record string) string {
	return func(ctx context.Context, record string) string {
		k, err := solver.ParseKey(record)
		if err != nil {
			return ""
		}
		rec, err := c.Lookup(ctx, k)
		if err != nil {
			return "" // it has just gone
		}
		return rec.Name
	}
}
