package builder

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/cachedb"
)

// That it cannot be said whether there is a record is not that there is none.
func TestRecordsStat(t *testing.T) {
	c, err := cachedb.Open(filepath.Join(t.TempDir(), "cache.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var there solver.Key
	if err := c.Put(t.Context(), there, []solver.Result{"r"}); err != nil {
		t.Fatal(err)
	}
	stat := Records(c).Stat
	if err := stat(t.Context(), there.String()); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	if err := stat(t.Context(), solver.Key{1}.String()); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("one that is not: %v", err)
	}
	_, err = c.Drop(t.Context(), func(cachedb.Record) bool { // which has the file to itself
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := stat(over, there.String()); errors.Is(err, snapshot.ErrNotFound) || !errors.Is(err, context.Canceled) {
			t.Errorf("asked too late: %v", err)
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
}
