package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// Prune implements worker.Images.
func (s *Service) Prune(ctx context.Context, opt worker.PruneOptions) (*worker.PruneReport, error) {
	rep := new(worker.PruneReport)
	done, err := s.deps.Reserve.Use()
	if err != nil {
		return rep, err
	}
	defer done()
	if opt.Images {
		if err := s.pruneImages(opt, rep); err != nil {
			return rep, fmt.Errorf("pruning images: %w", err)
		}
	}
	before, err := s.records(ctx, &opt)
	if err != nil {
		return rep, err
	}
	var policy lease.Policy
	if opt.Cache {
		policy.Target = opt.KeepBytes
		policy.Evict = func(u lease.Unit) bool {
			if u.Item.Name == "" && !opt.All {
				return false // a record of what an image keeps anyway: it frees nothing and makes builds faster
			}
			if u.Item.Name == "" && opt.Match != nil || !before.match(u.Item.Name) {
				return false
			}
			return opt.KeepFor == 0 || time.Since(u.Used()) >= opt.KeepFor
		}
	}
	got, err := s.deps.Leases.Collect(ctx, policy)
	rep.Freed += got.Freed
	if opt.Cache && err == nil {
		err = s.pruneOthers(ctx, &pruning{opt, before, rep}, got.Left)
	}
	for _, r := range got.Removed {
		if opt.Cache && r.Kind == lease.Snapshot && !worker.IsBase(r.Name) {
			rep.Cache = append(rep.Cache, r.Name)
		}
	}
	for _, id := range rep.Cache {
		// What nothing referred to any more is gone as well, whatever was asked for.
		if r, ok := before.byID[id]; ok && before.match(id) {
			rep.Records = append(rep.Records, r)
		}
	}
	return rep, err
}

// A listing is what the cache had before something was removed.
type listing struct {
	byID map[string]worker.UsageRecord // nil if nobody needs it
	opt  *worker.PruneOptions
}

// records lists the cache if opt needs that.
func (s *Service) records(ctx context.Context, opt *worker.PruneOptions) (*listing, error) {
	l := &listing{opt: opt}
	if opt.Match == nil && !opt.Records {
		return l, nil
	}
	du, err := s.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	l.byID = make(map[string]worker.UsageRecord, len(du.Records))
	for _, r := range du.Records {
		l.byID[r.ID] = r
	}
	return l, nil
}

// match says whether a record may be removed. Of what has come since the list was made nothing is known.
func (l *listing) match(id string) bool {
	if l.opt.Match == nil {
		return true
	}
	r, ok := l.byID[id]
	return ok && l.opt.Match(&r)
}

// A pruning is one call of Prune.
type pruning struct {
	worker.PruneOptions
	before *listing
	rep    *worker.PruneReport
}

// pruneOthers removes what is no record of the cache; left bytes of those are left.
func (s *Service) pruneOthers(ctx context.Context, p *pruning, left int64) error {
	err := s.prunePartials(p)
	left, mountsErr := s.pruneMounts(ctx, p, left)
	return errors.Join(err, mountsErr, s.pruneSources(ctx, p, left))
}

// pruneSources removes what sources keep. When it was used is not known, so that none of it is too old.
func (s *Service) pruneSources(ctx context.Context, p *pruning, left int64) error {
	if p.KeepFor > 0 {
		return nil
	}
	for _, c := range s.deps.Sources {
		if !p.before.match(c.Name) {
			continue
		}
		freed, err := c.Prune(ctx, max(0, p.KeepBytes-left))
		if err != nil {
			return err
		}
		if freed > 0 {
			p.rep.Freed += freed
			p.rep.Cache = append(p.rep.Cache, c.Name)
		}
		size, err := c.Usage(ctx)
		if err != nil {
			return err
		}
		left += size
	}
	return nil
}

// prunePartials removes what downloads that broke off have left, and would go on from.
func (s *Service) prunePartials(opt *pruning) error {
	partial, err := s.deps.Layers.Blobs.Partials()
	if err != nil {
		return err
	}
	for _, p := range partial {
		if !opt.before.match(p.Digest.Encoded()) {
			continue
		}
		if opt.KeepFor > 0 && time.Since(p.Written) < opt.KeepFor || opt.KeepBytes > 0 {
			continue
		}
		gone, err := s.deps.Layers.Blobs.DeletePartial(p.Digest)
		if err != nil {
			return fmt.Errorf("removing a partial download: %w", err)
		}
		if gone {
			opt.rep.Freed += p.Size
			opt.rep.Cache = append(opt.rep.Cache, p.Digest.Encoded())
		}
	}
	return nil
}

// pruneMounts removes the directories of cache mounts, those first that have not changed for longest, until they and left
// other bytes are as few as are to be kept. It returns how many are left.
func (s *Service) pruneMounts(ctx context.Context, opt *pruning, left int64) (int64, error) {
	if s.deps.Mounts == nil {
		return left, nil
	}
	mounts, err := s.deps.Mounts.CacheMounts(ctx)
	if err != nil {
		return left, err
	}
	for _, m := range mounts {
		left += m.Size
	}
	slices.SortFunc(mounts, func(a, b CacheMount) int { return a.Used.Compare(b.Used) })
	for _, m := range mounts {
		if !opt.before.match(m.Name) {
			continue
		}
		if opt.KeepFor > 0 && time.Since(m.Used) < opt.KeepFor || opt.KeepBytes > 0 && left <= opt.KeepBytes {
			continue
		}
		gone, err := s.deps.Mounts.RemoveCacheMount(ctx, m.Name)
		if err != nil {
			return left, err
		}
		if gone {
			left -= m.Size
			opt.rep.Freed += m.Size
			opt.rep.Cache = append(opt.rep.Cache, m.Name)
		}
	}
	return left, nil
}

func (s *Service) pruneImages(opt worker.PruneOptions, rep *worker.PruneReport) error {
	indices, err := s.images.Unnamed() // before the images, so that those of each are among them
	if err != nil {
		return err
	}
	all, err := s.images.List()
	if err != nil {
		return err
	}
	children := make(map[digest.Digest]int, len(all))
	for _, img := range all {
		children[img.Parent]++
	}
	gone := make(map[digest.Digest]bool)
	for more := true; more; { // an image can go when those have gone that were committed from it
		more = false
		for _, img := range all {
			if gone[img.ID] || children[img.ID] > 0 || s.spared(img, &opt) {
				continue
			}
			if err := s.images.Delete(img.ID); errors.Is(err, image.ErrNotFound) {
				continue // somebody else was faster
			} else if err != nil {
				return err
			}
			rep.Images = append(rep.Images, references(img)...)
			rep.Images = append(rep.Images, worker.Removed{Deleted: string(img.ID)})
			gone[img.ID], more = true, true
			children[img.Parent]--
		}
	}
	return s.pruneIndices(indices, left(all, gone), &opt, rep)
}

// left returns the images of all that are not gone.
func left(all []*image.Image, gone map[digest.Digest]bool) map[digest.Digest]*image.Image {
	out := make(map[digest.Digest]*image.Image, len(all))
	for _, img := range all {
		if !gone[img.ID] {
			out[img.ID] = img
		}
	}
	return out
}

// pruneIndices removes those of the indices, which had no name, that have none of their images left but such as have a name,
// and tells of those that went with their images.
func (s *Service) pruneIndices(indices []*image.Name, left map[digest.Digest]*image.Image, opt *worker.PruneOptions,
	rep *worker.PruneReport,
) error {
	byName := *opt
	byName.All = true // so that a name does not spare
	for _, n := range indices {
		n.Images = slices.DeleteFunc(n.Images, func(id digest.Digest) bool { return left[id] == nil })
		young := opt.KeepFor > 0 && time.Since(n.Tagged) < opt.KeepFor
		keep := slices.ContainsFunc(n.Images, func(id digest.Digest) bool {
			return young || len(left[id].Names) == 0 || s.spared(left[id], &byName)
		})
		if keep {
			continue
		}
		if len(n.Images) > 0 { // else it went with the last, and may have been made again
			if err := s.images.Unindex(n.Index.Digest); err != nil {
				return err
			}
		}
		rep.Images = append(rep.Images, worker.Removed{Deleted: string(n.Index.Digest)})
	}
	return nil
}

// spared says whether an image stays though others are pruned.
func (s *Service) spared(img *image.Image, opt *worker.PruneOptions) bool {
	return len(img.Names) > 0 && !opt.All || len(s.users(img.ID)) > 0 || !matchLabels(configOf(img).Config.Labels, opt.Labels) ||
		opt.KeepFor > 0 && time.Since(img.Created) < opt.KeepFor
}

// matchLabels says whether labels meet every one of the filters "key", "key=value", "key!=value" and "key!".
func matchLabels(labels map[string]string, filters []string) bool {
	for _, f := range filters {
		key, want, hasValue := strings.Cut(f, "=")
		key, not := strings.CutSuffix(key, "!")
		got, ok := labels[key]
		if hasValue {
			ok = ok && got == want
		}
		if ok == not {
			return false
		}
	}
	return true
}
