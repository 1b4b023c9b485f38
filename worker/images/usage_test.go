package images

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// Sizes count every layer of an image, shared sizes those that others have too, and disk usage each layer once.
func TestListAndUsage(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		base := importFile(t, s, "base", "f", strings.Repeat("x", 5000))
		img, _ := s.images.Get(string(base), nil)
		build(t, s.deps.Layers, img.Layers[0].Snapshot, "child", "g", "y")
		d, err := s.deps.Layers.DiffIDs.Wait(t.Context(), "child")
		if err != nil {
			t.Fatal(err)
		}
		c := configOf(img)
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, d.DiffID)
		child, err := finish(c, append(img.Layers[:1:1], d.layer("child")))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.store(t.Context(), image.Update{Images: []*image.Image{child}, Names: []string{"docker.io/library/child:latest"}}); err != nil {
			t.Fatal(err)
		}
		sum, err := s.List(t.Context())
		if err != nil || len(sum) != 2 {
			t.Fatal(sum, err)
		}
		const first = int64(5000) // the bytes of the file, whatever a tar adds
		for _, i := range sum {
			want := first
			if i.Names[0] == "docker.io/library/child:latest" {
				want++
			}
			if i.Size != want || i.SharedSize != first {
				t.Errorf("%v: size %d, shared %d; want %d, %d", i.Names, i.Size, i.SharedSize, want, first)
			}
		}
		du, err := s.DiskUsage(t.Context())
		if total := onDisk(t, s); err != nil || du.Images != (worker.UsageClass{Total: 2, Size: total, Reclaimable: total}) || du.Total != total {
			t.Errorf("usage %+v, %v; the store takes %d", du, err, total)
		}
	})
}

// onDisk counts the bytes of all snapshots and blobs.
func onDisk(t testing.TB, s *Service) (n int64) {
	t.Helper()
	for info, err := range s.deps.Layers.Snapshots.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size
	}
	for b, err := range s.deps.Layers.Blobs.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n += b.Size
	}
	return n
}

// recordsOf is a build cache of records that keep a snapshot each.
func recordsOf(m map[string]snapshot.ID, at time.Time) lease.Source {
	return lease.Source{
		Kind: lease.Record, Class: lease.Cached,
		List: func(context.Context) iter.Seq2[lease.Info, error] {
			return func(yield func(lease.Info, error) bool) {
				for k, id := range m {
					if !yield(lease.Info{Item: lease.Item{Kind: lease.Record, Name: k}, Refs: []lease.Item{lease.ID(id)}, Created: at, Used: at}, nil) {
						return
					}
				}
			}
		},
		Remove: func(_ context.Context, name string) error { delete(m, name); return nil },
	}
}

// Pruning images takes the dangling ones, or all, as the filters say; pruning the cache takes what only records keep.
func TestPrune(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		records := map[string]snapshot.ID{}
		s := newService(t, l, recordsOf(records, time.Now()))
		s.deps.Describe = func(_ context.Context, r string) string { return "RUN " + r }
		a := importFile(t, s, "a", "f", "a")
		importFile(t, s, "a", "f", "b") // a dangles
		putPulled(t, s, "p", "x")
		img, _ := s.images.Get("a", nil)
		build(t, l, img.Layers[0].Snapshot, "one", "g", "1")
		build(t, l, "one", "two", "g", "2")
		records["r1"], records["r2"], records["r3"] = "one", "two", img.Layers[0].Snapshot

		du, err := s.DiskUsage(t.Context())
		if err != nil || du.BuildCache.Total != 3 || du.BuildCache.Active != 1 || len(du.Records) != 3 {
			t.Errorf("usage %+v, %v", du, err)
		}
		for _, r := range du.Records {
			if r.ID == "two" && (r.Parent != "one" || r.Description != "RUN r2" || r.Uses != 1 || r.InUse) {
				t.Errorf("record %+v", r)
			}
		}
		prune := func(opt worker.PruneOptions) *worker.PruneReport {
			t.Helper()
			rep, err := s.Prune(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			return rep
		}
		if rep := prune(worker.PruneOptions{Images: true, KeepFor: time.Hour}); len(rep.Images) != 0 {
			t.Errorf("young ones: %+v", rep)
		}
		if rep := prune(worker.PruneOptions{Images: true, Labels: []string{"pulled=yes"}}); len(rep.Images) != 0 {
			t.Errorf("with a label: %+v", rep)
		}
		if rep := prune(worker.PruneOptions{Images: true}); effects(rep.Images) != "x"+string(a)[7:12] || rep.Freed == 0 {
			t.Errorf("dangling: %+v", rep)
		}
		if rep := prune(worker.PruneOptions{Cache: true, KeepFor: time.Hour}); len(rep.Cache) != 0 || len(records) != 3 {
			t.Errorf("young cache: %+v, %v", rep, records)
		}
		rep := prune(worker.PruneOptions{Cache: true})
		slices.Sort(rep.Cache)
		if fmt.Sprint(rep.Cache) != "[one two]" || len(records) != 1 {
			t.Errorf("cache: %+v, %v", rep, records)
		}
		if rep := prune(worker.PruneOptions{Images: true, All: true, Labels: []string{"pulled!=yes"}}); len(rep.Images) != 2 {
			t.Errorf("all but the pulled: %+v", rep)
		}
		if rep := prune(worker.PruneOptions{Images: true, Cache: true, All: true}); len(rep.Images) != 3 || snapshots(t, s) != 0 || len(records) != 0 {
			t.Errorf("all: %+v, %d snapshots, %v", rep, snapshots(t, s), records)
		}
	})
}

// Removing an image and pruning leave nothing on the disk that nobody uses, however young it is; what a lease holds stays.
// What disk usage counts is what is there.
func TestNothingIsLeft(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		l := s.deps.Layers
		count := func(want int64) {
			t.Helper()
			du, err := s.DiskUsage(t.Context())
			if on := onDisk(t, s); err != nil || du.Total != on || du.Images.Size+du.BuildCache.Size != on || (on == 0) != (want == 0) {
				t.Errorf("usage %+v, %v; on the disk are %d bytes", du, err, on)
			}
		}
		putPulled(t, s, "p", "x")
		if _, err := l.Blobs.Put("m", []byte("garbage"), false); err != nil {
			t.Fatal(err)
		}
		held, err := l.Blobs.Put("m", []byte("in use"), false)
		if err != nil {
			t.Fatal(err)
		}
		w, err := l.Blobs.Resume(t.Context(), blob.Descriptor{Digest: digest.FromString("part of it"), Size: 10})
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte("part"))
		w.Close()
		if du, _ := s.DiskUsage(t.Context()); du.Total != onDisk(t, s)+4 || len(du.Records) != 3 {
			t.Errorf("usage %+v", du)
		}
		lease := s.deps.Leases.Acquire("test")
		defer lease.Release()
		if err := lease.Hold(t.Context(), blobItem(held.Digest)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Remove(t.Context(), "p", worker.RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		if on := onDisk(t, s); on != int64(len("in use")) {
			t.Errorf("%d bytes are left after the image was removed", on)
		}
		rep, err := s.Prune(t.Context(), worker.PruneOptions{Images: true, Cache: true, All: true})
		if err != nil || rep.Freed != 4 {
			t.Errorf("freed %+v, %v", rep, err)
		}
		count(1)
		lease.Release()
		if rep, err := s.Prune(t.Context(), worker.PruneOptions{Images: true}); err != nil || rep.Freed != int64(len("in use")) {
			t.Errorf("freed %+v, %v", rep, err)
		}
		count(0)
	})
}

// fakeMounts are cache mounts by name.
type fakeMounts map[string]CacheMount

func (f fakeMounts) CacheMounts(context.Context) ([]CacheMount, error) {
	return slices.Collect(maps.Values(f)), nil
}

func (f fakeMounts) RemoveCacheMount(_ context.Context, name string) (bool, error) {
	if f[name].InUse {
		return false, nil
	}
	delete(f, name)
	return true, nil
}

// Cache mounts are part of the build cache: they are accounted for, and pruned as far as the limits say, the oldest first.
func TestPruneMounts(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		s := newService(t, l)
		old := time.Now().Add(-time.Hour)
		fill := func() fakeMounts {
			m := fakeMounts{
				"old": {Name: "old", Size: 100, Used: old}, "new": {Name: "new", Size: 10, Used: time.Now()},
				"busy": {Name: "busy", Size: 1, Used: old, InUse: true},
			}
			s.deps.Mounts = m
			return m
		}
		fill()
		du, err := s.DiskUsage(t.Context())
		want := worker.UsageClass{Total: 3, Active: 1, Size: 111, Reclaimable: 110}
		if err != nil || du.BuildCache != want || du.Total != 111 {
			t.Errorf("usage %+v, %v", du, err)
		}
		for _, tt := range []struct {
			opt   worker.PruneOptions
			freed int64
			left  string
		}{
			{worker.PruneOptions{Images: true}, 0, "busy new old"},
			{worker.PruneOptions{Cache: true}, 110, "busy"},
			{worker.PruneOptions{Cache: true, KeepFor: time.Minute}, 100, "busy new"},
			{worker.PruneOptions{Cache: true, KeepBytes: 50}, 100, "busy new"},
			{worker.PruneOptions{Cache: true, KeepBytes: 200}, 0, "busy new old"},
		} {
			m := fill()
			rep, err := s.Prune(t.Context(), tt.opt)
			if left := strings.Join(slices.Sorted(maps.Keys(m)), " "); err != nil || rep.Freed != tt.freed || left != tt.left {
				t.Errorf("%+v: %+v, %v; left %s", tt.opt, rep, err, left)
			}
		}
	})
}

// What sources keep is part of the build cache, and pruned last, as a whole.
func TestPruneSources(t *testing.T) {
	each(t, func(t *testing.T, l *Layers) {
		s := newService(t, l)
		s.deps.Mounts = fakeMounts{"m": {Name: "m", Size: 100, InUse: true}}
		sizes := map[string]int64{}
		source := func(name string) SourceCache {
			return SourceCache{
				Name: name, Description: name + " files", Type: "source." + name,
				Usage: func(context.Context) (int64, error) { return sizes[name], nil },
				Prune: func(_ context.Context, limit int64) (int64, error) {
					freed := max(0, sizes[name]-limit)
					sizes[name] -= freed
					return freed, nil
				},
			}
		}
		s.deps.Sources = []SourceCache{source("a"), source("b")}
		for _, tt := range []struct {
			opt    worker.PruneOptions
			freed  int64
			sa, sb int64
		}{
			{worker.PruneOptions{Images: true}, 0, 50, 7},
			{worker.PruneOptions{Cache: true}, 57, 0, 0},
			{worker.PruneOptions{Cache: true, KeepFor: time.Minute}, 0, 50, 7},
			{worker.PruneOptions{Cache: true, KeepBytes: 120}, 37, 20, 0},
			{worker.PruneOptions{Cache: true, KeepBytes: 1000}, 0, 50, 7},
		} {
			sizes["a"], sizes["b"] = 50, 7
			du, err := s.DiskUsage(t.Context())
			want := worker.UsageClass{Total: 3, Active: 1, Size: 157, Reclaimable: 57}
			if err != nil || du.BuildCache != want {
				t.Errorf("usage %+v, %v", du, err)
			}
			rep, err := s.Prune(t.Context(), tt.opt)
			if err != nil || rep.Freed != tt.freed || sizes["a"] != tt.sa || sizes["b"] != tt.sb {
				t.Errorf("%+v: %+v, %v; left %v", tt.opt, rep, err, sizes)
			}
		}
	})
}
