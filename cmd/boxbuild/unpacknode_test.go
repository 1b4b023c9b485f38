package main

import (
	"archive/tar"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
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
	u := &unpacker{nodes: true, top: "copy"}
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
	u = &unpacker{nodes: true, top: "copy"}
	_ = u.unpack(dir, archive(t, &tar.Header{Name: "top/out/pipe", Typeflag: tar.TypeFifo, Mode: 0o640}))
	if list, err := fs.Glob(os.DirFS(outside), "*"); err != nil || len(list) > 0 {
		t.Errorf("outside there are %v, %v", list, err)
	}
}
