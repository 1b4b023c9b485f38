package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// internal is the type of what is no result of a build: what is in use by something that is under way, what a pull that
// broke off has left, and what nothing refers to any more.
const internal = "internal"

// DiskUsage implements worker.Images. Images take what they keep, trees and blobs, each counted once. The build cache is
// all else, so that both together are what is on the disk. A result that an image keeps too is among the records of the
// cache, shared and in use, but its bytes are the image's: pruning the cache frees nothing of it.
func (s *Service) DiskUsage(ctx context.Context) (*worker.DiskUsage, error) {
	uses, err := s.deps.Leases.Usage(ctx)
	if err != nil {
		return nil, err
	}
	a := &account{uses: make(map[lease.Item]*lease.Use, len(uses)), owners: make(map[lease.Item]lease.Item)}
	for i := range uses {
		a.uses[uses[i].Item] = &uses[i]
	}
	du := new(worker.DiskUsage)
	if err := s.imageUsage(ctx, a, &du.Images); err != nil {
		return nil, err
	}
	a.history(uses)
	records := s.cached(ctx, uses)
	for _, u := range uses { // those that refer come before what they refer to
		if u.Class == lease.Plain && a.owner(u.Item) == nobody && !worker.IsBase(u.Name) {
			a.charge(&u, records)
		}
	}
	for _, u := range uses {
		r, ok := records[u.Item]
		if !ok {
			continue
		}
		_, kept := a.kept[u.Item]
		if r.ID = u.Name; r.Type == "" {
			r.Type = "regular"
		}
		// That several records of the cache lead to it makes it no less the cache's.
		r.Created, r.InUse, r.Shared = u.Created, u.InUse, kept
		if u.Used.After(r.LastUsed) {
			r.LastUsed = u.Used
		}
		for _, ref := range u.Refs {
			if ref.Kind == lease.Snapshot {
				r.Parents = append(r.Parents, ref.Name)
			}
		}
		if len(r.Parents) > 0 {
			r.Parent = r.Parents[0]
		}
		if kept {
			r.Size += max(u.Size, 0)
		}
		du.Records = append(du.Records, *r)
		du.BuildCache.Total++
		switch {
		case r.InUse:
			du.BuildCache.Active++
			if !kept {
				du.BuildCache.Size += r.Size
			}
		default:
			du.BuildCache.Size += r.Size
			du.BuildCache.Reclaimable += r.Size
		}
	}
	if err := errors.Join(s.partialUsage(du), s.mountUsage(ctx, du), s.sourceUsage(ctx, du)); err != nil {
		return nil, err
	}
	du.Total = du.Images.Size + du.BuildCache.Size
	return du, nil
}

// partialUsage adds what downloads that broke off have left.
func (s *Service) partialUsage(du *worker.DiskUsage) error {
	partial, err := s.deps.Layers.Blobs.Partials()
	if err != nil {
		return err
	}
	for _, p := range partial {
		du.Records = append(du.Records, worker.UsageRecord{
			ID: p.Digest.Encoded(), Type: internal, Description: "part of a download of " + string(p.Digest),
			Size: p.Size, Created: p.Written, LastUsed: p.Written,
		})
		du.BuildCache.Total++
		du.BuildCache.Size += p.Size
		du.BuildCache.Reclaimable += p.Size
	}
	return nil
}

// mountUsage adds the directories of cache mounts.
func (s *Service) mountUsage(ctx context.Context, du *worker.DiskUsage) error {
	if s.deps.Mounts == nil {
		return nil
	}
	mounts, err := s.deps.Mounts.CacheMounts(ctx)
	for _, m := range mounts {
		du.Records = append(du.Records, worker.UsageRecord{
			ID: m.Name, Type: "exec.cachemount", Description: cmp.Or(m.Description, "cache mount"), Uses: m.Uses,
			Size: m.Size, Created: m.Used, LastUsed: m.Used, InUse: m.InUse, Mutable: true,
		})
		du.BuildCache.Total++
		du.BuildCache.Size += m.Size
		if m.InUse {
			du.BuildCache.Active++
		} else {
			du.BuildCache.Reclaimable += m.Size
		}
	}
	return err
}

// sourceUsage adds what sources keep.
func (s *Service) sourceUsage(ctx context.Context, du *worker.DiskUsage) error {
	for _, c := range s.deps.Sources {
		size, err := c.Usage(ctx)
		if err != nil {
			return fmt.Errorf("counting the %s: %w", c.Description, err)
		}
		if size == 0 {
			continue
		}
		du.Records = append(du.Records, worker.UsageRecord{
			ID: c.Name, Type: c.Type, Description: c.Description, Size: size, Created: c.Since,
		})
		du.BuildCache.Total++
		du.BuildCache.Size += size
		du.BuildCache.Reclaimable += size
	}
	return nil
}

// An account says who pays for what.
type account struct {
	uses   map[lease.Item]*lease.Use
	kept   map[lease.Item]bool       // by images, and whether by one that is in use
	owners map[lease.Item]lease.Item // the record that pays for something, as far as is known
}

// nobody owns what no image keeps, and no record as yet.
var nobody = lease.Item{}

func (a *account) owner(i lease.Item) lease.Item {
	if _, ok := a.kept[i]; ok {
		return lease.Item{Kind: lease.Image}
	}
	return a.owners[i]
}

// history notes what records of past builds keep. It is no cache, and goes with the record.
func (a *account) history(uses []lease.Use) {
	for i := range uses {
		if u := &uses[i]; u.Owner.Kind == lease.Build && a.owner(u.Item) == nobody {
			a.owners[u.Item] = u.Owner
		}
	}
}

// keep notes that an image keeps refs, and all that these keep.
func (a *account) keep(refs []lease.Item, used bool) {
	for todo := refs; len(todo) > 0; {
		var next []lease.Item
		for _, i := range todo {
			before, seen := a.kept[i]
			if seen && (before || !used) {
				continue
			}
			a.kept[i] = before || used
			if u := a.uses[i]; u != nil {
				next = append(next, u.Refs...)
			}
		}
		todo = next
	}
}

// charge adds what u takes to its record. The blobs of a layer are charged with its tree; what has no record gets one.
func (a *account) charge(u *lease.Use, records map[lease.Item]*worker.UsageRecord) {
	r := records[u.Item]
	if r == nil {
		r = reach(records, u.Item)
		if r.Type = internal; !u.InUse {
			r.Description = "nothing refers to it"
		}
	}
	r.Size += max(u.Size, 0)
	a.owners[u.Item] = u.Item
	for _, ref := range u.Refs {
		if ref.Kind != lease.Blob || a.owner(ref) != nobody || a.uses[ref] == nil {
			continue
		}
		a.owners[ref] = u.Item
		r.Size += max(a.uses[ref].Size, 0)
	}
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

// imageUsage counts images and what they keep.
func (s *Service) imageUsage(ctx context.Context, a *account, c *worker.UsageClass) error {
	a.kept = make(map[lease.Item]bool)
	for info, err := range s.deps.Layers.listImages(ctx) {
		if err != nil {
			return err
		}
		c.Total++
		used := len(s.users(digest.Digest(info.Name))) > 0
		if used {
			c.Active++
		}
		a.keep(info.Refs, used)
	}
	for i, used := range a.kept {
		u := a.uses[i]
		if u == nil {
			continue // it has gone, or came when the rest was counted
		}
		c.Size += max(u.Size, 0)
		if !used {
			c.Reclaimable += max(u.Size, 0)
		}
	}
	return nil
}
