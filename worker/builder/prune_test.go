package builder_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// TestPruneWhileBuilding checks that everything a build has made or found is held until a record or an image refers to
// it: with all of the cache evicted over and over every build succeeds, and every image has its layers.
func TestPruneWhileBuilding(t *testing.T) {
	r := newRig(t)
	r.base("base")
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := r.leases.Collect(context.Background(), lease.Policy{Evict: func(lease.Unit) bool { return true }}); err != nil {
				t.Error(err)
			}
		}
	})
	var builds sync.WaitGroup
	for i := range 4 {
		dir := t.TempDir()
		builds.Go(func() {
			for n := range 8 {
				if err := os.WriteFile(filepath.Join(dir, "a"), fmt.Appendf(nil, "%d", n/2), 0o600); err != nil {
					t.Error(err)
					return
				}
				// Some steps are those of other builds, some of the last one, and some are new.
				text := fmt.Sprintf(plain+"RUN write shared x\nRUN write mine %d-%d\nFROM HOST/base\nCOPY --from=0 /out /shared /mine /\n", i, n/2)
				if _, _, err := r.build(text, func(q *worker.BuildRequest) {
					q.Sources, q.Tags = directory(dir), []string{fmt.Sprintf("app:%d", i)}
				}); err != nil {
					t.Errorf("build %d.%d: %v", i, n, err)
				}
			}
		})
	}
	builds.Wait()
	close(stop)
	collector.Wait()
	if _, err := r.leases.Collect(t.Context(), lease.Policy{}); err != nil {
		t.Fatal(err)
	}
	l := r.leases.Acquire("check")
	defer l.Release()
	imgs, err := r.store.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range imgs {
		for _, x := range img.Layers {
			if err := l.Hold(t.Context(), lease.ID(x.Snapshot)); err != nil {
				t.Errorf("image %v: %v", img.Names, err)
			}
			for _, b := range x.Blobs {
				if !r.blobs.Has(b) {
					t.Errorf("image %v: blob %s is gone", img.Names, b.Digest)
				}
			}
		}
	}
}

// TestOnlyImagesShare checks that a record counts as shared if an image has its layer, and only then: two records of the
// cache have the result of each step, and limits of the cache are about what is not shared.
func TestOnlyImagesShare(t *testing.T) {
	r := newRig(t)
	r.base("base")
	shared := func() (n, all int) {
		t.Helper()
		du, err := r.images.DiskUsage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range du.Records {
			if rec.Shared {
				n++
			}
		}
		return n, len(du.Records)
	}
	if _, _, err := r.build(plainWithout, asking); err != nil {
		t.Fatal(err)
	}
	if n, all := shared(); n != 0 || all != 2 {
		t.Errorf("without an image %d of %d records are shared, want 0 of 2", n, all)
	}
	if _, _, err := r.build(plainWithout); err != nil {
		t.Fatal(err)
	}
	if n, all := shared(); n != 2 || all != 2 {
		t.Errorf("with an image %d of %d records are shared, want both", n, all)
	}
}
