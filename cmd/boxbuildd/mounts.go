package main

import (
	"context"
	"time"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/proto/git"
	runner "github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/worker/images"
)

// cacheMounts are the runner's cache mounts as package images accounts for them.
type cacheMounts struct{ *runner.Runner }

// CacheMounts implements images.Mounts.
func (m cacheMounts) CacheMounts(ctx context.Context) ([]images.CacheMount, error) {
	all, err := m.Runner.CacheMounts(ctx)
	out := make([]images.CacheMount, len(all))
	for i, c := range all {
		out[i] = images.CacheMount(c)
	}
	return out, err
}

// sourceCaches are what sources keep, as package images accounts for it.
func sourceCaches(repositories *git.Client, received *filesync.Store) []images.SourceCache {
	since := time.Now() // nobody notes when they were made
	return []images.SourceCache{
		{
			Name: "git", Type: "source.git.checkout", Description: "mirrors of Git repositories", Since: since,
			Usage: func(context.Context) (int64, error) { return repositories.Usage(), nil },
			Prune: repositories.Prune,
		},
		{
			Name: "local", Type: "source.local", Description: "files that clients have sent", Since: since,
			Usage: func(context.Context) (int64, error) { return received.Usage() },
			Prune: func(_ context.Context, limit int64) (int64, error) { return received.Prune(limit) },
		},
	}
}
