package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// targets returns an empty target of each form, the overlays over a layer with base's entries.
func targets(t *testing.T, base []byte) map[string]Target {
	plain := t.TempDir()
	apply(t, Target{Dir: plain}, base)
	out := map[string]Target{"plain": {Dir: plain}}
	if os.Getuid() == 0 {
		lower := t.TempDir()
		apply(t, Target{Dir: lower}, base)
		out["overlay"] = Target{Dir: t.TempDir(), Lower: []string{lower}, Form: Overlay}
	}
	return out
}

// Entries that lead out of the root are refused by name, in every form of saying it: dot-dots, links, whiteouts, and
// what would replace the root (CVE-2021-29136, CVE-2026-28406, CVE-2026-50163). The daemon's working directory, which
// relative links must not be resolved against, is the canary.
func TestUnsafeEntries(t *testing.T) {
	needRoot(t)
	c := newCanary(t)
	t.Chdir(c.dir)
	for _, e := range []ent{
		file("../x", "y"), file("a/../../x", "y"), file("/../x", "y"), file("./a/b/../../../x", "y"), dir("../"), dir("a/../../sub/"), symlinkTo("../l", "x"),
		link("h", "../file"), link("h", "a/../../file"), link("h", "/../../"+c.dir+"/file"), white("../.wh.file"), white("../sub/.wh..wh..opq"),
		white(".wh.."), white(".wh..."), white("a/.wh."), symlinkTo("/.", c.dir), symlinkTo(".", c.dir), symlinkTo("./.", c.dir), symlinkTo("a/..", c.dir), file(".", "x"), link("./.", "file"),
	} {
		for form, to := range targets(t, mkTar(t, dir("a/"))) {
			_, err := Apply(t.Context(), to, bytes.NewReader(mkTar(t, file("ok", "1"), e)), Options{})
			wantEntryError(t, err, e.Name, ErrUnsafe)
			if err == nil {
				t.Errorf("%s: %q -> %q accepted", form, e.Name, e.Linkname)
			}
			c.check()
		}
	}
}

// In an archive of a user's, names that lead out of the root end at it, and so do those of hard links' files. Symlinks,
// which may stand before the dots, lead nowhere else than they do without them.
func TestArchiveNames(t *testing.T) {
	c := newCanary(t)
	t.Chdir(c.dir)
	up := strings.Repeat("../", 40)
	ents := []ent{
		file("../x", "1"), file(up+"y", "2"), file("a/../../z", "3"), file("/../a/b", "4"), file("a/b/../../../a/c", "5"), dir("../e/"), dir(".."),
		link("h", "../file"), link("../i", up+"x"), link("j", "a/../../a/b"), symlinkTo("../l", "x"), symlinkTo("s", c.dir), symlinkTo("r", "../.."),
		file("s/../k", "6"), file("../s/../../file", "7"), link("m", "s/../../file"), file("../r/n", "8"), file("../../s/file", "9"), link("o", "../s/file"), white("../.wh.x"),
	}
	ents[7], ents[14] = ents[14], ents[7] // what the link is of comes first
	for form, to := range targets(t, mkTar(t)) {
		if _, err := Apply(t.Context(), to, bytes.NewReader(mkTar(t, ents...)), Options{Archive: true}); err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		c.check()
		for name, want := range map[string]string{
			"x": "1", "y": "2", "z": "3", "a/b": "4", "a/c": "5", "h": "7", "i": "1", "j": "4", "k": "6", "file": "7", "m": "7", "n": "8",
			"o": "9", filepath.Join(c.dir, "file"): "9", ".wh.x": "",
		} {
			if b, err := os.ReadFile(filepath.Join(to.Dir, name)); err != nil || string(b) != want {
				t.Errorf("%s: %s has %q, %v, want %q", form, name, b, err, want)
			}
		}
		if fi, err := os.Stat(filepath.Join(to.Dir, "e")); err != nil || !fi.IsDir() {
			t.Errorf("%s: e: %v", form, err)
		}
	}
	for _, e := range []ent{file("..", "x"), symlinkTo("a/../..", c.dir), link("../.", "ok"), link("h", ".."), link("h", "../none"), link("h", up+c.dir+"/file")} {
		for form, to := range targets(t, mkTar(t, dir("a/"))) {
			_, err := Apply(t.Context(), to, bytes.NewReader(mkTar(t, file("ok", "1"), e)), Options{Archive: true})
			if err == nil {
				t.Errorf("%s: %q -> %q accepted", form, e.Name, e.Linkname)
			}
			c.check()
		}
	}
}

// Links to the outside are made as they are and never followed: whatever goes through them lands inside, and metadata,
// hard links and whiteouts never reach what they point to, in the layer that makes them or in the next (CVE-2025-47290,
// CVE-2021-32760, CVE-2026-42574, CVE-2014-9357).
func TestSymlinkToCanary(t *testing.T) {
	c := newCanary(t)
	t.Chdir(c.dir)
	rel, err := filepath.Rel("/", c.dir)
	if err != nil {
		t.Fatal(err)
	}
	evil := symlinkTo("f", filepath.Join(c.dir, "file"))
	for _, links := range [][]ent{
		{symlinkTo("d", c.dir), evil},
		{symlinkTo("d", "../../../../../../../../"+rel), evil},
		{symlinkTo("x", c.dir), symlinkTo("d", "x/."), evil},
		{symlinkTo("d", "/proc/self/cwd"), symlinkTo("f", "/proc/self/cwd/file")},
	} {
		for _, e := range []ent{
			file("d/file", "evil"), file("d/new", "evil"), dir("d/sub/").mode(0o777).owner(1, 1), dir("d/").mode(0o777), white("d/.wh.file"), white("d/.wh..wh..opq"),
			link("d/file", "d/sub/f"), file("f", "evil").mode(0o4777).xattr("user.x", "y"), symlinkTo("d/sub", "/"), white(".wh.f"),
			{Header: tar.Header{Name: "d/file", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
			{Header: tar.Header{Name: "d/fifo", Typeflag: tar.TypeFifo}},
		} {
			for _, to := range targets(t, mkTar(t, links...)) { // in the next layer
				Apply(t.Context(), to, bytes.NewReader(mkTar(t, e)), Options{})
				c.check()
			}
			for _, to := range targets(t, mkTar(t)) { // in the same
				Apply(t.Context(), to, bytes.NewReader(mkTar(t, append(links[:len(links):len(links)], e)...)), Options{})
				c.check()
			}
		}
	}
	// A hard link to a symlink is the symlink's; nothing is done to what it names.
	for _, to := range targets(t, mkTar(t)) {
		apply(t, to, mkTar(t, evil, link("h", "f"), file("h", "mine").mode(0o777)))
		c.check()
		if b, _ := os.ReadFile(filepath.Join(to.Dir, "h")); string(b) != "mine" {
			t.Errorf("h has %q", b)
		}
	}
}

// While somebody exchanges a directory of the draft for a symlink to the canary, applying layers never touches the
// canary (CVE-2025-47290, CVE-2018-15664).
func TestRace(t *testing.T) {
	c := newCanary(t)
	root := t.TempDir()
	mkdir(t, filepath.Join(root, "d"))
	if err := os.Symlink(c.dir, filepath.Join(root, "swap")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, "d"), unix.AT_FDCWD, filepath.Join(root, "swap"), unix.RENAME_EXCHANGE)
			}
		}
	})
	b := mkTar(t, dir("d/").mode(0o777).owner(1, 1), file("d/file", "evil"), white("d/.wh.passwd"), dir("d/sub/").mode(0o777), file("d/sub/f", "evil"), white("d/sub/.wh..wh..opq"))
	for range 2000 {
		Apply(t.Context(), Target{Dir: root}, bytes.NewReader(b), Options{}) // errors are welcome
	}
	close(stop)
	wg.Wait()
	c.check()
}

// A parent that is a file, a loop of links, a hard link to nothing, to a directory or to what the entry replaces, an
// unknown type, and numbers out of range are errors that name the entry.
func TestImpossibleEntries(t *testing.T) {
	for _, ents := range [][]ent{
		{file("a", "x"), file("a/b", "y")},
		{symlinkTo("a", "b"), symlinkTo("b", "a"), file("a/f", "x")},
		{link("h", "none")},
		{link("h", "none/none")},
		{dir("d/"), link("h", "d")},
		{link("h", "/")},
		{dir("d/"), file("d/f", "x"), link("d", "d/f")},
		{file("a", "").owner(-1, 0)},
		{file("a", "").owner(1<<32-1, 0)},
		{dir("a/").owner(0, 1<<40)},
		{{Header: tar.Header{Name: "s", Typeflag: 's'}}},
		{file(strings.Repeat("n", 256), "x")},
		{{Header: tar.Header{Name: "n", Typeflag: tar.TypeBlock, Devmajor: 1 << 20}}},
		{file(strings.Repeat("d/", maxDepth+1)+"f", "x")},
	} {
		last := ents[len(ents)-1]
		for form, to := range targets(t, mkTar(t)) {
			_, err := Apply(t.Context(), to, bytes.NewReader(mkTar(t, ents...)), Options{})
			var ee *EntryError
			if !errors.As(err, &ee) || strings.TrimSuffix(ee.Name, "/") != strings.TrimSuffix(last.Name, "/") {
				t.Errorf("%s: %.80q: got %v", form, last.Name, err)
			} else if len(ee.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(ee.Error()))
			}
		}
	}
}

// xattrs of overlayfs in a tar would hide or redirect what is below; they are never set.
func TestOverlayXattrs(t *testing.T) {
	needRoot(t)
	for form, to := range targets(t, mkTar(t, file("d/below", "x"))) {
		e := dir("d/")
		e.PAXRecords = map[string]string{}
		for _, p := range []string{"trusted.overlay.", "user.overlay."} {
			for _, n := range []string{"opaque", "redirect", "metacopy", "origin", "whiteout"} {
				e.PAXRecords[xattrRecord+p+n] = "y"
			}
		}
		apply(t, to, mkTar(t, e))
		b := make([]byte, 1000)
		n, err := unix.Listxattr(filepath.Join(to.Dir, "d"), b)
		if err != nil || bytes.Contains(b[:n], []byte("overlay")) {
			t.Errorf("%s: %q, %v", form, b[:n], err)
		}
	}
}

// bomb is a gzip of n zero bytes of a file, made without holding them.
func bomb(t *testing.T, n int64) []byte {
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	w := tar.NewWriter(z)
	w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: n, Mode: 0o644})
	zeros := make([]byte, 1<<20)
	for ; n > 0; n -= int64(len(zeros)) {
		w.Write(zeros[:min(n, int64(len(zeros)))])
	}
	w.Close()
	z.Close()
	return out.Bytes()
}

// Everything that could grow is bounded, and says so (CVE-2025-58183, CVE-2026-32288, CVE-2017-14992).
func TestLimits(t *testing.T) {
	tooLarge := func(name string, b []byte, l Limits) {
		t.Helper()
		if _, err := Apply(t.Context(), Target{Dir: t.TempDir()}, bytes.NewReader(b), Options{Limits: l}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v, want ErrTooLarge", name, err)
		}
	}
	tooLarge("size", mkTar(t, file("f", strings.Repeat("x", 100_000))), Limits{Size: 50_000})
	tooLarge("entries", mkTar(t, file("a", ""), file("b", ""), file("c", "")), Limits{Entries: 2})
	tooLarge("directories on the way", mkTar(t, file("a/b/c/d", ""), file("e/f/g", "")), Limits{Entries: 4})
	tooLarge("padding", append(mkTar(t, file("a", "")), make([]byte, 100_000)...), Limits{Size: 50_000})
	tooLarge("ratio", bomb(t, 8<<20), Limits{RatioFrom: 1 << 20})
	if _, err := Apply(t.Context(), Target{Dir: t.TempDir()}, bytes.NewReader(bomb(t, 10<<20)), Options{}); err != nil {
		t.Errorf("a small file of zeros: %v", err)
	}
	records := file("pax", "")
	records.PAXRecords = map[string]string{}
	for i := range maxRecords + 1 {
		records.PAXRecords[fmt.Sprint("X.", i)] = "1"
	}
	tooLarge("PAX records", mkTar(t, records), Limits{})

	endless := mkTar(t, file("f", "x"))[:512]
	copy(endless[124:136], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff") // a size of 2^63-1, in base 256
	copy(endless[148:156], "        ")
	sum := 0
	for _, b := range endless {
		sum += int(b)
	}
	copy(endless[148:156], fmt.Sprintf("%06o\x00 ", sum))
	tooLarge("endless size", endless, Limits{})
}

// Millions of sparse regions, and headers without end, are refused in bounded memory.
func TestSparseBomb(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, b := range map[string][]byte{
		"regions": paxTar("g", map[string]string{"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "100", "GNU.sparse.map": strings.Repeat("0,1,", 5_000_000) + "0,1"}),
		"header":  paxTar("h", map[string]string{"comment": strings.Repeat("x", 20<<20)}),
		"name":    paxTar("i", map[string]string{"path": strings.Repeat("x/", 5<<20)}),
	} {
		if _, err := Apply(t.Context(), Target{Dir: t.TempDir()}, bytes.NewReader(b), Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 400<<20 {
		t.Errorf("%d MiB were allocated", n>>20)
	}
}

// paxTar writes an entry with any records, which package tar's Writer would refuse to.
func paxTar(name string, records map[string]string) []byte {
	var body bytes.Buffer
	for k, v := range records {
		n := len(k) + len(v) + 3
		for n != len(k)+len(v)+3+len(fmt.Sprint(n)) {
			n = len(k) + len(v) + 3 + len(fmt.Sprint(n))
		}
		fmt.Fprintf(&body, "%d %s=%s\n", n, k, v)
	}
	var out bytes.Buffer
	for _, h := range []struct {
		typ  byte
		body []byte
	}{{'x', body.Bytes()}, {'0', nil}} {
		b := make([]byte, 512)
		copy(b, name)
		copy(b[100:], "0000644\x000000000\x000000000\x00")
		copy(b[124:], fmt.Sprintf("%011o\x00%011o\x00", len(h.body), 0))
		b[156] = h.typ
		copy(b[257:], "ustar\x0000")
		copy(b[148:], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		out.Write(b)
		out.Write(h.body)
		out.Write(make([]byte, (512-len(h.body)%512)%512))
	}
	out.Write(make([]byte, 1024))
	return out.Bytes()
}

// A sparse file has the content that the tar says and holes where it says nothing.
func TestSparse(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	const size = 64 << 20
	b := paxTar("s", map[string]string{"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": fmt.Sprint(size), "GNU.sparse.map": "", "GNU.sparse.numblocks": "0"})
	apply(t, Target{Dir: root}, b)
	fi, err := os.Stat(filepath.Join(root, "s"))
	if err != nil || fi.Size() != size {
		t.Fatalf("got %v, %v", fi, err)
	}
	if got := fi.Sys().(*syscall.Stat_t).Blocks; got > 64 {
		t.Errorf("it takes %d blocks", got)
	}
}

// FuzzApply feeds tars to both forms. Whatever they are, nothing outside changes, both agree on whether they are good, and
// what was applied can be written and applied again.
func FuzzApply(f *testing.F) {
	f.Add(goldenTar(f))
	f.Add(mkTar(f, file("a/f", "1"), white("a/.wh.f"), dir("a/"), white("a/.wh..wh..opq"), link("g", "a/f")))
	f.Add(mkTar(f, symlinkTo("d", "/"), file("d/x", "y"), link("h", "d/x"), file("../x", "y")))
	f.Add(mkTar(f, symlinkTo("d", "../.."), file("d/x", "y"), dir("d/"), file("d/z", "")))
	f.Add(paxTar("s", map[string]string{"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "9", "GNU.sparse.map": "2,1"}))
	f.Add(mkTar(f, symlinkTo("../d", "../.."), file("../d/../../outside", "y"), link("d/../../h", "../../outside")))
	f.Fuzz(func(t *testing.T, b []byte) {
		base := t.TempDir()
		outside := filepath.Join(base, "outside")
		if err := os.WriteFile(outside, []byte("canary"), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(outside, time.Unix(1, 0), time.Unix(1, 0))
		limits := Limits{Size: 1 << 20, Entries: 200}
		plain, upper := mkdir(t, base+"/plain"), mkdir(t, base+"/upper")
		lower := mkdir(t, base+"/lower")
		_, perr := Apply(t.Context(), Target{Dir: plain}, bytes.NewReader(b), Options{Limits: limits})
		form := Overlay
		if os.Getuid() != 0 {
			form = UserOverlay
		}
		_, oerr := Apply(t.Context(), Target{Dir: upper, Lower: []string{lower}, Form: form}, bytes.NewReader(b), Options{Limits: limits})
		if (perr == nil) != (oerr == nil) {
			t.Errorf("plain: %v, overlay: %v", perr, oerr)
		}
		archive := mkdir(t, base+"/archive")
		Apply(t.Context(), Target{Dir: archive}, bytes.NewReader(b), Options{Limits: limits, Archive: true})
		ents, _ := os.ReadDir(base)
		fi, err := os.Stat(outside)
		if len(ents) != 5 || err != nil || fi.ModTime().Unix() != 1 || fi.Size() != 6 {
			t.Fatalf("something outside changed: %v, %v", ents, fi)
		}
		if perr != nil {
			return
		}
		d := diffOf(t, Target{Dir: plain})
		again := mkdir(t, base+"/again")
		apply(t, Target{Dir: again}, d)
		if !bytes.Equal(d, diffOf(t, Target{Dir: again})) {
			t.Error("the diff of an applied diff differs")
		}
	})
}
