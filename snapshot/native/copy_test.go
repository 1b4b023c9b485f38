package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill makes one of everything that a tree can have.
func fill(t *testing.T, root string) {
	t.Helper()
	must(t, os.MkdirAll(root+"/dir/sub", 0o755))
	must(t, os.WriteFile(root+"/file", []byte("text"), 0o640))
	must(t, os.WriteFile(root+"/empty", nil, 0o600))
	must(t, os.Link(root+"/file", root+"/dir/link"))
	must(t, os.Symlink("missing", root+"/symlink"))
	must(t, unix.Mkfifo(root+"/fifo", 0o622))
	sparse, err := os.Create(root + "/sparse")
	must(t, err)
	_, err = sparse.WriteAt([]byte("middle"), 8<<20)
	must(t, err)
	must(t, sparse.Truncate(64<<20))
	must(t, sparse.Close())
	must(t, unix.Setxattr(root+"/file", "user.a", []byte("1"), 0))
	must(t, unix.Setxattr(root+"/dir", "user.large", bytes.Repeat([]byte("x"), 1000), 0))
	if os.Getuid() == 0 {
		must(t, unix.Mknod(root+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, os.Lchown(root+"/symlink", 5, 6))
		must(t, os.Chown(root+"/dir", 7, 8))
		must(t, os.WriteFile(root+"/setuid", nil, 0o755))
		must(t, os.Chown(root+"/setuid", 9, 9))
		must(t, os.Chmod(root+"/setuid", 0o755|os.ModeSetuid))
		// cap_net_raw=ep, which changing the owner would take away
		c := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		must(t, unix.Setxattr(root+"/setuid", "security.capability", c, 0))
	}
	old := time.Unix(1e9, 123456789)
	for _, name := range []string{"file", "dir/sub", "dir", "."} {
		must(t, os.Chtimes(filepath.Join(root, name), old, old))
	}
	ts := []unix.Timespec{{Sec: 5, Nsec: 6}, {Sec: 7, Nsec: 8}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, root+"/symlink", ts, unix.AT_SYMLINK_NOFOLLOW))
}

// list describes everything below root that a copy must have.
func list(t *testing.T, root string) map[string]string {
	t.Helper()
	got := map[string]string{}
	first := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		name, err := filepath.Rel(root, path)
		must(t, err)
		d := fmt.Sprintf("%o %d:%d dev %x mtime %d", st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Nano())
		if st.Nlink > 1 && st.Mode&unix.S_IFMT == unix.S_IFREG {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			d += " linked to " + first[st.Ino]
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			must(t, err)
			d += fmt.Sprintf(" %d bytes, %d not zero, %d KiB allocated", len(b), len(b)-bytes.Count(b, []byte{0}), st.Blocks/2)
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			must(t, err)
			d += " -> " + target
		}
		for _, x := range []string{"user.a", "user.large", "security.capability"} {
			b := make([]byte, 2000)
			if n, err := unix.Lgetxattr(path, x, b); err == nil {
				d += fmt.Sprintf(" %s=%x", x, b[:n])
			}
		}
		got[name] = d
		return nil
	}))
	return got
}

// A draft begins as an exact copy: kinds, owners, modes, times, attributes, hard links and holes.
func TestCopyIsExact(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	mounts, err := s.Prepare(t.Context(), "d", "")
	must(t, err)
	fill(t, mounts[0].Source)
	must(t, s.Commit(t.Context(), "d", "a"))
	mounts, err = s.Prepare(t.Context(), "d", "a")
	must(t, err)
	dir, err := s.FS("a")
	must(t, err)
	want, got := list(t, dir), list(t, mounts[0].Source)
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s:\n got %s\nwant %s", name, got[name], want[name])
		}
	}
	if len(got) != len(want) || len(want) < 9 {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}

// Writing to a draft's files in place does not write to its parent's.
func TestNotShared(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	mounts, err := s.Prepare(t.Context(), "d", "")
	must(t, err)
	must(t, os.WriteFile(mounts[0].Source+"/file", []byte("parent"), 0o600))
	must(t, s.Commit(t.Context(), "d", "a"))
	mounts, err = s.Prepare(t.Context(), "d", "a")
	must(t, err)
	must(t, os.WriteFile(mounts[0].Source+"/file", []byte("draft!"), 0o600)) // truncates and writes the same inode
	dir, err := s.FS("a")
	must(t, err)
	if b, err := os.ReadFile(dir + "/file"); err != nil || string(b) != "parent" {
		t.Errorf("the parent has %q (%v)", b, err)
	}
}

// A copy that is cancelled half-way leaves nothing: the parent can be removed.
func TestCancel(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	mounts, err := s.Prepare(t.Context(), "d", "")
	must(t, err)
	fill(t, mounts[0].Source)
	must(t, s.Commit(t.Context(), "d", "a"))
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("cause")
	cancel(cause)
	if _, err := s.Prepare(ctx, "d", "a"); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause of cancelling", err)
	}
	must(t, s.Remove(t.Context(), "a"))
}

// What a file system does not support is asked of it once.
func TestCloneIsRemembered(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/a", []byte("text"), 0o600))
	var no atomic.Bool
	c := copier{noClone: &no, linked: map[uint64]string{}}
	must(t, c.tree(t.Context(), dir+"/a", dir+"/b"))
	no.Store(!no.Load()) // the other way has to give the same
	c.linked = map[uint64]string{}
	must(t, c.tree(t.Context(), dir+"/a", dir+"/c"))
	for _, name := range []string{"b", "c"} {
		if b, err := os.ReadFile(dir + "/" + name); err != nil || string(b) != "text" {
			t.Errorf("%s: %q (%v)", name, b, err)
		}
	}
}

func BenchmarkPrepare(b *testing.B) {
	s := open(b, b.TempDir())
	defer s.Close()
	mounts, err := s.Prepare(b.Context(), "d", "")
	must(b, err)
	for i := range 1000 {
		must(b, os.WriteFile(fmt.Sprintf("%s/%d", mounts[0].Source, i), make([]byte, 4096), 0o600))
	}
	must(b, s.Commit(b.Context(), "d", "a"))
	for b.Loop() {
		_, err := s.Prepare(b.Context(), "d", snapshot.ID("a"))
		must(b, err)
		must(b, s.Discard(b.Context(), "d"))
	}
}
