package snapshottest_test

import (
	"errors"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/snapshottest"
)

// The fake is held to the contract that it stands in for.
func TestMemory(t *testing.T) {
	open := map[string]*snapshottest.Memory{}
	snapshottest.TestSnapshotter(t, func(_ *testing.T, dir string) snapshot.Snapshotter {
		if old := open[dir]; old != nil {
			open[dir] = old.Restart()
		} else {
			open[dir] = snapshottest.NewMemory(dir)
		}
		return open[dir]
	})
}

// After a power cut there is what was synced, and the snapshotter of before is dead.
func TestPowerCut(t *testing.T) {
	ctx := t.Context()
	m := snapshottest.NewMemory(t.TempDir())
	commit := func(m *snapshottest.Memory, id snapshot.ID) error {
		if _, err := m.Prepare(ctx, "d", ""); err != nil {
			return err
		}
		return m.Commit(ctx, "d", id)
	}
	if err := errors.Join(commit(m, "a"), m.Sync(ctx), commit(m, "b")); err != nil {
		t.Fatal(err)
	}
	after := m.PowerCut()
	if _, err := after.Stat(ctx, "a"); err != nil {
		t.Error(err)
	}
	if _, err := after.Stat(ctx, "b"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("b: %v, want ErrNotFound", err)
	}
	if err := commit(m, "c"); !errors.Is(err, snapshottest.ErrCrashed) {
		t.Errorf("the old one: %v, want ErrCrashed", err)
	}
	if err := commit(after, "b"); err != nil {
		t.Error(err)
	}
}
