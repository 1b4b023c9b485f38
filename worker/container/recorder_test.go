package container

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/worker"
)

// stored returns the name of a container as it is on the disk; "" if it is not.
func (f *fixture) stored(id string) string {
	f.Helper()
	var rec record
	f.must(f.db.View(func(tx *bbolt.Tx) error {
		raw := tx.Bucket(bucket).Get([]byte(id))
		if raw == nil {
			return nil
		}
		return json.Unmarshal(raw, &rec)
	}))
	return rec.Name
}

// full makes the disk one that takes no more records, until what it returns is called.
func (f *fixture) full() (undo func()) {
	r := f.Manager.records
	r.update = func(func(*bbolt.Tx) error) error { return syscall.ENOSPC }
	return func() { r.update = f.db.Update }
}

// What the disk did not take has not happened, also not later: a container that could not be renamed has its old name after a
// restart, and one that could not be made is not there.
func TestUnwritten(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	req := request("sleep")
	req.Name = "old"
	id := f.create(req)
	undo := f.full()
	if err := f.Rename(ctx, id, "new"); err == nil {
		t.Error("a container was renamed, and nothing was written")
	}
	if _, err := f.Create(ctx, request("sleep")); err == nil {
		t.Error("a container was made, and nothing was written")
	}
	undo()
	f.create(request("sleep")) // with whatever waits to be written
	if got := f.stored(id); got != "old" {
		t.Errorf("its name is %q on the disk, want %q", got, "old")
	}
	f.restart()
	f.must(f.Remove(ctx, "old", worker.RemoveContainerOptions{}))
	if n := len(f.all()); n != 1 {
		t.Errorf("there are %d containers, want the one that was made", n)
	}
}

// Nobody waits for a recorder that has ended.
func TestRecorderClosed(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := newRecorder(db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	if err := r.put(&record{ID: "late"}); !errors.Is(err, errClosing) {
		t.Errorf("got %v", err)
	}
}

// A removal that failed says nothing of the volumes that the next one removes.
func TestRemoveAgain(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	req := request("sleep")
	req.Config.Volumes = map[string]struct{}{"/data": {}}
	id := f.create(req)
	undo := f.full()
	if err := f.Remove(ctx, id, worker.RemoveContainerOptions{Volumes: true}); err == nil {
		t.Error("a container was removed, and nothing was written")
	}
	undo()
	c, err := f.find(id)
	f.must(err)
	volume := c.get().Mounts[0].Name
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{}))
	if _, err := f.vols.Inspect(ctx, volume); err != nil {
		t.Errorf("its volume: %v", err)
	}
}
