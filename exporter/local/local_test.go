package local

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/treehash"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { unix.Umask(0o022) }

// image is a tree with a bit of everything.
func image(t *testing.T) treehash.Tree {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc/deep", "empty"} {
		_ = os.MkdirAll(filepath.Join(dir, d), 0o755)
	}
	for name, data := range map[string]string{"bin/sh": "#!", "etc/conf": "x=1", "etc/deep/f": "deep", "z\nn": "odd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Chmod(dir+"/bin/sh", 0o755|os.ModeSetuid)
	_ = os.Link(dir+"/bin/sh", dir+"/bin/ash")
	_ = os.Symlink("/etc/conf", dir+"/abs")
	_ = os.Symlink("../../../..", dir+"/up")
	_ = unix.Mkfifo(dir+"/fifo", 0o640)
	_ = unix.Setxattr(dir+"/etc/conf", "user.k", []byte("v"), 0)
	if os.Getuid() == 0 {
		_ = unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	}
	return snapshot(t, dir)
}

func snapshot(t *testing.T, dir string) treehash.Tree {
	_ = filepath.Walk(dir, func(p string, fi os.FileInfo, _ error) error {
		ts := []unix.Timespec{unix.NsecToTimespec(1e18), unix.NsecToTimespec(1e18 + 5e8)}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := treehash.NewCache(0).Snapshot("s", f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// names lists a tar: name, type, mode, link.
func names(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSpace(string(h.Typeflag)+" "+h.Name+" "+h.Linkname))
	}
}

// A tar has everything, in order, and is the same every time; the epoch of a part is the time of all in it.
func TestTar(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	img := image(t)
	var a, b bytes.Buffer
	for _, w := range []*bytes.Buffer{&a, &b} {
		if err := WriteTar(t.Context(), w, []Part{{Tree: img}}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two tars of one tree differ")
	}
	want := []string{
		"2 abs /etc/conf", "5 bin/", "0 bin/ash", "1 bin/sh bin/ash", "5 empty/", "5 etc/", "0 etc/conf", "5 etc/deep/",
		"0 etc/deep/f", "6 fifo", "3 null", "2 up ../../../..", "0 z\nn",
	}
	if got := names(t, a.Bytes()); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	epoch := time.Unix(1000, 0)
	a.Reset()
	parts := []Part{
		{Dir: PlatformDir("linux/amd64"), Tree: img, Epoch: &epoch}, {Dir: PlatformDir("linux/arm/v7"), Tree: img, Epoch: &epoch},
	}
	if err := WriteTar(t.Context(), &a, parts); err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(&a)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) || !strings.HasPrefix(h.Name, "linux_a") {
			t.Errorf("%s has time %v", h.Name, h.ModTime)
		}
		if h.Name == "linux_arm_v7/etc/conf" && h.PAXRecords["SCHILY.xattr.user.k"] != "v" {
			t.Errorf("xattrs of %s: %v", h.Name, h.PAXRecords)
		}
	}
}

// Parts may share a directory as long as they have no file in common.
func TestShared(t *testing.T) {
	epoch := time.Unix(2e9, 0) // later than the files: it is not a bound
	part := func(name string, files ...string) Part {
		dir := t.TempDir()
		for _, f := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return Part{Tree: snapshot(t, dir), Name: name, Epoch: &epoch}
	}
	a, b, c := part("linux/amd64", "d/a"), part("linux/arm64", "d/b"), part("linux/arm64", "d/a")
	out := t.TempDir()
	if _, err := WriteDir(t.Context(), out, []Part{a, b}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"d/a": "linux/amd64", "d/b": "linux/arm64"} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(out, "d/a")); err != nil || !fi.ModTime().Equal(epoch) {
		t.Errorf("time %v, %v", fi.ModTime(), err)
	}
	const want = "cannot overwrite d/a from linux/amd64 with linux/arm64 when split option is disabled"
	if _, err := WriteDir(t.Context(), t.TempDir(), []Part{a, c}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a directory: %v", err)
	}
	if err := WriteTar(t.Context(), io.Discard, []Part{a, c}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a tar: %v", err)
	}
}

// A file that vanishes is an error of the tar, and named.
func TestTarFails(t *testing.T) {
	src := t.TempDir()
	_ = os.WriteFile(src+"/f", []byte("x"), 0o644)
	img := snapshot(t, src)
	if _, err := img.List(t.Context(), "/"); err != nil { // it is known now, and vanishes
		t.Fatal(err)
	}
	_ = os.Remove(src + "/f")
	if err := WriteTar(t.Context(), io.Discard, []Part{{Tree: img}}); err == nil || !strings.Contains(err.Error(), `"/f"`) {
		t.Errorf("got %v", err)
	}
}

// A directory gets the files with their metadata, again without harm, and keeps what it had.
func TestDir(t *testing.T) {
	img := image(t)
	dst := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		skipped, err := WriteDir(t.Context(), dst, []Part{{Tree: img}})
		if err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 && !slices.Equal(skipped, []string{"/null"}) {
			t.Errorf("left out %q", skipped)
		}
		_ = os.WriteFile(dst+"/etc/mine", nil, 0o644)
		_ = os.Chtimes(dst+"/etc", time.Now(), time.Now())
	}
	if _, err := os.Lstat(dst + "/etc/mine"); err != nil {
		t.Error("a file of the user's is gone")
	}
	for name, want := range map[string]uint32{"bin/sh": 0o104755, "etc/conf": 0o100644, "fifo": 0o010640, "empty": 0o040755, "z\nn": 0o100644} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dst, name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if st.Mode != want || int(st.Uid) != os.Getuid() || st.Mtim.Nano() != 1e18+5e8 {
			t.Errorf("%s: mode %o, want %o; owner %d; time %d", name, st.Mode, want, st.Uid, st.Mtim.Nano())
		}
	}
	var a, b unix.Stat_t
	_ = unix.Lstat(dst+"/bin/sh", &a)
	_ = unix.Lstat(dst+"/bin/ash", &b)
	if a.Ino == 0 || a.Ino != b.Ino {
		t.Error("two names of a file have become two files")
	}
	_ = filepath.Walk(dst, func(p string, _ os.FileInfo, _ error) error {
		if strings.HasPrefix(filepath.Base(p), ".boxbuild-") {
			t.Errorf("%s was left", p)
		}
		return nil
	})
}

// Symlinks in the destination lead nobody out of it: they are replaced.
func TestDirConfined(t *testing.T) {
	outside := t.TempDir()
	_ = os.MkdirAll(outside+"/deep", 0o755)
	_ = os.WriteFile(outside+"/conf", []byte("canary"), 0o600)
	_ = os.WriteFile(outside+"/sh", []byte("canary"), 0o600)
	dst := t.TempDir()
	_ = os.Symlink(outside, dst+"/etc")
	_ = os.Symlink(outside+"/sh", dst+"/abs")
	_ = os.MkdirAll(dst+"/bin", 0o755)
	_ = os.Symlink(outside+"/sh", dst+"/bin/sh")
	_ = os.WriteFile(dst+"/empty", nil, 0o644)
	if _, err := WriteDir(t.Context(), dst, []Part{{Tree: image(t)}}); err != nil {
		t.Fatal(err)
	}
	list, _ := os.ReadDir(outside)
	a, _ := os.ReadFile(outside + "/conf")
	b, _ := os.ReadFile(outside + "/sh")
	fi, _ := os.Stat(outside + "/sh")
	if len(list) != 3 || string(a) != "canary" || string(b) != "canary" || fi.Mode() != 0o600 {
		t.Errorf("outside there are %v with %q and %q", list, a, b)
	}
	if got, err := os.ReadFile(dst + "/etc/conf"); err != nil || string(got) != "x=1" {
		t.Errorf("got %q, %v", got, err)
	}
	// A directory is not removed for a file.
	full := t.TempDir()
	_ = os.MkdirAll(full+"/etc/conf/mine", 0o755)
	if _, err := WriteDir(t.Context(), full, []Part{{Tree: image(t)}}); !errors.Is(err, unix.EISDIR) {
		t.Errorf("got %v", err)
	}
}

// Parts that would lie in each other are refused.
func TestParts(t *testing.T) {
	for _, parts := range [][]Part{
		{{Dir: ""}, {Dir: "a"}}, {{Dir: "a"}, {Dir: "a"}}, {{Dir: ".."}}, {{Dir: "a/b"}}, {{Dir: "/"}}, {{Dir: "."}},
	} {
		if err := check(parts); err == nil {
			t.Errorf("%+v was taken", parts)
		}
	}
}
