package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestTarget checks docker's rules of where a copy goes.
func TestTarget(t *testing.T) {
	file, dir := place{path: "/s/name"}, place{path: "/s/name", dir: true}
	content := place{path: "/s/name/.", dir: true, content: true}
	for _, c := range []struct {
		source, dest place
		at, name     string
		err          string
	}{
		{file, place{path: "/d", exists: true, dir: true}, "/d", "name", ""},
		{dir, place{path: "/d", exists: true, dir: true}, "/d", "name", ""},
		{content, place{path: "/d", exists: true, dir: true}, "/d", ".", ""},
		{file, place{path: "/d/f", exists: true}, "/d", "f", ""},
		{dir, place{path: "/d/f", exists: true}, "", "", "cannot copy directory"},
		{content, place{path: "/d/f", exists: true}, "", "", "cannot copy directory"},
		{file, place{path: "/d/f/", exists: true, trailing: true}, "", "", "not a directory"},
		{file, place{path: "/d/new"}, "/d", "new", ""},
		{file, place{path: "/d/new/", trailing: true}, "", "", "no such directory"},
		{dir, place{path: "/d/new"}, "/d", "new", ""},
		{dir, place{path: "/d/new/", trailing: true}, "/d", "new", ""},
		{content, place{path: "/d/new"}, "/d", "new", ""},
		{file, place{path: "new"}, ".", "new", ""},
	} {
		at, name, err := c.dest.target(c.source)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if at != c.at || name != c.name || got != c.err {
			t.Errorf("%+v to %+v: got %q, %q, %q, want %q, %q, %q", c.source, c.dest, at, name, got, c.at, c.name, c.err)
		}
	}
}

// TestSplitPlace checks what is taken for a container.
func TestSplitPlace(t *testing.T) {
	for s, want := range map[string][2]string{
		"c:/a": {"c", "/a"}, "c:a:b": {"c", "a:b"}, "/a:b": {"", "/a:b"}, "./a:b": {"", "./a:b"}, "a": {"", "a"}, "-": {"", "-"},
		"c:": {"c", ""}, "..:x": {"", "..:x"},
	} {
		if name, path := splitPlace(s); name != want[0] || path != want[1] {
			t.Errorf("%s: got %q, %q, want %q", s, name, path, want)
		}
	}
}

// TestPackUnpack checks that what is packed under a name comes out under another: contents, links, modes and times. A
// symlink is packed as what it is, or as what it points to if that is wanted, and only for the source itself.
func TestPackUnpack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(from, "tree", "sub"), 0o750))
	must(os.WriteFile(filepath.Join(from, "tree", "sub", "a"), []byte("text"), 0o640))
	must(os.Link(filepath.Join(from, "tree", "sub", "a"), filepath.Join(from, "tree", "sub", "b")))
	must(os.Symlink("a", filepath.Join(from, "tree", "sub", "l")))
	must(os.Symlink("tree", filepath.Join(from, "link")))
	must(os.WriteFile(filepath.Join(from, "tree", "run"), nil, 0o700))
	must(os.Chmod(filepath.Join(from, "tree", "run"), 0o700|os.ModeSetuid))
	var tar bytes.Buffer
	n, err := pack(&tar, filepath.Join(from, "link"), "packed", true)
	must(err)
	if n != 4 {
		t.Errorf("%d bytes are packed, want 4", n)
	}
	must((&unpacker{top: "unpacked"}).unpack(to, &tar))
	root := filepath.Join(to, "unpacked")
	text, err := os.ReadFile(filepath.Join(root, "sub", "l"))
	must(err)
	a, err := os.Stat(filepath.Join(root, "sub", "a"))
	must(err)
	b, err := os.Stat(filepath.Join(root, "sub", "b"))
	must(err)
	run, err := os.Stat(filepath.Join(root, "run"))
	must(err)
	sub, err := os.Stat(filepath.Join(root, "sub"))
	must(err)
	if string(text) != "text" || !os.SameFile(a, b) || run.Mode() != 0o700|os.ModeSetuid || sub.Mode().Perm() != 0o750 {
		t.Errorf("got %q, %v, %v, %v", text, os.SameFile(a, b), run.Mode(), sub.Mode())
	}
	tar.Reset()
	_, err = pack(&tar, filepath.Join(from, "link"), "l", false)
	must(err)
	must((&unpacker{top: "kept"}).unpack(to, &tar))
	if target, err := os.Readlink(filepath.Join(to, "kept")); target != "tree" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	// The content of a directory goes into one that is there.
	tar.Reset()
	_, err = pack(&tar, filepath.Join(from, "tree"), ".", false)
	must(err)
	must(os.Mkdir(filepath.Join(to, "there"), 0o755))
	must((&unpacker{}).unpack(filepath.Join(to, "there"), &tar))
	if _, err := os.Stat(filepath.Join(to, "there", "sub", "a")); err != nil {
		t.Error(err)
	}
}

// TestPackOddFiles checks that a pipe is packed as one, and not read, and that a socket is left out.
func TestPackOddFiles(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mknod(filepath.Join(dir, "socket"), syscall.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	var tar bytes.Buffer
	if _, err := pack(&tar, dir, "d", false); err != nil {
		t.Fatal(err)
	}
	if s := tar.String(); !strings.Contains(s, "d/pipe") || strings.Contains(s, "d/socket") {
		t.Error("the wrong files are packed")
	}
	if _, err := pack(&tar, filepath.Join(dir, "missing"), "d", false); err == nil {
		t.Error("what is not there is packed")
	}
}

// TestNameOfEntry checks that the first part of a name is replaced, whatever form it has, and that no name leaves the root.
func TestNameOfEntry(t *testing.T) {
	u := &unpacker{top: "new"}
	for entry, want := range map[string]string{
		"old": "new", "old/": "new", "old/a/b": "new/a/b", "./a": "new/a", "./": "new", "/a": "new/a", "/": "new",
		"old/../../a": "new/a", "../a": "new/a",
	} {
		if got := u.name(entry); got != want {
			t.Errorf("%s: got %q, want %q", entry, got, want)
		}
	}
}

// TestCopyStaysInside checks that nothing changes outside of where docker cp copies to, whatever a container that renames its
// files meanwhile makes of the archive (CVE-2026-17106): a first entry that is a link, and entries of other names.
func TestCopyStaysInside(t *testing.T) {
	dir, reg, link := byte(tar.TypeDir), byte(tar.TypeReg), byte(tar.TypeSymlink)
	for name, headers := range map[string][]*tar.Header{
		"a link, then below it":       {{Name: "src", Typeflag: link, Linkname: ".."}, {Name: "src/canary", Typeflag: reg}},
		"a link, then the same":       {{Name: "src", Typeflag: link, Linkname: "../canary"}, {Name: "src", Typeflag: reg}},
		"a link, then another's name": {{Name: "src", Typeflag: link, Linkname: ".."}, {Name: "other/canary", Typeflag: reg}},
		"a directory, then a link":    {{Name: "src/", Typeflag: dir}, {Name: "src", Typeflag: link, Linkname: ".."}, {Name: "src/canary", Typeflag: reg}},
		"dots":                        {{Name: "src/../../canary", Typeflag: reg}, {Name: "../canary", Typeflag: reg}, {Name: "..", Typeflag: dir, Mode: 0o777}},
		"absolute":                    {{Name: "/canary", Typeflag: reg}},
		"hard link":                   {{Name: "src/", Typeflag: dir}, {Name: "src/h", Typeflag: tar.TypeLink, Linkname: "../../canary"}, {Name: "src/h", Typeflag: reg}},
		"mode through a link":         {{Name: "src/", Typeflag: dir}, {Name: "src/l", Typeflag: link, Linkname: "../.."}, {Name: "src/l", Typeflag: dir, Mode: 0o777}},
	} {
		for _, top := range []string{"copied", ""} {
			parent := t.TempDir()
			canary, to := filepath.Join(parent, "canary"), filepath.Join(parent, "to")
			if err := errors.Join(os.Chmod(parent, 0o750), os.WriteFile(canary, []byte("alive"), 0o600), os.Mkdir(to, 0o755)); err != nil {
				t.Fatal(err)
			}
			_ = (&unpacker{top: top}).unpack(to, archive(t, headers...)) // refusing it is as good as keeping it inside
			got, err := os.ReadFile(canary)
			entries, _ := os.ReadDir(parent)
			st, statErr := os.Stat(parent)
			if err = errors.Join(err, statErr); err != nil || string(got) != "alive" || len(entries) != 2 || st.Mode().Perm() != 0o750 {
				t.Errorf("%s to %q: outside there are %v, %q, %v", name, top, entries, got, err)
			}
		}
	}
}
