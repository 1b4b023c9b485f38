package native

import (
	"testing"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/snapshottest"
	"github.com/boxbuild/boxbuild/snapshot/store"
)

func open(t testing.TB, dir string) *Snapshotter {
	t.Helper()
	s, err := Open(t.Context(), dir, store.Options{Keep: snapshottest.Keep})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The contract of package snapshot holds.
func TestConformance(t *testing.T) {
	snapshottest.TestSnapshotter(t, func(t *testing.T, dir string) snapshot.Snapshotter { return open(t, dir) })
}
