package run

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/solver"
)

// TestRecent checks that what was put is found, the last of a lineage, until its snapshot has gone and the directory is
// swept, and that nothing else is left there then.
func TestRecent(t *testing.T) {
	r := recent{filepath.Join(t.TempDir(), "copies")}
	a, b := solver.Key{1}, solver.Key{2}
	if _, _, ok := r.get(a); ok {
		t.Error("something is found in a directory that does not exist")
	}
	r.put(a, "first", []byte("old"))
	r.put(a, "second", []byte("new"))
	r.put(b, "other", nil)
	r.put(solver.Key{}, "nothing", nil)
	for _, tc := range []struct {
		lineage  solver.Key
		id       snapshot.ID
		manifest string
	}{{a, "second", "new"}, {b, "other", ""}} {
		id, m, ok := r.get(tc.lineage)
		if !ok || id != tc.id || string(m) != tc.manifest {
			t.Errorf("got %q, %q, %v, want %q, %q", id, m, ok, tc.id, tc.manifest)
		}
	}
	long := bytes.Repeat([]byte("long"), 1000)
	r.put(solver.Key{3}, "third", long)
	for name, data := range map[string]string{".new-1": recentMagic + "\x00\x06second", "empty": "", "strange": "strange"} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.sweep(func(id snapshot.ID) bool { return id == "second" })
	if _, _, ok := r.get(b); ok {
		t.Error("a hint whose snapshot has gone is still found")
	}
	if _, _, ok := r.get(a); !ok {
		t.Error("a hint whose snapshot is there is not found")
	}
	files, err := os.ReadDir(r.dir)
	if err != nil || len(files) != 1 {
		t.Errorf("the directory has %v (%v), want one file", files, err)
	}
	off := recent{}
	if off.put(a, "x", nil); off.dir != "" {
		t.Error("without a directory there is one")
	}
	if _, _, ok := off.get(a); ok {
		t.Error("something is found without a directory")
	}
}

// TestRecentDamaged checks that a hint whose head is wrong, or cut off anywhere, is not found. (A manifest has a checksum of
// its own.)
func TestRecentDamaged(t *testing.T) {
	r := recent{t.TempDir()}
	k := solver.Key{1}
	r.put(k, "id", []byte("a manifest"))
	good, err := os.ReadFile(r.path(k))
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, at int, data []byte) {
		t.Helper()
		if err := os.WriteFile(r.path(k), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if id, m, ok := r.get(k); ok {
			t.Errorf("%s at %d: got %q, %q", what, at, id, m)
		}
	}
	for i := range len(recentMagic) {
		flipped := bytes.Clone(good)
		flipped[i] ^= 0x20
		check("flipped", i, flipped)
	}
	for i := range len(recentMagic) + 2 + len("id") {
		check("cut off", i, good[:i])
	}
	long := bytes.Clone(good)
	long[len(recentMagic)] = 0xff
	check("an ID longer than the file", len(recentMagic), long)
}
