package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// Remove implements worker.Images, with docker's rules:
//
//   - A name is untagged. If it was the image's last name in that repository its digests there go too, and with the last
//     reference the image.
//   - By ID the image goes with all its names; if these are of several repositories, or several tags, only by force.
//   - An image that a container uses stays; by force it loses its names.
//   - An image that others were committed from stays while these are there, whatever is done; it can lose its names. With
//     the last of them it goes too, if it has no name, unless NoPrune is set.
//   - With platforms the images for these go, and a name stays with what others it has.
//
// What nothing refers to then is removed from the disk. Its age does not matter: who makes a blob holds it until something
// refers to it, or for as long as it is of use.
func (s *Service) Remove(ctx context.Context, ref string, opt worker.RemoveOptions) ([]worker.Removed, error) {
	done, err := s.deps.Reserve.Use()
	if err != nil {
		return nil, err
	}
	defer done()
	out, err := s.removeAll(ref, opt)
	if err != nil || opt.NoPrune {
		return out, err
	}
	_, err = s.deps.Leases.Collect(ctx, lease.Policy{})
	return out, err
}

// removeAll removes what ref means, for all platforms that are wanted.
func (s *Service) removeAll(ref string, opt worker.RemoveOptions) (out []worker.Removed, err error) {
	wanted := make([]*image.Image, max(1, len(opt.Platforms)))
	for i := range wanted { // all are there, or none is removed
		var p *op.Platform
		if len(opt.Platforms) > 0 {
			p = &opt.Platforms[i]
		}
		if wanted[i], err = s.findFor(ref, p); err != nil {
			return nil, err
		}
	}
	for _, img := range wanted {
		removed, err := s.removeOne(ref, img, opt)
		if n := len(removed); err == nil && !opt.NoPrune && n > 0 && removed[n-1].Deleted == string(img.ID) {
			removed, err = s.deleteParents(img, removed)
		}
		out = append(out, removed...)
		var c *conflict
		if errors.As(err, &c) {
			return out, err
		}
		if err != nil {
			return out, fmt.Errorf("removing image %s: %w", ref, translate(err))
		}
	}
	return out, nil
}

func (s *Service) removeOne(ref string, img *image.Image, opt worker.RemoveOptions) ([]worker.Removed, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil || isID(ref, img) && !slices.Contains(img.Names, reference.TagNameOnly(named).String()) {
		return s.removeID(img, opt)
	}
	if len(opt.Platforms) > 0 {
		if left, err := s.others(img, named); err != nil {
			return nil, err
		} else if left != nil {
			return s.removeFrom(img, left, opt)
		}
	}
	return s.removeName(img, named, opt)
}

// others returns what the name would be without img; nil if it has no other image.
func (s *Service) others(img *image.Image, named reference.Named) (*image.Update, error) {
	if _, ok := named.(reference.Digested); ok {
		return nil, nil
	}
	n, err := s.images.Name(reference.TagNameOnly(named).String())
	if err != nil {
		return nil, err
	}
	u := &image.Update{Names: []string{n.Ref}, Index: n.Index, Documents: n.Documents, Served: n.Served}
	for _, id := range n.Images {
		if id == img.ID {
			continue
		}
		other, err := s.images.Get(string(id), nil)
		if err != nil {
			return nil, err
		}
		u.Images = append(u.Images, other)
	}
	if len(u.Images) == 0 {
		return nil, nil
	}
	return u, nil
}

// removeFrom takes img away from a name that others have too, and deletes it if it has no other one.
func (s *Service) removeFrom(img *image.Image, left *image.Update, opt worker.RemoveOptions) ([]worker.Removed, error) {
	if len(img.Names) == 1 && !opt.Force {
		if err := s.lastName(img, image.Familiar(left.Names[0])); err != nil {
			return nil, err
		}
	}
	if err := s.images.Update(*left); err != nil {
		return nil, err
	}
	repo := repoOf(left.Names[0])
	if slices.ContainsFunc(img.Names, func(n string) bool { return n != left.Names[0] && repoOf(n) == repo }) {
		return nil, nil
	}
	for _, m := range img.Manifests {
		if m.Repository == repo {
			if err := s.images.Forget(img.ID, repo, m.Descriptor.Digest); err != nil {
				return nil, err
			}
		}
	}
	return s.deleteIfBare(img.ID, nil)
}

// isID says whether ref is img's ID or the beginning of it.
func isID(ref string, img *image.Image) bool {
	return strings.HasPrefix(img.ID.Encoded(), strings.TrimPrefix(ref, "sha256:"))
}

// A conflict is why an image is not removed, in docker's words. It wraps worker.ErrInUse.
type conflict struct{ text string }

func conflictf(format string, args ...any) error {
	return &conflict{"conflict: unable to " + fmt.Sprintf(format, args...)}
}

func (e *conflict) Error() string { return e.text }

// Unwrap returns what it is.
func (e *conflict) Unwrap() error { return worker.ErrInUse }

// users are the containers that use the image, those that run first.
func (s *Service) users(id digest.Digest) []worker.ImageUser {
	if s.deps.Users == nil {
		return nil
	}
	return s.deps.Users(id)
}

func short(id string) string { return id[:min(12, len(id))] }

// lastName returns an error if the image would lose its last name while containers use it.
func (s *Service) lastName(img *image.Image, ref string) error {
	if u := s.users(img.ID); len(u) > 0 {
		return conflictf("remove repository reference %q (must force) - container %s is using its referenced image %s",
			ref, short(u[0].Container), short(img.ID.Encoded()))
	}
	return nil
}

// deletable returns an error if the image, with all its names, must not be deleted: a container that runs keeps it whatever
// happens, and one that does not unless force is used.
func (s *Service) deletable(img *image.Image, force bool) error {
	id := short(img.ID.Encoded())
	children, err := s.hasChildren(img.ID)
	if err != nil {
		return err
	}
	u := s.users(img.ID)
	switch {
	case children:
		return conflictf("delete %s (cannot be forced) - image has dependent child images", id)
	case len(u) > 0 && u[0].Running:
		return conflictf("delete %s (cannot be forced) - image is being used by running container %s", id, short(u[0].Container))
	case len(u) > 0 && !force:
		return conflictf("delete %s (must be forced) - image is being used by stopped container %s", id, short(u[0].Container))
	case len(img.Names) > 1 && !force:
		return conflictf("delete %s (must be forced) - image is referenced in multiple repositories", id)
	}
	return nil
}

// hasChildren says whether there are images that were committed from this one.
func (s *Service) hasChildren(id digest.Digest) (bool, error) {
	all, err := s.images.List()
	return slices.ContainsFunc(all, func(o *image.Image) bool { return o.Parent == id }), err
}

// deleteParents deletes the image that img, which is gone, was committed from if nothing else keeps it, and so on.
func (s *Service) deleteParents(img *image.Image, out []worker.Removed) ([]worker.Removed, error) {
	for img.Parent != "" {
		parent, err := s.images.Get(string(img.Parent), nil)
		if errors.Is(err, image.ErrNotFound) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		n := len(out)
		if out, err = s.deleteIfBare(parent.ID, out); err != nil || len(out) == n {
			return out, err
		}
		img = parent
	}
	return out, nil
}

// removeName removes one reference, and the image if that was the last.
func (s *Service) removeName(img *image.Image, named reference.Named, opt worker.RemoveOptions) ([]worker.Removed, error) {
	repo := named.Name()
	if d, ok := named.(reference.Digested); ok {
		if err := s.images.Forget(img.ID, repo, d.Digest()); err != nil {
			return nil, err
		}
		out := []worker.Removed{{Untagged: image.Familiar(repo + "@" + string(d.Digest()))}}
		return s.deleteIfBare(img.ID, out)
	}
	name := reference.TagNameOnly(named).String()
	if len(img.Names) == 1 && !opt.Force {
		if err := s.lastName(img, reference.FamiliarString(named)); err != nil {
			return nil, err
		}
	}
	if _, err := s.images.Untag(name); err != nil {
		return nil, err
	}
	out := []worker.Removed{{Untagged: image.Familiar(name)}}
	if slices.ContainsFunc(img.Names, func(n string) bool { return n != name && repoOf(n) == repo }) {
		return out, nil
	}
	for _, m := range img.Manifests {
		if m.Repository != repo {
			continue
		}
		if err := s.images.Forget(img.ID, repo, m.Descriptor.Digest); err != nil {
			return out, err
		}
		if !m.Inner {
			out = append(out, worker.Removed{Untagged: image.Familiar(repo + "@" + string(m.Descriptor.Digest))})
		}
	}
	return s.deleteIfBare(img.ID, out)
}

// deleteIfBare deletes an image that has no reference left and that nothing uses.
func (s *Service) deleteIfBare(id digest.Digest, out []worker.Removed) ([]worker.Removed, error) {
	img, err := s.images.Get(string(id), nil)
	if err != nil {
		return out, err
	}
	if len(img.Names) > 0 || len(img.RepoDigests()) > 0 || len(s.users(id)) > 0 {
		return out, nil
	}
	if children, err := s.hasChildren(id); err != nil || children {
		return out, err
	}
	if err := s.images.Delete(id); err != nil {
		return out, err
	}
	return append(out, worker.Removed{Deleted: string(id)}), nil
}

// removeID removes an image with all its references.
func (s *Service) removeID(img *image.Image, opt worker.RemoveOptions) ([]worker.Removed, error) {
	if err := s.deletable(img, opt.Force); err != nil {
		return nil, err
	}
	out := references(img)
	if err := s.images.Delete(img.ID); err != nil {
		return nil, err
	}
	return append(out, worker.Removed{Deleted: string(img.ID)}), nil
}

func references(img *image.Image) []worker.Removed {
	var out []worker.Removed
	for _, n := range img.Names {
		out = append(out, worker.Removed{Untagged: image.Familiar(n)})
	}
	for _, d := range img.RepoDigests() {
		out = append(out, worker.Removed{Untagged: image.Familiar(d)})
	}
	return out
}

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
