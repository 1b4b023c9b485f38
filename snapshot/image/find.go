package image

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/snapshot"
)

// Get finds an image by what a user writes: its ID, the digest of an index, a name (canonical or not), a name with
// the digest of a manifest, or the unique beginning of an ID, tried in this order. Of a name for several platforms it
// returns the one for p; nil takes the first. Errors wrap ErrNotFound or ErrAmbiguous.
//
// A digest is found only under the repository that is known to have it: that some other one does says nothing.
func (s *Store) Get(ref string, p *ocispec.Platform) (img *Image, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if img, err = find(tx, ref, p); err != nil {
			return err
		}
		return complete(tx, img)
	})
	if err != nil {
		return nil, err
	}
	return img, nil
}

func find(tx *bbolt.Tx, ref string, p *ocispec.Platform) (*Image, error) {
	hex, maybeID := hexPrefix(ref)
	if maybeID && len(hex) == 64 {
		id := digest.Digest("sha256:" + hex)
		img, err := getImage(tx, id)
		if errors.Is(err, ErrNotFound) {
			return byDocument(tx, id, p)
		}
		return img, err
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err == nil {
		img, err := byName(tx, named, p)
		if err == nil || !maybeID {
			return img, err
		}
	}
	if maybeID {
		return byPrefix(tx, ref, hex)
	}
	return nil, &ReferenceError{Ref: ref, Err: err}
}

// byDocument finds an image by the digest of an index or a manifest, which a name or the image has: it is what builds and
// registries call it.
func byDocument(tx *bbolt.Tx, d digest.Digest, p *ocispec.Platform) (*Image, error) {
	img, err := ofName(tx, p, func(n *Name) bool { return n.Index != nil && n.Index.Digest == d })
	if errors.Is(err, errNoName) {
		img, err = byManifest(tx, "", d, p)
	}
	if errors.Is(err, errNoName) {
		img, err = ofName(tx, p, func(n *Name) bool { return n.has(d) })
	}
	if errors.Is(err, errNoName) {
		img, err = ofUnnamed(tx, p, d)
	}
	if errors.Is(err, errNoName) {
		err = fmt.Errorf("%w: %s", ErrNotFound, d)
	}
	return img, err
}

// errNoName says that nothing is called so. It is told apart from a name that has no image for a platform.
var errNoName = errors.New("no such document")

// has says whether a digest is that of a document of the name's own, or an image's.
func (n *Name) has(d digest.Digest) bool {
	return n.Served != nil && n.Served.Digest == d || slices.Contains(n.Images, d) ||
		slices.ContainsFunc(n.Blobs(), func(b Descriptor) bool { return b.Digest == d })
}

// ofName finds the image of the first name that is.
func ofName(tx *bbolt.Tx, p *ocispec.Platform, is func(*Name) bool) (*Image, error) {
	var found *Name
	err := eachName(tx, func(n *Name) error {
		if found == nil && is(n) {
			found = n
		}
		return nil
	})
	return pickFound(tx, found, p, err)
}

// ofUnnamed finds the image of the index without a name that has the digest, or a manifest with it.
func ofUnnamed(tx *bbolt.Tx, p *ocispec.Platform, d digest.Digest) (*Image, error) {
	var found *Name
	err := eachUnnamed(tx, func(_ string, n *Name) error {
		if n.Index.Digest == d || found == nil && n.has(d) {
			found = n
		}
		return nil
	})
	return pickFound(tx, found, p, err)
}

func pickFound(tx *bbolt.Tx, found *Name, p *ocispec.Platform, err error) (*Image, error) {
	switch {
	case err != nil:
		return nil, err
	case found == nil:
		return nil, errNoName
	}
	return pick(tx, found, p)
}

func byName(tx *bbolt.Tx, named reference.Named, p *ocispec.Platform) (*Image, error) {
	if d, ok := named.(reference.Digested); ok {
		return byDigest(tx, named.Name(), d.Digest(), p)
	}
	name, err := getName(tx, reference.TagNameOnly(named).String())
	if err != nil {
		return nil, err
	}
	return pick(tx, name, p)
}

// byDigest finds the image that has a manifest or index of that digest in the repository; its own ID counts too, for a
// name of the repository that points to it.
func byDigest(tx *bbolt.Tx, repo string, d digest.Digest, p *ocispec.Platform) (*Image, error) {
	img, err := byManifest(tx, repo, d, p)
	if errors.Is(err, errNoName) {
		img, err = ofName(tx, p, func(n *Name) bool { return strings.HasPrefix(n.Ref, repo+":") && n.has(d) })
	}
	if errors.Is(err, errNoName) {
		err = fmt.Errorf("%w: %s@%s", ErrNotFound, repo, d)
	}
	return img, err
}

// byManifest finds the image that registries have, or had, under a digest, in one repository or any.
func byManifest(tx *bbolt.Tx, repo string, d digest.Digest, p *ocispec.Platform) (*Image, error) {
	var found *Image
	c := tx.Bucket(bucketImages).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		img, err := getImage(tx, digest.Digest(k))
		if err != nil {
			return nil, err
		}
		match := slices.ContainsFunc(img.Manifests, func(m Manifest) bool {
			return (repo == "" || m.Repository == repo) && m.Descriptor.Digest == d
		})
		if match && (p == nil || samePlatform(img.Platform, *p)) {
			found = img
			break
		}
	}
	if found == nil {
		return nil, errNoName
	}
	return found, nil
}

func byPrefix(tx *bbolt.Tx, ref, hex string) (*Image, error) {
	prefix := []byte("sha256:" + hex)
	c := tx.Bucket(bucketImages).Cursor()
	k, _ := c.Seek(prefix)
	if !bytes.HasPrefix(k, prefix) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, ref)
	}
	if next, _ := c.Next(); bytes.HasPrefix(next, prefix) {
		return nil, fmt.Errorf("%w: %s", ErrAmbiguous, ref)
	}
	return getImage(tx, digest.Digest(k))
}

// Tag makes a canonical reference point to an image that exists, and to no other.
func (s *Store) Tag(id digest.Digest, name string) error {
	if c, err := Normalize(name); err != nil || c != name {
		return fmt.Errorf("tagging %s: %.300q is not a canonical reference", id, name)
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		img, err := getImage(tx, id)
		if err != nil {
			return err
		}
		img.Tagged = s.now()
		if err := putJSON(tx.Bucket(bucketImages), string(id), img); err != nil {
			return err
		}
		return putJSON(tx.Bucket(bucketNames), name, Name{Ref: name, Images: []digest.Digest{id}, Tagged: img.Tagged})
	})
	if err != nil {
		return fmt.Errorf("tagging %s: %w", Familiar(name), err)
	}
	return nil
}

// SetServed notes what a registry was given under a name, which means exactly these images: desc, and, if that is an
// index, docs in it. A name that has been moved, or removed, in the meantime is left alone.
func (s *Store) SetServed(name string, ids []digest.Digest, desc Descriptor, docs []Descriptor) error {
	if n, err := s.Name(name); err == nil && n.Served != nil && n.Served.Digest == desc.Digest {
		return nil // nothing to sync for
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		n, err := getName(tx, name)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if !slices.Equal(n.Images, ids) {
			return nil
		}
		n.Served = &Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
		if n.Index == nil && len(n.Documents) == 0 && IsIndex(desc.MediaType) {
			n.Documents = docs
		}
		return putJSON(tx.Bucket(bucketNames), name, n)
	})
	if err != nil {
		return fmt.Errorf("noting what %s has: %w", Familiar(name), err)
	}
	return nil
}

// Untag removes a canonical reference and returns what it pointed to. The images stay, dangling if they have no other
// name. ErrNotFound if there is no such name.
func (s *Store) Untag(name string) (ids []digest.Digest, err error) {
	err = s.db.Update(func(tx *bbolt.Tx) error {
		n, err := getName(tx, name)
		if err != nil {
			return err
		}
		ids = n.Images
		return tx.Bucket(bucketNames).Delete([]byte(name))
	})
	if err != nil {
		return nil, fmt.Errorf("untagging: %w", err)
	}
	return ids, nil
}

// Forget removes a manifest of an image: a reference by digest that is no longer wanted.
func (s *Store) Forget(id digest.Digest, repo string, manifest digest.Digest) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		img, err := getImage(tx, id)
		if err != nil {
			return err
		}
		img.Manifests = slices.DeleteFunc(img.Manifests, func(m Manifest) bool {
			return m.Repository == repo && m.Descriptor.Digest == manifest
		})
		return putJSON(tx.Bucket(bucketImages), string(id), img)
	})
	if err != nil {
		return fmt.Errorf("forgetting %s@%s: %w", repo, manifest, err)
	}
	return nil
}

// Delete removes an image and every name that points to it, and forgets the blobs of layers that no other image has.
// It removes no snapshot and no blob: those go when nothing keeps them. ErrNotFound if there is no such image.
func (s *Store) Delete(id digest.Digest) error {
	err := s.change(func(tx *bbolt.Tx) (before, after []*Image, err error) {
		img, err := getImage(tx, id)
		if err != nil {
			return nil, nil, err
		}
		if err := tx.Bucket(bucketImages).Delete([]byte(id)); err != nil {
			return nil, nil, err
		}
		if err := dropFromNames(tx, id); err != nil {
			return nil, nil, err
		}
		return []*Image{img}, []*Image{nil}, dropDiffs(tx, img)
	})
	if err != nil {
		return fmt.Errorf("deleting image: %w", err)
	}
	return nil
}

func dropFromNames(tx *bbolt.Tx, id digest.Digest) error {
	var changed []*Name
	err := eachName(tx, func(n *Name) error {
		if n.without(id) {
			changed = append(changed, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range changed {
		if len(n.Images) == 0 {
			err = tx.Bucket(bucketNames).Delete([]byte(n.Ref))
		} else {
			err = putJSON(tx.Bucket(bucketNames), n.Ref, n)
		}
		if err != nil {
			return err
		}
	}
	return changeUnnamed(tx, func(n *Name) bool { return n.without(id) })
}

// dropDiffs forgets what is known of the layers that were img's alone.
func dropDiffs(tx *bbolt.Tx, img *Image) error {
	mine := make(map[digest.Digest]bool)
	for _, l := range img.Layers {
		mine[l.DiffID] = true
	}
	c := tx.Bucket(bucketImages).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		other, err := getImage(tx, digest.Digest(k))
		if err != nil {
			return err
		}
		for _, l := range other.Layers {
			delete(mine, l.DiffID)
		}
	}
	for d := range mine {
		if err := tx.Bucket(bucketDiffs).Delete([]byte(d)); err != nil {
			return err
		}
	}
	return nil
}

// Roots are what images keep alive.
type Roots struct {
	Snapshots []snapshot.ID
	Blobs     []digest.Digest
}

// Roots returns every snapshot that an image stands on and every blob that is a form of its layers, a manifest or an
// index, each once and sorted. What stands below a snapshot is kept by the snapshot.
func (s *Store) Roots() (Roots, error) {
	imgs, err := s.List()
	if err != nil {
		return Roots{}, err
	}
	names, err := s.Names()
	if err != nil {
		return Roots{}, err
	}
	unnamed, err := s.Unnamed()
	if err != nil {
		return Roots{}, err
	}
	var r Roots
	for _, img := range imgs {
		for _, l := range img.Layers {
			r.Snapshots = append(r.Snapshots, l.Snapshot)
			for _, b := range l.Blobs {
				r.Blobs = append(r.Blobs, b.Digest)
			}
		}
		for _, m := range img.Manifests {
			r.Blobs = append(r.Blobs, m.Descriptor.Digest)
		}
	}
	for _, n := range append(names, unnamed...) {
		for _, d := range n.Blobs() {
			r.Blobs = append(r.Blobs, d.Digest)
		}
	}
	slices.Sort(r.Snapshots)
	slices.Sort(r.Blobs)
	r.Snapshots, r.Blobs = slices.Compact(r.Snapshots), slices.Compact(r.Blobs)
	return r, nil
}
