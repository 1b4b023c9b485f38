package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
)

// The buckets, each with JSON values.
var (
	bucketImages = []byte("images.v1") // ID to Image
	bucketNames  = []byte("names.v1")  // canonical reference to Name
	bucketDiffs  = []byte("diffs.v1")  // diff ID to diffRecord

	bucketUnnamed = []byte("unnamed.v1") // setKey to the Name, without a reference, that has the index of the images
)

// A diffRecord is what is known of a layer besides the images that have it.
type diffRecord struct {
	Blobs   []Descriptor
	Origins []string
}

// A Store keeps images.
type Store struct {
	db  *bbolt.DB
	now func() time.Time

	mu     sync.Mutex
	chains map[digest.Digest]map[digest.Digest]snapshot.ID // by chain ID and the image that has it; guarded by mu
	layers map[snapshot.ID]map[digest.Digest]Layer         // by snapshot and the image that has it; guarded by mu
}

// Open opens the images in db, whose transactions must be synced. The caller closes db after the last call.
func Open(db *bbolt.DB) (*Store, error) {
	s := &Store{
		db: db, now: time.Now,
		chains: make(map[digest.Digest]map[digest.Digest]snapshot.ID), layers: make(map[snapshot.ID]map[digest.Digest]Layer),
	}
	err := db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketImages, bucketNames, bucketDiffs, bucketUnnamed} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketImages).ForEach(func(_, v []byte) error {
			var img Image
			if err := json.Unmarshal(v, &img); err != nil {
				return err
			}
			s.index(nil, &img)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("opening images: %w", err)
	}
	return s, nil
}

// index notes which snapshots hold the chains of img instead of those of old, another record of the same image; either may
// be nil. It is called in a transaction that may write, so that the index follows the records in their order. That what it
// says is not written yet, or never will be, does no harm: see Snapshot.
func (s *Store) index(old, img *Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old != nil {
		for n, chain := range chainIDs(old) {
			remove(s.chains, chain, old.ID)
			remove(s.layers, old.Layers[n].Snapshot, old.ID)
		}
	}
	if img == nil {
		return
	}
	for n, chain := range chainIDs(img) {
		l := img.Layers[n]
		add(s.chains, chain, img.ID, l.Snapshot)
		add(s.layers, l.Snapshot, img.ID, Layer{DiffID: l.DiffID, Snapshot: l.Snapshot, Size: l.Size, Files: l.Files})
	}
}

// change is an Update of the database that ends with the records after in place of before, which fn returns.
func (s *Store) change(fn func(tx *bbolt.Tx) (before, after []*Image, err error)) error {
	var before, after []*Image
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b, a, err := fn(tx)
		if err != nil {
			return err
		}
		before, after = b, a
		for i := range after {
			s.index(before[i], after[i])
		}
		return nil
	})
	if err != nil {
		for i := range slices.Backward(after) { // it could not be written
			s.index(after[i], before[i])
		}
	}
	return err
}

// chainIDs returns the chain ID up to each layer.
func chainIDs(img *Image) []digest.Digest {
	out := make([]digest.Digest, len(img.Layers))
	for n, l := range img.Layers {
		out[n] = l.DiffID
		if n > 0 {
			out[n] = ChainID([]digest.Digest{out[n-1], l.DiffID})
		}
	}
	return out
}

func add[K comparable, V any](m map[K]map[digest.Digest]V, k K, img digest.Digest, v V) {
	if m[k] == nil {
		m[k] = make(map[digest.Digest]V)
	}
	m[k][img] = v
}

func remove[K comparable, V any](m map[K]map[digest.Digest]V, k K, img digest.Digest) {
	if delete(m[k], img); len(m[k]) == 0 {
		delete(m, k)
	}
}

// first returns the value of the least image: any would do, but always the same.
func first[V any](m map[digest.Digest]V) (V, bool) {
	var best digest.Digest
	for img := range m {
		if best == "" || img < best {
			best = img
		}
	}
	return m[best], best != ""
}

// Snapshot returns a snapshot that holds exactly the layers of the chain, if an image has one. The image that keeps it may
// be deleted at any time: hold it before it is relied on.
func (s *Store) Snapshot(chain digest.Digest) (snapshot.ID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return first(s.chains[chain])
}

// Layer returns diff ID and size of the layer that a snapshot is the top of, if an image has it.
func (s *Store) Layer(id snapshot.ID) (Layer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return first(s.layers[id])
}

// An Update is what Put does at once.
type Update struct {
	Images []*Image
	// Names will point to Images and to nothing else. They are canonical.
	Names []string
	// Index is what a registry calls all of Images, Documents the manifests to push under Names, and Served what the
	// registries have under them; nil for none. An index without Names is found by its digest.
	Index     *Descriptor
	Documents []Descriptor
	Served    *Descriptor
}

// Put stores one image, or replaces the record of one that exists (its manifests are added to those known), and makes
// names point to it.
func (s *Store) Put(img *Image, names ...string) error {
	return s.Update(Update{Images: []*Image{img}, Names: names})
}

// Update stores several images and their names, all or nothing.
func (s *Store) Update(u Update) error {
	for _, img := range u.Images {
		if err := img.check(); err != nil {
			return err
		}
	}
	for _, n := range u.Names {
		if c, err := Normalize(n); err != nil || c != n {
			return fmt.Errorf("storing name %.300q: it is not a canonical reference", n)
		}
	}
	err := s.change(func(tx *bbolt.Tx) (before, put []*Image, err error) {
		now := s.now()
		ids := make([]digest.Digest, 0, len(u.Images))
		for _, img := range u.Images {
			rec, old, err := merge(tx, img)
			if err != nil {
				return nil, nil, err
			}
			rec.Stored = now
			if len(u.Names) > 0 {
				rec.Tagged = now
			}
			if err := putJSON(tx.Bucket(bucketImages), string(rec.ID), rec); err != nil {
				return nil, nil, err
			}
			for _, l := range img.Layers {
				if err := addDiff(tx, l.DiffID, l.Blobs, l.Origins); err != nil {
					return nil, nil, err
				}
			}
			put, before = append(put, rec), append(before, old)
			ids = append(ids, rec.ID)
		}
		for _, n := range u.Names {
			rec := Name{Ref: n, Images: ids, Index: u.Index, Documents: u.Documents, Served: u.Served, Tagged: now}
			if err := putJSON(tx.Bucket(bucketNames), n, rec); err != nil {
				return nil, nil, err
			}
		}
		return before, put, u.index(tx, ids, now)
	})
	if err != nil {
		return fmt.Errorf("storing images: %w", err)
	}
	return nil
}

// index keeps the index if there is no name to have it, and lets it go from where it was kept if there is.
func (u *Update) index(tx *bbolt.Tx, ids []digest.Digest, now time.Time) error {
	switch {
	case u.Index == nil || len(ids) == 0:
		return nil
	case len(u.Names) == 0:
		return putUnnamed(tx, &Name{Images: ids, Index: u.Index, Documents: u.Documents, Tagged: now})
	}
	return changeUnnamed(tx, func(n *Name) bool { return n.Index.Digest == u.Index.Digest && n.without(ids...) })
}

// merge returns the record to store for img, and the one that there may be, or nil.
func merge(tx *bbolt.Tx, img *Image) (rec, old *Image, err error) {
	c := *img
	rec = &c
	old, err = getImage(tx, img.ID)
	if errors.Is(err, ErrNotFound) {
		return rec, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	rec.Tagged = old.Tagged
	rec.Parent = cmp.Or(img.Parent, old.Parent)
	rec.Manifests = slices.Clone(img.Manifests)
	for _, m := range old.Manifests {
		i := slices.IndexFunc(rec.Manifests, m.same)
		if i < 0 {
			rec.Manifests = append(rec.Manifests, m)
			continue
		}
		rec.Manifests[i].Inner = rec.Manifests[i].Inner && m.Inner
	}
	return rec, old, nil
}

func (m Manifest) same(o Manifest) bool {
	return m.Repository == o.Repository && m.Descriptor.Digest == o.Descriptor.Digest
}

func putJSON(b *bbolt.Bucket, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), data)
}

func getImage(tx *bbolt.Tx, id digest.Digest) (*Image, error) {
	v := tx.Bucket(bucketImages).Get([]byte(id))
	if v == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	img := new(Image)
	if err := json.Unmarshal(v, img); err != nil {
		return nil, fmt.Errorf("reading image %s: %w", id, err)
	}
	return img, nil
}

func getName(tx *bbolt.Tx, ref string) (*Name, error) {
	v := tx.Bucket(bucketNames).Get([]byte(ref))
	if v == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, Familiar(ref))
	}
	n := new(Name)
	if err := json.Unmarshal(v, n); err != nil {
		return nil, fmt.Errorf("reading name %s: %w", ref, err)
	}
	return n, nil
}

// eachName calls fn for every name.
func eachName(tx *bbolt.Tx, fn func(*Name) error) error {
	return tx.Bucket(bucketNames).ForEach(func(k, v []byte) error {
		n := new(Name)
		if err := json.Unmarshal(v, n); err != nil {
			return fmt.Errorf("reading name %s: %w", k, err)
		}
		return fn(n)
	})
}

func getDiff(tx *bbolt.Tx, diffID digest.Digest) (diffRecord, error) {
	var r diffRecord
	v := tx.Bucket(bucketDiffs).Get([]byte(diffID))
	if v == nil {
		return r, nil
	}
	if err := json.Unmarshal(v, &r); err != nil {
		return r, fmt.Errorf("reading layer %s: %w", diffID, err)
	}
	return r, nil
}

func addDiff(tx *bbolt.Tx, diffID digest.Digest, blobs []Descriptor, origins []string) error {
	r, err := getDiff(tx, diffID)
	if err != nil {
		return err
	}
	news := false
	for _, d := range blobs {
		if err := blob.Validate(d.Digest); err != nil {
			return err
		}
		if isNews(r.Blobs, d) {
			r.Blobs, news = noted(r.Blobs, d), true
		}
	}
	for _, o := range origins {
		if o != "" && !slices.Contains(r.Origins, o) {
			r.Origins, news = append(r.Origins, o), true
		}
	}
	if !news {
		return nil
	}
	return putJSON(tx.Bucket(bucketDiffs), string(diffID), r)
}

// maxAddresses is how many addresses are kept of a blob: manifests come from anybody.
const maxAddresses = 16

// isNews says whether blobs lacks d, or one of its addresses.
func isNews(blobs []Descriptor, d Descriptor) bool {
	i := slices.IndexFunc(blobs, func(o Descriptor) bool { return o.Digest == d.Digest })
	if i < 0 {
		return true
	}
	have := blobs[i].URLs
	return len(have) < maxAddresses && slices.ContainsFunc(d.URLs, func(u string) bool { return !slices.Contains(have, u) })
}

// noted returns blobs with d. Of one that is there only the addresses change: another manifest may know more of them.
func noted(blobs []Descriptor, d Descriptor) []Descriptor {
	i := slices.IndexFunc(blobs, func(o Descriptor) bool { return o.Digest == d.Digest })
	if i < 0 {
		i = len(blobs)
		blobs = append(blobs, Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: d.Annotations})
	}
	for _, u := range d.URLs {
		if to := &blobs[i].URLs; len(*to) < maxAddresses && !slices.Contains(*to, u) {
			*to = append(*to, u)
		}
	}
	return blobs
}

// A Note is something learnt about a layer.
type Note struct {
	DiffID digest.Digest
	Blob   Descriptor // a form of the layer; the zero value for none
	Origin string     // a repository that holds Blob; empty for none
}

// SetBlob notes that desc is a form of the layer with that diff ID, and, if origin is not empty, that the repository
// holds it. An empty desc notes the origin alone.
//
// It must be known to be true, by decompressing and hashing: a registry's word that a blob is a layer would let one image
// put its bytes into another.
func (s *Store) SetBlob(diffID digest.Digest, desc Descriptor, origin string) error {
	return s.SetBlobs(Note{DiffID: diffID, Blob: desc, Origin: origin})
}

// SetBlobs is SetBlob for several at once. If all of it is known nothing is written.
func (s *Store) SetBlobs(notes ...Note) error {
	news := false
	for _, n := range notes {
		if err := blob.Validate(n.DiffID); err != nil {
			return err
		}
		blobs, origins, err := s.Blobs(n.DiffID)
		if err != nil {
			return err
		}
		news = news || n.Origin != "" && !slices.Contains(origins, n.Origin) ||
			n.Blob.Digest != "" && isNews(blobs, n.Blob)
	}
	if !news {
		return nil
	}
	// Layers of one push end at about the same time: Batch makes that one sync.
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		for _, n := range notes {
			var blobs []Descriptor
			if n.Blob.Digest != "" {
				blobs = append(blobs, n.Blob)
			}
			if err := addDiff(tx, n.DiffID, blobs, []string{n.Origin}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("noting blobs of layers: %w", err)
	}
	return nil
}

// Blobs returns the forms and the origins that are known of the layer with that diff ID. A blob may have been deleted.
func (s *Store) Blobs(diffID digest.Digest) (blobs []Descriptor, origins []string, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		r, err := getDiff(tx, diffID)
		blobs, origins = r.Blobs, r.Origins
		return err
	})
	return blobs, origins, err
}

// complete fills in what is not part of an image's record.
func complete(tx *bbolt.Tx, img *Image) error {
	for n := range img.Layers {
		l := &img.Layers[n]
		r, err := getDiff(tx, l.DiffID)
		if err != nil {
			return err
		}
		l.Blobs, l.Origins = r.Blobs, r.Origins
	}
	return eachName(tx, func(n *Name) error {
		if slices.Contains(n.Images, img.ID) {
			img.named(n) // in key order: sorted
		}
		return nil
	})
}

// named notes that n points to the image.
func (i *Image) named(n *Name) {
	i.Names = append(i.Names, n.Ref)
	if n.Served == nil {
		return
	}
	if i.Served == nil {
		i.Served = make(map[string]digest.Digest)
	}
	i.Served[n.Ref] = n.Served.Digest
}

// List returns every image, the youngest first.
func (s *Store) List() ([]*Image, error) {
	var out []*Image
	err := s.db.View(func(tx *bbolt.Tx) error {
		names := make(map[digest.Digest][]*Name)
		err := eachName(tx, func(n *Name) error {
			for _, id := range n.Images {
				names[id] = append(names[id], n)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketImages).ForEach(func(k, v []byte) error {
			img := new(Image)
			if err := json.Unmarshal(v, img); err != nil {
				return fmt.Errorf("reading image %s: %w", k, err)
			}
			for n := range img.Layers {
				r, err := getDiff(tx, img.Layers[n].DiffID)
				if err != nil {
					return err
				}
				img.Layers[n].Blobs, img.Layers[n].Origins = r.Blobs, r.Origins
			}
			for _, n := range names[img.ID] {
				img.named(n)
			}
			out = append(out, img)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	slices.SortStableFunc(out, func(a, b *Image) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// Names returns every name, sorted.
func (s *Store) Names() ([]*Name, error) {
	var out []*Name
	err := s.db.View(func(tx *bbolt.Tx) error {
		return eachName(tx, func(n *Name) error {
			out = append(out, n)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listing names: %w", err)
	}
	return out, nil
}

// Name returns what a canonical reference points to; ErrNotFound if nothing.
func (s *Store) Name(ref string) (name *Name, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		name, err = getName(tx, ref)
		return err
	})
	return name, err
}

// pick returns the image for the platform among those of a name: the first one for nil.
func pick(tx *bbolt.Tx, name *Name, p *ocispec.Platform) (*Image, error) {
	for _, id := range name.Images {
		img, err := getImage(tx, id)
		if err != nil {
			return nil, err
		}
		if p == nil || samePlatform(img.Platform, *p) {
			return img, nil
		}
	}
	called := Familiar(name.Ref)
	if name.Ref == "" {
		called = string(name.Index.Digest)
	}
	if p == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, called)
	}
	return nil, fmt.Errorf("%w: %s for %s/%s", ErrNotFound, called, p.OS, p.Architecture)
}
