package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

func archive(t *testing.T, headers ...*tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := tw.Write([]byte("data")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// Files, links, modes and times arrive, also those of directories that allow no writing.
func TestUnpack(t *testing.T) {
	dir := t.TempDir()
	at := time.Unix(1000, 0)
	if err := os.WriteFile(filepath.Join(dir, "old"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := unpack(dir, archive(t,
		&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o777},
		&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o555, ModTime: at},
		&tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o4755, ModTime: at},
		&tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "f"},
		&tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/f"},
		&tar.Header{Name: "old", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: at},
		&tar.Header{Name: "made/up/f", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: at},
		&tar.Header{Name: "pipe", Typeflag: tar.TypeFifo},
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"d": "dr-xr-xr-x", "d/f": "urwxr-xr-x", "d/l": "Lrwxrwxrwx", "h": "urwxr-xr-x", "old": "-rw-r--r--", "made/up/f": "-rw-r--r--",
	} {
		st, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if st.Mode().String() != want {
			t.Errorf("%s has mode %v, want %s", name, st.Mode(), want)
		}
		if st.Mode().Type() != os.ModeSymlink && name != "made/up/f" && !st.ModTime().Equal(at) {
			t.Errorf("%s has time %v, want %v", name, st.ModTime(), at)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "pipe")); err == nil {
		t.Error("a pipe was made")
	}
}

// Whatever names and links an archive has, nothing outside the directory changes.
func TestUnpackStaysInside(t *testing.T) {
	for name, headers := range map[string][]*tar.Header{
		"dots":     {{Name: "../../canary", Typeflag: tar.TypeReg}},
		"absolute": {{Name: "/canary", Typeflag: tar.TypeReg}},
		"through a symlink": {
			{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "out/canary", Typeflag: tar.TypeReg},
		},
		"over a symlink": {
			{Name: "f", Typeflag: tar.TypeSymlink, Linkname: "../canary"}, {Name: "f", Typeflag: tar.TypeReg},
		},
		"hard link out":             {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../canary"}, {Name: "h", Typeflag: tar.TypeReg}},
		"directory through symlink": {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "d", Typeflag: tar.TypeDir, Mode: 0o777}},
	} {
		parent := t.TempDir()
		if err := os.Chmod(parent, 0o750); err != nil {
			t.Fatal(err)
		}
		canary, dir := filepath.Join(parent, "canary"), filepath.Join(parent, "dir")
		if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = unpack(dir, archive(t, headers...)) // refusing it is as good as keeping it inside
		if got, err := os.ReadFile(canary); err != nil || string(got) != "alive" {
			t.Errorf("%s: the canary is %q, %v", name, got, err)
		}
		entries, err := os.ReadDir(parent)
		if err != nil || len(entries) != 2 {
			t.Errorf("%s: there are %v, %v outside", name, entries, err)
		}
		if st, err := os.Stat(parent); err != nil || st.Mode().Perm() != 0o750 {
			t.Errorf("%s: the parent has mode %v", name, st.Mode())
		}
	}
}

// A file has its name only once it is complete, and a failure leaves what was there before.
func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := writeFile(path, 0o640, bytes.NewBufferString("one")); err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(bytes.NewBufferString("two"), iotest.ErrReader(io.ErrUnexpectedEOF))
	if err := writeFile(path, 0o640, broken); err == nil {
		t.Error("a source that fails is no error")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "one" {
		t.Errorf("the file is %q, %v", got, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("there are %v, %v", entries, err)
	}
	if err := writeFile("/dev/null", 0o640, bytes.NewBufferString("x")); err != nil {
		t.Errorf("a device: %v", err)
	}
}

// What writeFile cannot write is found out before, with the error that it would have; and what it can write is not refused.
func TestWritable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	var refused error = syscall.EACCES
	if os.Geteuid() == 0 {
		refused = nil // to root modes say nothing
	}
	for path, want := range map[string]error{
		filepath.Join(closed, "new"):      refused,
		file:                              nil,
		filepath.Join(dir, "new"):         nil,
		"/dev/null":                       nil,
		filepath.Join(dir, "none", "new"): syscall.ENOENT,
		filepath.Join(file, "new"):        syscall.ENOTDIR,
		dir:                               syscall.EISDIR,
	} {
		err := writable(path)
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}
