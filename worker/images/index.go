package images

import (
	"errors"
	"fmt"
	"slices"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/worker"
)

// namesWith returns the names whose index has the digest that ref is, as builds for several platforms and registries say
// what they made or have; where no name has it the index alone, as a name without a Ref. There are none if ref is no digest,
// or that of something else. A digest can be read as the name "sha256" with a tag, too: where there is that name, ref is the
// name.
func (s *Service) namesWith(ref string) ([]*image.Name, error) {
	d := digest.Digest(ref)
	if d.Validate() != nil {
		d = digest.NewDigestFromEncoded(digest.Canonical, ref)
		if d.Validate() != nil {
			return nil, nil
		}
	}
	if _, err := s.nameOf(ref); err == nil {
		return nil, nil
	}
	all, err := s.images.Names()
	if err != nil {
		return nil, err
	}
	is := func(doc *image.Descriptor) bool { return doc != nil && doc.Digest == d && image.IsIndex(doc.MediaType) }
	isNot := func(n *image.Name) bool { return !is(n.Index) && !is(n.Served) }
	if all = slices.DeleteFunc(all, isNot); len(all) > 0 {
		return all, nil
	}
	all, err = s.images.Unnamed()
	return slices.DeleteFunc(all, isNot), err
}

// indexed says whether an index that no name has leads to an image: it is a reference, as a name is. Those with the digest
// except do not count.
func (s *Service) indexed(id, except digest.Digest) (bool, error) {
	all, err := s.images.Unnamed()
	return slices.ContainsFunc(all, func(n *image.Name) bool {
		return n.Index.Digest != except && slices.Contains(n.Images, id)
	}), err
}

// removeIndex removes what the digest of an index means: the names that have the index, and those of its images that have no
// other one. The rules are those for an image's ID.
func (s *Service) removeIndex(ref string, names []*image.Name, opt worker.RemoveOptions) (out []worker.Removed, err error) {
	if len(names) > 1 && !opt.Force {
		d := digest.Digest(ref)
		if d.Validate() == nil {
			ref = d.Encoded()
		}
		return nil, conflictf("delete %s (must be forced) - image is referenced in multiple repositories", short(ref))
	}
	own, err := s.ownOf(names, opt.Force)
	if err != nil {
		return nil, err
	}
	forced := opt
	forced.Force = true // that they may go has been found out
	for _, n := range names {
		if n.Ref == "" {
			if err := s.images.Unindex(n.Index.Digest); err != nil {
				return out, err
			}
			out = append(out, worker.Removed{Deleted: string(n.Index.Digest)})
			continue
		}
		named, err := reference.ParseNormalizedNamed(n.Ref)
		if err != nil {
			return out, err
		}
		removed, err := s.removeName(named, forced)
		out = append(out, removed...)
		if err != nil {
			return out, err
		}
	}
	for _, img := range own {
		left, err := s.images.Get(string(img.ID), nil)
		if errors.Is(err, image.ErrNotFound) {
			continue
		}
		if err != nil {
			return out, err
		}
		removed, err := s.removeID(left, forced)
		out = append(out, removed...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// ownOf returns the images that have no other reference than names. That one must not be deleted is an error.
func (s *Service) ownOf(names []*image.Name, force bool) (own []*image.Image, err error) {
	for _, n := range names {
		except := digest.Digest("")
		if n.Ref == "" {
			except = n.Index.Digest
		}
		imgs, err := s.imagesIn(n)
		if err != nil {
			return nil, err
		}
		for _, img := range imgs {
			known := slices.ContainsFunc(own, func(o *image.Image) bool { return o.ID == img.ID })
			if known || !within(img.Names, names) {
				continue
			}
			if other, err := s.indexed(img.ID, except); err != nil {
				return nil, err
			} else if other {
				continue
			}
			if err := s.deletable(img, force); err != nil {
				return nil, err
			}
			own = append(own, img)
		}
	}
	return own, nil
}

// within says whether refs are all among names.
func within(refs []string, names []*image.Name) bool {
	return !slices.ContainsFunc(refs, func(ref string) bool {
		return !slices.ContainsFunc(names, func(n *image.Name) bool { return n.Ref == ref })
	})
}

// removeFromIndex takes an image away from the names that have an index.
func (s *Service) removeFromIndex(img *image.Image, names []*image.Name, opt worker.RemoveOptions) (out []worker.Removed, err error) {
	for _, n := range names {
		if !slices.Contains(n.Images, img.ID) {
			continue
		}
		var removed []worker.Removed
		if n.Ref == "" {
			removed, err = s.removeUnnamed(n, img, opt)
		} else {
			removed, err = s.removeOne(n.Ref, img, opt)
		}
		out = append(out, removed...)
		if err != nil && n.Ref == "" {
			return out, err
		}
		if err != nil {
			return out, fmt.Errorf("%s: %w", image.Familiar(n.Ref), err)
		}
		if img, err = s.images.Get(string(img.ID), nil); errors.Is(err, image.ErrNotFound) {
			return out, nil
		} else if err != nil {
			return out, err
		}
	}
	return out, nil
}

// removeUnnamed takes img away from an index that no name has, and deletes it if it has no other reference.
func (s *Service) removeUnnamed(n *image.Name, img *image.Image, opt worker.RemoveOptions) (out []worker.Removed, err error) {
	alone := *n
	alone.Images = []digest.Digest{img.ID}
	own, err := s.ownOf([]*image.Name{&alone}, opt.Force)
	if err != nil {
		return nil, err
	}
	if err := s.images.Unindex(n.Index.Digest, img.ID); err != nil {
		return nil, err
	}
	left, err := s.namesWith(string(n.Index.Digest))
	if err != nil {
		return nil, err
	}
	if len(left) == 0 { // that was the last
		out = append(out, worker.Removed{Deleted: string(n.Index.Digest)})
	}
	if len(own) == 0 {
		return out, nil
	}
	removed, err := s.removeID(img, opt)
	return append(out, removed...), err
}
