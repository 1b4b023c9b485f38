package images

import (
	"context"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// DiskUsage implements worker.Images. The build cache is the snapshots that cache records keep; one that an image keeps too
// is shared, and counts as in use, since pruning the cache frees nothing of it.
func (s *Service) DiskUsage(ctx context.Context) (*worker.DiskUsage, error) {
	du := new(worker.DiskUsage)
	if err := s.imageUsage(&du.Images); err != nil {
		return nil, err
	}
	uses, err := s.deps.Leases.Usage(ctx)
	if err != nil {
		return nil, err
	}
	records := s.cached(ctx, uses)
	for _, u := range uses {
		r, ok := records[u.Item]
		if !ok {
			continue
		}
		r.ID, r.Type, r.Size = u.Name, "regular", max(u.Size, 0)
		r.Created, r.InUse, r.Shared = u.Created, u.InUse, u.Shared
		if u.Used.After(r.LastUsed) {
			r.LastUsed = u.Used
		}
		for _, ref := range u.Refs {
			if ref.Kind == lease.Snapshot {
				r.Parent = ref.Name
			}
		}
		du.Records = append(du.Records, *r)
		du.BuildCache.Total++
		du.BuildCache.Size += r.Size
		if r.InUse {
			du.BuildCache.Active++
		} else {
			du.BuildCache.Reclaimable += r.Size
		}
	}
	return du, nil
}

// cached returns the snapshots that records keep, each with what the record says.
func (s *Service) cached(ctx context.Context, uses []lease.Use) map[lease.Item]*worker.UsageRecord {
	byItem := make(map[lease.Item]lease.Use, len(uses))
	for _, u := range uses {
		byItem[u.Item] = u
	}
	out := make(map[lease.Item]*worker.UsageRecord)
	for _, u := range uses {
		if u.Class != lease.Cached {
			continue
		}
		text := ""
		if s.deps.Describe != nil {
			text = s.deps.Describe(ctx, u.Name)
		}
		for _, ref := range u.Refs {
			if ref.Kind != lease.Snapshot {
				continue
			}
			r := reach(out, ref)
			r.Uses++
			if text != "" {
				r.Description = text
			}
			if u.Used.After(r.LastUsed) {
				r.LastUsed = u.Used
			}
			for below := byItem[ref].Refs; len(below) > 0; { // what the result stands on
				var next []lease.Item
				for _, b := range below {
					if b.Kind != lease.Snapshot || out[b] != nil {
						continue
					}
					reach(out, b)
					next = append(next, byItem[b].Refs...)
				}
				below = next
			}
		}
	}
	return out
}

func reach(m map[lease.Item]*worker.UsageRecord, i lease.Item) *worker.UsageRecord {
	if m[i] == nil {
		m[i] = new(worker.UsageRecord)
	}
	return m[i]
}

// imageUsage counts images; a layer that several have counts once.
func (s *Service) imageUsage(c *worker.UsageClass) error {
	all, err := s.images.List()
	if err != nil {
		return err
	}
	active := make(map[snapshot.ID]bool) // by whether an image in use has it
	size := make(map[snapshot.ID]int64)
	for _, img := range all {
		c.Total++
		used := s.inUse(img.ID) != nil
		if used {
			c.Active++
		}
		for _, l := range img.Layers {
			size[l.Snapshot] = l.Size
			active[l.Snapshot] = active[l.Snapshot] || used
		}
	}
	for id, n := range size {
		c.Size += n
		if !active[id] {
			c.Reclaimable += n
		}
	}
	return nil
}
