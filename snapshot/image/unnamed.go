package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
)

// An index without a name is what a build for several platforms has made that was given none: its digest is all that it is
// known by. It is kept as a Name without a Ref, in a bucket of its own, one for every set of images, so that builds that
// make the same images with another index do not pile them up. It ends with the last image that it leads to, and when a
// name gets it.

// setKey returns the key of the index without a name that leads to exactly the images.
func setKey(ids []digest.Digest) string {
	sorted := make([]string, len(ids))
	for i, id := range ids {
		sorted[i] = string(id)
	}
	slices.Sort(sorted)
	return string(digest.FromString(strings.Join(slices.Compact(sorted), " ")))
}

// eachUnnamed calls fn for every index without a name.
func eachUnnamed(tx *bbolt.Tx, fn func(key string, n *Name) error) error {
	return tx.Bucket(bucketUnnamed).ForEach(func(k, v []byte) error {
		n := new(Name)
		if err := json.Unmarshal(v, n); err != nil {
			return fmt.Errorf("reading index %s: %w", k, err)
		}
		return fn(string(k), n)
	})
}

// putUnnamed keeps an index that no name has. It takes the place of an older one of the same images.
func putUnnamed(tx *bbolt.Tx, n *Name) error {
	named := false
	err := eachName(tx, func(o *Name) error {
		named = named || o.Index != nil && o.Index.Digest == n.Index.Digest && slices.Equal(o.Images, n.Images)
		return nil
	})
	if err != nil || named {
		return err
	}
	return putJSON(tx.Bucket(bucketUnnamed), setKey(n.Images), n)
}

// changeUnnamed replaces the indices without a name, or removes them, for which change says that it has changed them. One that
// has no image left goes; of two that now lead to the same images the younger stays.
func changeUnnamed(tx *bbolt.Tx, change func(*Name) bool) error {
	changed := make(map[string]*Name)
	err := eachUnnamed(tx, func(key string, n *Name) error {
		if change(n) {
			changed[key] = n
		}
		return nil
	})
	if err != nil {
		return err
	}
	b := tx.Bucket(bucketUnnamed)
	for key := range changed {
		if err := b.Delete([]byte(key)); err != nil {
			return err
		}
	}
	for _, n := range changed {
		if len(n.Images) == 0 {
			continue
		}
		key := setKey(n.Images)
		if v := b.Get([]byte(key)); v != nil {
			var other Name
			if err := json.Unmarshal(v, &other); err != nil {
				return fmt.Errorf("reading index %s: %w", key, err)
			}
			if other.Tagged.After(n.Tagged) {
				continue
			}
		}
		if err := putJSON(b, key, n); err != nil {
			return err
		}
	}
	return nil
}

// without takes images away from a name and says whether it had any of them.
func (n *Name) without(ids ...digest.Digest) bool {
	had := len(n.Images)
	n.Images = slices.DeleteFunc(n.Images, func(d digest.Digest) bool { return slices.Contains(ids, d) })
	return len(n.Images) < had
}

// Unnamed returns the indices that no name has, as names without a Ref; Tagged is when they were made.
func (s *Store) Unnamed() ([]*Name, error) {
	var out []*Name
	err := s.db.View(func(tx *bbolt.Tx) error {
		return eachUnnamed(tx, func(_ string, n *Name) error {
			out = append(out, n)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listing indices: %w", err)
	}
	return out, nil
}

// Unindex takes images away from the index without a name that has a digest; without any it removes the index. The images
// stay. That there is no such index is no error.
func (s *Store) Unindex(index digest.Digest, ids ...digest.Digest) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return changeUnnamed(tx, func(n *Name) bool {
			if n.Index.Digest != index {
				return false
			}
			if len(ids) == 0 {
				n.Images = nil
				return true
			}
			return n.without(ids...)
		})
	})
	if err != nil {
		return fmt.Errorf("removing index %s: %w", index, err)
	}
	return nil
}
