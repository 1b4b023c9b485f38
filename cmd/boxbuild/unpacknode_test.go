package main

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A copy out of a container has pipes and, for root, devices, with their modes; a link to a directory elsewhere that is in
// the way does not lead them out.
func TestUnpackNodes(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	headers := []*tar.Header{
		{Name: "top/d/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "top/d/pipe", Typeflag: tar.TypeFifo, Mode: 0o640},
	}
	want := map[string]string{"d/pipe": "prw-r-----"}
	if os.Getuid() == 0 {
		headers = append(headers, &tar.Header{Name: "top/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
			&tar.Header{Name: "top/loop", Typeflag: tar.TypeBlock, Mode: 0o600, Devmajor: 7})
		want["null"], want["loop"] = "Dcrw-rw-rw-", "Drw-------"
	}
	u := &unpacker{whole: true, top: "copy"}
	if err := u.unpack(dir, archive(t, headers...)); err != nil {
		t.Fatal(err)
	}
	for name, mode := range want {
		fi, err := os.Lstat(filepath.Join(dir, "copy", name))
		if err != nil || fi.Mode().String() != mode {
			t.Errorf("%s is %v, %v, want %s", name, fi, err, mode)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "copy", "out")); err != nil {
		t.Fatal(err)
	}
	u = &unpacker{whole: true, top: "copy"}
	_ = u.unpack(dir, archive(t, &tar.Header{Name: "top/out/pipe", Typeflag: tar.TypeFifo, Mode: 0o640}))
	if list, err := fs.Glob(os.DirFS(outside), "*"); err != nil || len(list) > 0 {
		t.Errorf("outside there are %v, %v", list, err)
	}
}

// Extended attributes come along, also those of a file that only its owner's later mode lets nobody read; those that are not
// allowed are left out.
func TestUnpackAttrs(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Setxattr(dir, "user.try", nil, 0); errors.Is(err, unix.ENOTSUP) {
		t.Skip("the file system has no attributes")
	}
	records := map[string]string{paxXattr + "user.k": "v\x00w", paxXattr + "nowhere.k": "v"}
	u := &unpacker{whole: true, top: "copy"}
	if err := u.unpack(dir, archive(t,
		&tar.Header{Name: "top/d/", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: records},
		&tar.Header{Name: "top/d/f", Typeflag: tar.TypeReg, Mode: 0, PAXRecords: records},
	)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d", "d/f"} {
		value := make([]byte, 16)
		n, err := unix.Getxattr(filepath.Join(dir, "copy", name), "user.k", value)
		if os.Getuid() != 0 && errors.Is(err, unix.EACCES) {
			continue
		}
		if err != nil || string(value[:n]) != "v\x00w" {
			t.Errorf("%s: got %q, %v", name, value[:max(n, 0)], err)
		}
	}
}
