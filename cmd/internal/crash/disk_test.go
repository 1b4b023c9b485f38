package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of a few MiB until the test ends, after the daemon.
func smallDisk(t testing.TB, mib int) string {
	t.Helper()
	needs(t)
	dir, err := os.MkdirTemp("", "crashdisk")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=755", mib)); err != nil {
		os.Remove(dir)
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting the small file system: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk fills the store's file system in every way that a user can. Each time what was asked for fails and says
// why, the daemon goes on, and what was there stays; and once there is room again, the same commands succeed.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, 24)
	h := newHost(t, disk)
	h.start()
	h.importBusybox()
	h.must("", "build", "-q", "-t", "kept", h.context(map[string]string{"Dockerfile": "FROM busybox\nRUN echo kept > /result\n"}))

	big := h.context(map[string]string{
		"Dockerfile.run":  "FROM busybox\nRUN dd if=/dev/zero of=/big bs=64k count=160 && echo done > /result\n",
		"Dockerfile.copy": "FROM busybox\nCOPY big /\nRUN echo done > /result\n",
		"big":             strings.Repeat("not compressible enough ", 10<<20/24),
	})
	archive := filepath.Join(h.dir, "big.tar")
	if err := os.WriteFile(archive, writeTar(file("result", "done\n"), file("big", strings.Repeat("x", 10<<20))), 0o644); err != nil {
		t.Fatal(err)
	}
	commands := map[string][]string{
		"run":    {"build", "--progress", "plain", "-t", "made-run", "-f", big + "/Dockerfile.run", big},
		"copy":   {"build", "-q", "-t", "made-copy", "-f", big + "/Dockerfile.copy", big},
		"import": {"import", archive, "made-import"},
	}
	// The ballast leaves room for less than any of the commands needs.
	ballast := filepath.Join(disk, "ballast")
	for name, args := range commands {
		t.Run(name, func(t *testing.T) {
			fill(t, disk, ballast, 4<<20)
			h.mustFail("", args, "o space left on device")
			h.mustFail("", args, "o space left on device")
			h.must("", "image", "inspect", "kept")
			fill(t, disk, ballast, 0)
			h.must("", "df")
			h.check("kept", "kept\n")
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			h.must("", args...)
			h.check("made-"+name, "done\n")
			h.must("", "rmi", "made-"+name)
			h.must("", "prune", "-f")
		})
	}
	t.Run("restart", func(t *testing.T) {
		fill(t, disk, ballast, 0)
		h.troubled = true // it may say that it could not write how it ended
		h.stop()
		h.troubled = false
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.check("kept", "kept\n")
		fill(t, disk, ballast, 0)
		h.kill()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.check("kept", "kept\n")
	})
	t.Run("prune", func(t *testing.T) {
		fill(t, disk, ballast, 0)
		h.must("", "prune", "-af")
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		// Nothing that was written and deleted is held by anybody.
		h.eventually("the store to be empty", func() bool {
			var st unix.Statfs_t
			if err := unix.Statfs(disk, &st); err != nil {
				t.Fatal(err)
			}
			return int64(st.Blocks-st.Bfree)*st.Bsize < 4<<20
		})
	})
	h.checkEmpties()
}

// TestRootsGo checks that no thread of boxshim stays where it has been for a sandbox: the step's root would stay mounted,
// and what was deleted in it on the disk.
func TestRootsGo(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	for i := range 8 { // whichever thread it is, each may become the one
		dir := h.context(map[string]string{"Dockerfile": fmt.Sprintf("FROM busybox\nRUN --mount=type=tmpfs,target=/t exit %d\n", i+1)})
		h.mustFail("", []string{"build", "--progress", "plain", dir}, "exit code")
	}
	h.eventually("all threads of boxshim to be out of the sandboxes", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/mountinfo", h.shim()))
		if err != nil || len(threads) == 0 {
			t.Fatal(threads, err)
		}
		for _, f := range threads {
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "/snapshots/") {
				return false
			}
		}
		return true
	})
}

// check compares an image's /result.
func (h *host) check(name, want string) {
	h.t.Helper()
	files, err := readTar(h.must("FROM "+name+"\n", "build", "-q", "-o", "-", "-"))
	if err != nil {
		h.t.Fatal(err)
	}
	if got := files["result"]; got != want {
		h.t.Errorf("%s has %q, want %q", name, got, want)
	}
}

// fill writes a file until so many bytes are left on the disk.
func fill(t testing.TB, disk, path string, left int64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for n := int64(st.Bavail)*st.Bsize - left; n > 0; n -= int64(len(buf)) {
		if _, err := f.Write(buf[:min(n, int64(len(buf)))]); err != nil {
			return // full
		}
	}
}
