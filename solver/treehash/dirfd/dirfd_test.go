package dirfd

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func openRoot(t *testing.T, dir string) int {
	t.Helper()
	fd, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(fd) })
	return fd
}

// No path leads out of a root or through a symlink, with whatever it ends (CVE-2026-39822 was about a slash).
func TestOpenConfined(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	_ = os.WriteFile(outside+"/f", nil, 0o644)
	_ = os.MkdirAll(dir+"/a/b", 0o755)
	_ = os.WriteFile(dir+"/a/b/f", nil, 0o644)
	_ = os.Symlink(outside, dir+"/link")
	_ = os.Symlink("../..", dir+"/a/b/up")
	_ = os.Symlink("b", dir+"/a/inner")
	root := openRoot(t, dir)
	for _, p := range []string{"", ".", "/", "a", "/a/b", "a/b/f", "a/../a/b"} {
		fd, err := Open(root, p, unix.O_RDONLY)
		if err != nil {
			t.Errorf("%q: %v", p, err)
		}
		Close(fd)
	}
	for _, p := range []string{
		"..", "../" + filepath.Base(outside), "a/../..", "link", "link/", "link/.", "link/f", "link//", "a/link/..", "a/b/up",
		"a/b/up/", "a/inner", "a/inner/", "a/inner/f", outside + "/f", "a\x00b",
	} {
		if fd, err := Open(root, p, unix.O_RDONLY); err == nil {
			t.Errorf("%q was opened", p)
			Close(fd)
		}
	}
	if _, err := OpenDir(root, "link"); !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		t.Errorf("a symlink was opened as a directory: %v", err)
	}
}

// A listing has every name once, be the directory larger than the buffer.
func TestList(t *testing.T) {
	dir := t.TempDir()
	want := map[string]bool{}
	for i := range 1500 {
		name := fmt.Sprintf("%04d%s", i, strings.Repeat("n", i%200))
		want[name] = true
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fd := openRoot(t, dir)
	var l Lister
	got := map[string]bool{}
	err := l.List(fd, func(n Name) error {
		var st Stat
		if err := n.Lstat(fd, &st); err != nil || st.Type() != unix.S_IFREG {
			t.Errorf("%q: %v", n.Bytes(), err)
		}
		got[string(n.Bytes())] = true
		return nil
	})
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %d names, %v; want %d", len(got), err, len(want))
	}
}

// A stat is what os.Lstat says.
func TestStat(t *testing.T) {
	dir := t.TempDir()
	_ = os.WriteFile(dir+"/f", []byte("12345"), 0o640)
	_ = os.Symlink("f", dir+"/l")
	fd := openRoot(t, dir)
	for _, name := range []string{"f", "l"} {
		var st Stat
		var want unix.Stat_t
		if err := Lstat(fd, name, &st); err != nil {
			t.Fatal(err)
		}
		_ = unix.Lstat(dir+"/"+name, &want)
		if st.Mode != want.Mode || st.Ino != want.Ino || st.Dev != want.Dev || st.Size != want.Size || st.MTime != want.Mtim.Nano() || st.CTime != want.Ctim.Nano() {
			t.Errorf("%s: got %+v, want %+v", name, st, want)
		}
	}
	var st Stat
	if err := Lstat(fd, "none", &st); !Gone(err) {
		t.Errorf("got %v", err)
	}
}

// Extended attributes are read and set the same by the new system calls and without them; those of the machine are not
// among them, and long ones are whole.
func TestXattrs(t *testing.T) {
	dir := t.TempDir()
	_ = os.WriteFile(dir+"/f", nil, 0o644)
	_ = os.Symlink("f", dir+"/l")
	fd := openRoot(t, dir)
	long := slices.Repeat([]byte("x"), 2000)
	want := map[string][]byte{"user.a": []byte("1"), "user.empty": {}, "user.long": long}
	for k, v := range want {
		if err := Setxattr(fd, "f", k, v); err != nil {
			t.Skip(err)
		}
	}
	if err := Setxattr(fd, "", "user.dir", []byte("d")); err != nil {
		t.Fatal(err)
	}
	_ = Setxattr(fd, "f", "user.overlay.opaque", []byte("y"))
	defer noXattrAt.Store(noXattrAt.Load())
	for _, legacy := range []bool{false, true} {
		noXattrAt.Store(legacy)
		got, err := Xattrs(fd, "f")
		if err != nil || !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("legacy %t: got %d attributes, %v", legacy, len(got), err)
		}
		if got, err := Xattrs(fd, "l"); err != nil || got != nil {
			t.Errorf("legacy %t: those of a symlink are %v, %v", legacy, got, err)
		}
		if got, err := Xattrs(fd, ""); err != nil || string(got["user.dir"]) != "d" {
			t.Errorf("legacy %t: those of the directory are %v, %v", legacy, got, err)
		}
	}
	for key, want := range map[string]bool{
		"user.a": true, "security.capability": true, "security.selinux": false, "security.ima": false, "trusted.x": true,
		"trusted.overlay.opaque": false, "user.overlay.origin": false, "system.posix_acl_access": true, "com.apple.quarantine": false,
	} {
		if Carried(key) != want {
			t.Errorf("%s: got %t", key, !want)
		}
	}
}
