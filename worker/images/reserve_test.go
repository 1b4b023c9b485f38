package images

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/boxbuild/boxbuild/worker"
)

// The reserve takes space unless somebody uses it, and again when the last one has done.
func TestReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reserve")
	taken := func() int64 {
		t.Helper()
		fi, err := os.Stat(path)
		if os.IsNotExist(err) {
			return 0
		}
		if err != nil {
			t.Fatal(err)
		}
		return fi.Sys().(*syscall.Stat_t).Blocks * 512
	}
	r := NewReserve(path)
	if n := taken(); n < reserveSize {
		t.Skipf("the file system has reserved %d bytes", n)
	}
	one, err := r.Use()
	if err != nil {
		t.Fatal(err)
	}
	two, err := r.Use()
	if err != nil {
		t.Fatal(err)
	}
	one()
	if n := taken(); n != 0 {
		t.Errorf("%d bytes are taken while it is in use", n)
	}
	two()
	if n := taken(); n < reserveSize {
		t.Errorf("%d bytes are taken afterwards", n)
	}
	var none *Reserve
	done, err := none.Use()
	if err != nil {
		t.Fatal(err)
	}
	done()
}

// A disk that is full to the last block can be pruned.
func TestPruneFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("mounting a tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := newService(t, newLayers(t, filepath.Join(dir, "store"), "native"))
	s.deps.Reserve = NewReserve(filepath.Join(dir, "reserve"))
	importFile(t, s, "app", "f", "hello")
	full := filepath.Join(dir, "full")
	fill(t, full)
	rep, err := s.Prune(t.Context(), worker.PruneOptions{Images: true, Cache: true, All: true})
	if err != nil || len(rep.Images) != 2 || rep.Freed == 0 || onDisk(t, s) != 0 {
		t.Errorf("got %+v, %v", rep, err)
	}
}

// fill writes to a file until there is no room.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
	}
}
