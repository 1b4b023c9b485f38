package run

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/boxbuild/boxbuild/solver/op"
)

// Cache mounts are listed with what they take, and removed unless a step is in one.
func TestCacheMounts(t *testing.T) {
	r := &Runner{deps: Deps{CacheDir: filepath.Join(t.TempDir(), "caches")}}
	if got, err := r.CacheMounts(t.Context()); len(got) != 0 || err != nil {
		t.Errorf("without a directory: %v, %v", got, err)
	}
	for _, name := range []string{"a", "b", freshCache + "x", goneCache + "y"} {
		dir := filepath.Join(r.deps.CacheDir, name, "sub")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 100<<10), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "g")); err != nil {
			t.Fatal(err)
		}
	}
	r.noteCacheUse("a", "what\n\"a\" is")
	r.noteCacheUse("a", "another step's")
	if ok, err := r.caches.acquire(t.Context(), "b", op.SharingShared); !ok || err != nil {
		t.Fatal(ok, err)
	}
	list := func() map[string]CacheMount {
		t.Helper()
		all, err := r.CacheMounts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]CacheMount{}
		for _, m := range all {
			out[m.Name] = m
		}
		return out
	}
	got := list()
	if len(got) != 2 || got["a"].InUse || !got["b"].InUse || got["a"].Used.IsZero() {
		t.Errorf("got %+v", got)
	}
	if a, b := got["a"], got["b"]; a.Description != "what\n\"a\" is" || a.Uses != 2 || b.Description != "" || b.Uses != 0 {
		t.Errorf("got %+v, %+v", a, b)
	}
	if n := got["a"].Size; n < 100<<10 || n > 150<<10 {
		t.Errorf("a file with two names, of 100 KiB, takes %d", n)
	}
	for name, want := range map[string]bool{"a": true, "b": false, "none": false} {
		if ok, err := r.RemoveCacheMount(t.Context(), name); ok != want || err != nil {
			t.Errorf("removing %s: %v, %v", name, ok, err)
		}
	}
	r.caches.release("b", op.SharingShared)
	for _, bad := range []string{"", ".", "..", "../x", "a/b", freshCache + "x", goneCache + "y", noteCache + "a"} {
		if ok, err := r.RemoveCacheMount(t.Context(), bad); ok || err == nil {
			t.Errorf("removing %q: %v, %v", bad, ok, err)
		}
	}
	if ok, err := r.RemoveCacheMount(t.Context(), "b"); !ok || err != nil {
		t.Errorf("when the step has left: %v, %v", ok, err)
	}
	if got := list(); len(got) != 0 {
		t.Errorf("left are %+v", got)
	}
	if notes, err := filepath.Glob(filepath.Join(r.deps.CacheDir, noteCache+"*")); len(notes) != 0 || err != nil {
		t.Errorf("left are the notes %q, %v", notes, err)
	}
}
