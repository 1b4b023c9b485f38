package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot"
)

// applyWindows applies a layer for Windows.
func applyWindows(t testing.TB, to Target, tarball []byte) {
	t.Helper()
	if _, err := Apply(t.Context(), to, bytes.NewReader(tarball), Options{Windows: true}); err != nil {
		t.Fatal(err)
	}
}

// diffWindows returns the layer for Windows of a target.
func diffWindows(t testing.TB, of Target) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Diff(t.Context(), of, &b, DiffOptions{Windows: true}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestWindowsApply checks that of a layer for Windows a snapshot has what is below Files, with whiteouts and links, whatever
// else there is, and that nothing of the rest leads anywhere.
func TestWindowsApply(t *testing.T) {
	needRoot(t)
	lower := mkTar(t, dir("Files"), dir("Files/a"), file("Files/a/old", "o"), file("Files/a/keep", "k"), dir("Files/b"), file("Files/b/x", "x"),
		dir("Hives"), file("Hives/Software_Base", "regf"), dir("UtilityVM"), file("UtilityVM/Files/vm", "v"), file("bcd.bak", "b"))
	upper := mkTar(t, dir("Files"), white("Files/a/.wh.old"), white("Files/b/.wh..wh..opq"), file("Files/b/y", "y"),
		link("Files/b/hard", "Files/a/keep"), symlinkTo("Files/l", "C:/a"), symlinkTo("Files/m", "Files/b/y"),
		white("Hives/.wh.Software_Base"), link("Hives/z", "../../z"), file("../out", "o"), file("./Files/dot", "d"), file("Filesystem", "f"))
	plain := mkTar(t, dir("a"), file("a/old", "o"), file("a/keep", "k"), dir("b"), file("b/x", "x"))
	plainUpper := mkTar(t, white("a/.wh.old"), white("b/.wh..wh..opq"), file("b/y", "y"), link("b/hard", "a/keep"),
		symlinkTo("l", "C:/a"), symlinkTo("m", "b/y"))
	want := newStack(t)
	want.push(plain)
	want.push(plainUpper)
	got := newStack(t)
	for _, l := range [][]byte{lower, upper} {
		applyWindows(t, got.next(), l)
		applyWindows(t, Target{Dir: got.plain}, l)
	}
	got.agree()
	if d := diffText(got.merged(), want.merged()); d != "" {
		t.Errorf("the tree of the layers for Windows (got) and that of layers for Linux (want) differ:\n%s", d)
	}
}

// TestWindowsForm checks what passes for a layer for Windows: one that has an entry which each such layer has, and one with
// no entry at all.
func TestWindowsForm(t *testing.T) {
	for name, tt := range map[string]struct {
		tar []byte
		is  bool
	}{
		"empty":        {mkTar(t), true},
		"only hives":   {mkTar(t, dir("Hives"), file("Hives/x", "x")), true},
		"only Files":   {mkTar(t, dir("Files")), true},
		"with a slash": {mkTar(t, dir("Files/")), true},
		"the VM's":     {mkTar(t, file("UtilityVM/x", "x")), true},
		"for Linux":    {mkTar(t, file("app.exe", "MZ")), false},
		"alike":        {mkTar(t, file("files/app.exe", "MZ"), file("Filesystem", "")), false},
	} {
		_, err := Apply(t.Context(), Target{Dir: t.TempDir()}, bytes.NewReader(tt.tar), Options{Windows: true})
		if is := !errors.Is(err, ErrNotWindows); is != tt.is || is && err != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestWindowsDiff checks each field of what is written for Windows.
func TestWindowsDiff(t *testing.T) {
	needRoot(t)
	s := newStack(t)
	s.push(mkTar(t, dir("d").at(5), file("d/gone", "g")))
	up := s.push(mkTar(t, dir("d").at(5), white("d/.wh.gone"), file("d/f", "text").at(7).mode(0o640).owner(1, 2).xattr("user.x", "y"),
		link("d/g", "d/f"), symlinkTo("d/s", `C:\x`).at(9), symlinkTo("d/t", "f").at(9)))
	type want struct {
		name, link string
		kind       byte
		mode       int64
		records    map[string]string
	}
	records := func(created, attr, sd string) map[string]string {
		m := map[string]string{recordCreationTime: created}
		if attr != "" {
			m[recordFileAttr] = attr
		}
		if sd != "" {
			m[recordSecurity] = sd
		}
		return m
	}
	f := records("7.0", "32", securityFile)
	f["SCHILY.xattr.user.x"] = "y"
	all := []want{
		{"Hives", "", tar.TypeDir, 0o40000, records("0.0", "16", "")},
		{"Files", "", tar.TypeDir, 0o40000, records("0.0", "16", "")},
		{"Files/d/", "", tar.TypeDir, 0o40755, records("5.0", "16", securityDirectory)},
		{"Files/d/.wh.gone", "", tar.TypeReg, 0o100000, records("0.0", "32", securityFile)},
		{"Files/d/f", "", tar.TypeReg, 0o100640, f},
		{"Files/d/g", "Files/d/f", tar.TypeLink, 0o640, records("7.0", "", "")},
		{"Files/d/s", `C:\x`, tar.TypeSymlink, 0o777, records("9.0", "", "")},
		{"Files/d/t", "f", tar.TypeSymlink, 0o777, records("9.0", "", "")},
	}
	r := tar.NewReader(bytes.NewReader(diffWindows(t, up)))
	for _, w := range all {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		if h.Name != w.name || h.Linkname != w.link || h.Typeflag != w.kind || h.Mode != w.mode {
			t.Errorf("got %c %s -> %s %o, want %c %s -> %s %o", h.Typeflag, h.Name, h.Linkname, h.Mode, w.kind, w.name, w.link, w.mode)
		}
		if len(h.PAXRecords) != len(w.records) {
			t.Errorf("%s: got records %v, want %v", w.name, h.PAXRecords, w.records)
		}
		for k, v := range w.records {
			if h.PAXRecords[k] != v {
				t.Errorf("%s: %s is %q, want %q", w.name, k, h.PAXRecords[k], v)
			}
		}
	}
	if h, err := r.Next(); err != io.EOF {
		t.Errorf("another entry: %v, %v", h, err)
	}
}

// TestWindowsEpoch checks that neither of the times of a file goes beyond the epoch.
func TestWindowsEpoch(t *testing.T) {
	needRoot(t)
	s := newStack(t)
	up := s.push(mkTar(t, file("f", "x").at(2000), file("g", "x").at(500)))
	epoch := time.Unix(1000, 0)
	var b bytes.Buffer
	if err := Diff(t.Context(), up, &b, DiffOptions{Windows: true, Epoch: &epoch}); err != nil {
		t.Fatal(err)
	}
	times := map[string]string{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		times[h.Name] = h.PAXRecords[recordCreationTime] + h.ModTime.UTC().Format(" 2006 15:04:05")
	}
	if times["Files/f"] != "1000.0 1970 00:16:40" || times["Files/g"] != "500.0 1970 00:08:20" {
		t.Errorf("the times are %v", times)
	}
}

// TestWindowsRoundTrip checks that random trees come back from layers for Windows, as overlays and as plain trees, and that
// layers made of what came back have the same bytes.
func TestWindowsRoundTrip(t *testing.T) {
	needRoot(t)
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 1))
		from, to := newStack(t), newStack(t)
		for range 3 {
			up := from.next()
			if _, err := Apply(t.Context(), up, bytes.NewReader(randomLayer(t, r)), Options{}); err != nil {
				from.upper = from.upper[1:] // a parent that is a file, or a loop of links
				break
			}
			b := diffWindows(t, up)
			next := to.next()
			applyWindows(t, next, b)
			applyWindows(t, Target{Dir: to.plain}, b)
			if again := diffWindows(t, next); !bytes.Equal(again, b) {
				t.Fatalf("seed %d: the layer of what a layer made is another one: %v, was %v", seed, listTar(t, again), listTar(t, b))
			}
		}
		if len(from.upper) == 0 {
			continue
		}
		to.agree()
		if d := diffText(to.merged(), from.merged()); d != "" {
			t.Fatalf("seed %d: what came back (got) is not what there was (want):\n%s", seed, d)
		}
	}
}

// FuzzWindowsApply checks that no layer for Windows leads out of its tree, and that what it makes can be written and read again
// to the same tree.
func FuzzWindowsApply(f *testing.F) {
	f.Add(mkTar(f, dir("Files"), file("Files/x", "x"), dir("Hives")))
	f.Add(mkTar(f, file("Files/../../x", "x")))
	f.Add(mkTar(f, symlinkTo("Files/l", ".."), file("Files/l/l/x", "x"), link("Files/h", "../x")))
	f.Add(mkTar(f, file("Files//x", "x"), dir("Files/"), white("Files/.wh..wh..opq")))
	f.Fuzz(func(t *testing.T, b []byte) {
		needRoot(t)
		c := newCanary(t)
		a := mkdir(t, filepath.Join(t.TempDir(), "a"))
		_, err := Apply(t.Context(), Target{Dir: a}, bytes.NewReader(b), Options{Windows: true, Limits: Limits{Size: 1 << 20, Entries: 1000}})
		c.check()
		if err != nil {
			return
		}
		again := mkdir(t, filepath.Join(t.TempDir(), "b"))
		applyWindows(t, Target{Dir: again}, diffWindows(t, Target{Dir: a}))
		got, want := dump(t, again), dump(t, a)
		if prefixed(t, a) {
			return
		}
		if d := diffText(withoutRoot(got), withoutRoot(want)); d != "" {
			t.Errorf("what came back (got) is not what was applied (want):\n%s", d)
		}
	})
}

// prefixed says whether a tree has a symlink whose target looks as one that BuildKit has written.
func prefixed(t *testing.T, dir string) bool {
	found := false
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if to, lerr := os.Readlink(path); lerr == nil && strings.HasPrefix(to, windowsFiles) {
			found = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// withoutRoot drops the first line of a dump: a layer does not say who owns the root.
func withoutRoot(dump string) string {
	_, rest, _ := strings.Cut(dump, "\n")
	return rest
}

// TestIsWindows checks that the mark of a snapshot holds for what is built on it, and for nothing else.
func TestIsWindows(t *testing.T) {
	eachDeltas(t, func(t *testing.T, s *deltas) {
		base := WindowsID(digest.FromString("chain"))
		if len(base) != 64 {
			t.Fatalf("the ID is %s", base)
		}
		s.layer(base, "", file("a", "1"))
		s.layer("on", base, file("b", "1"))
		s.layer("linux", "", file("c", "1"))
		s.copy("copy", "on", snapshot.Delta{Upper: "linux"})
		s.copy("away", "linux", snapshot.Delta{Lower: base, Upper: "on"})
		for id, want := range map[snapshot.ID]bool{base: true, "on": true, "copy": true, "linux": false, "away": false, "": false} {
			if got, err := IsWindows(t.Context(), s.sn, id); got != want || err != nil {
				t.Errorf("%s: got %v, %v", id, got, err)
			}
		}
		for id, want := range map[snapshot.ID]string{"copy": "0 Files/c", "away": "0 b", "on": "0 Files/b", "linux": "0 c"} {
			if got := names(t, s.tar(id)); !slices.Contains(got, want) {
				t.Errorf("the layer of %s has %v", id, got)
			}
		}
		if _, err := IsWindows(t.Context(), s.sn, "none"); !errors.Is(err, snapshot.ErrNotFound) {
			t.Errorf("of no snapshot it says %v", err)
		}
	})
}
