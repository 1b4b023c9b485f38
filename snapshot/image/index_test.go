package image

import (
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/boxbuild/boxbuild/snapshot"
)

// However changes of one image meet, the index says what its record says.
func TestIndexFollowsRecords(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8)) // so that changes meet, however many processors there are
	s := open(t)
	variant := func(id snapshot.ID) *Image {
		img := mk("a", "x")
		img.Layers[0].Snapshot = id
		return img
	}
	id, chain := variant("").ID, digest.FromString("x")
	for range 2000 {
		var changes sync.WaitGroup
		for _, id := range []snapshot.ID{"one", "two", "three"} {
			changes.Go(func() {
				if err := s.Put(variant(id)); err != nil {
					t.Error(err)
				}
			})
		}
		changes.Go(func() {
			if err := s.Delete(id); err != nil && !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		})
		changes.Wait()
		var want []snapshot.ID
		if img, err := s.Get(string(id), nil); err == nil {
			want = append(want, img.Layers[0].Snapshot)
		}
		var got []snapshot.ID
		if sn, ok := s.Snapshot(chain); ok {
			got = append(got, sn)
		}
		for _, sn := range []snapshot.ID{"one", "two", "three"} {
			if _, ok := s.Layer(sn); ok && !slices.Contains(want, sn) {
				t.Fatalf("%s has a layer, the record has %v", sn, want)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("the chain is in %v, the record has %v", got, want)
		}
	}
}

// A change that could not be written is not in the index.
func TestIndexFailure(t *testing.T) {
	s, err := Open(openDB(t, filepath.Join(t.TempDir(), "meta.db")))
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, mk("a", "x"))
	old, chain := mk("a", "x").Layers[0].Snapshot, digest.FromString("x")
	changed := mk("a", "x")
	changed.Layers[0].Snapshot = "other"
	// A transaction that grows the file beyond its limit fails when it is committed.
	s.db.MaxSize = 1
	changed.Config = append(changed.Config, make([]byte, 1<<20)...)
	changed.ID = digest.FromBytes(changed.Config)
	if err := s.Update(Update{Images: []*Image{changed, mk("b", "y")}}); !errors.Is(err, berrors.ErrMaxSizeReached) {
		t.Fatalf("got %v", err)
	}
	if sn, ok := s.Snapshot(chain); !ok || sn != old {
		t.Errorf("the chain is in %q, want %q", sn, old)
	}
	if sn, ok := s.Snapshot(digest.FromString("y")); ok {
		t.Errorf("the chain of an image that is not stored is in %q", sn)
	}
}
