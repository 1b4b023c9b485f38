package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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
//     reference the image. All this goes for each of its images, if it has them for several platforms.
//   - By ID the image goes with all its names; if these are of several repositories, or several tags, only by force.
//   - By the digest of an index all names that have the index go, by force if they are several, and what was theirs alone.
//     An index that no name has goes with its digest, and keeps its images until then.
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
	names, err := s.namesWith(ref)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 && len(opt.Platforms) == 0 {
		return s.removeIndex(ref, names, opt)
	}
	for _, img := range wanted {
		var removed []worker.Removed
		if len(names) > 0 {
			removed, err = s.removeFromIndex(img, names, opt)
		} else {
			removed, err = s.removeOne(ref, img, opt)
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
	if err != nil || (isID(ref, img) || isDigest(ref)) && !slices.Contains(img.Names, reference.TagNameOnly(named).String()) {
		return s.removeID(img, opt)
	}
	if len(opt.Platforms) > 0 {
		if left, err := s.others(img, named); err != nil {
			return nil, err
		} else if left != nil {
			return s.removeFrom(img, left, opt)
		}
	}
	if d, ok := named.(reference.Digested); ok {
		return s.removeDigest(img, named.Name(), d.Digest(), opt)
	}
	return s.removeName(reference.TagNameOnly(named), opt)
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
	return s.deleteBare([]*image.Image{img}, nil, opt)
}

// isID says whether ref is img's ID or the beginning of it.
func isID(ref string, img *image.Image) bool {
	return strings.HasPrefix(img.ID.Encoded(), strings.TrimPrefix(ref, "sha256:"))
}

// isDigest says whether ref has the form of an ID in full: it is one, or the digest of a document.
func isDigest(ref string) bool { return digest.Digest(ref).Validate() == nil }

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

// removeName removes a name, and those of its images that had no other reference.
func (s *Service) removeName(named reference.Named, opt worker.RemoveOptions) ([]worker.Removed, error) {
	name, repo := named.String(), named.Name()
	imgs, err := s.imagesOf(name)
	if err != nil {
		return nil, err
	}
	for _, img := range imgs {
		if len(img.Names) == 1 && !opt.Force {
			if err := s.lastName(img, reference.FamiliarString(named)); err != nil {
				return nil, err
			}
		}
	}
	if _, err := s.images.Untag(name); err != nil {
		return nil, err
	}
	out := []worker.Removed{{Untagged: image.Familiar(name)}}
	var gone []string // references by digest
	for _, img := range imgs {
		if slices.ContainsFunc(img.Names, func(n string) bool { return n != name && repoOf(n) == repo }) {
			continue
		}
		for _, m := range img.Manifests {
			if m.Repository != repo {
				continue
			}
			if err := s.images.Forget(img.ID, repo, m.Descriptor.Digest); err != nil {
				return out, err
			}
			if ref := repo + "@" + string(m.Descriptor.Digest); !m.Inner && !slices.Contains(gone, ref) {
				gone = append(gone, ref)
			}
		}
	}
	for _, ref := range gone {
		// An image of another name, or of none, can have the same index.
		if _, err := s.images.Get(ref, nil); errors.Is(err, image.ErrNotFound) {
			out = append(out, worker.Removed{Untagged: image.Familiar(ref)})
		}
	}
	return s.deleteBare(imgs, out, opt)
}

// imagesOf returns all images of a name.
func (s *Service) imagesOf(name string) ([]*image.Image, error) {
	n, err := s.images.Name(name)
	if err != nil {
		return nil, err
	}
	return s.imagesIn(n)
}

// imagesIn returns all images that n points to.
func (s *Service) imagesIn(n *image.Name) (_ []*image.Image, err error) {
	imgs := make([]*image.Image, len(n.Images))
	for i, id := range n.Images {
		if imgs[i], err = s.images.Get(string(id), nil); err != nil {
			return nil, err
		}
	}
	return imgs, nil
}

// removeDigest removes a reference by digest: from img, and, unless platforms are asked for, from whatever else has it.
func (s *Service) removeDigest(img *image.Image, repo string, d digest.Digest, opt worker.RemoveOptions) ([]worker.Removed, error) {
	imgs := []*image.Image{img}
	if len(opt.Platforms) == 0 {
		all, err := s.images.List()
		if err != nil {
			return nil, err
		}
		for _, o := range all {
			if o.ID != img.ID && slices.ContainsFunc(o.Manifests, func(m image.Manifest) bool {
				return m.Repository == repo && m.Descriptor.Digest == d
			}) {
				imgs = append(imgs, o)
			}
		}
	}
	for _, o := range imgs {
		if err := s.images.Forget(o.ID, repo, d); err != nil {
			return nil, err
		}
	}
	return s.deleteBare(imgs, []worker.Removed{{Untagged: image.Familiar(repo + "@" + string(d))}}, opt)
}

// deleteBare deletes those of imgs that have no reference left, and what they were committed from.
func (s *Service) deleteBare(imgs []*image.Image, out []worker.Removed, opt worker.RemoveOptions) (_ []worker.Removed, err error) {
	for _, img := range imgs {
		n := len(out)
		if out, err = s.deleteIfBare(img.ID, out); err != nil {
			return out, err
		}
		if len(out) > n && !opt.NoPrune {
			if out, err = s.deleteParents(img, out); err != nil {
				return out, err
			}
		}
	}
	return out, nil
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
	if indexed, err := s.indexed(id, ""); err != nil || indexed {
		return out, err
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
	out = append(out, worker.Removed{Deleted: string(img.ID)})
	if opt.NoPrune {
		return out, nil
	}
	return s.deleteParents(img, out)
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
