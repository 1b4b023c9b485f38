package main

import (
	"context"

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
