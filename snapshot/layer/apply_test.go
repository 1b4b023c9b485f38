package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// Each sequence of layers looks the same through overlayfs as applied to one directory, and as the list of paths says.
func TestLayers(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		name   string
		layers [][]ent
		want   string // the paths of what is not a directory, with its first letter of content or link
	}{
		{"add", [][]ent{{dir("a/"), file("a/f", "1")}, {file("a/g", "2")}}, "a/f=1 a/g=2"},
		{"whiteout", [][]ent{{file("a/f", "1"), file("a/g", "2")}, {white("a/.wh.f")}}, "a/g=2"},
		{"whiteout of a directory", [][]ent{{file("a/b/f", "1"), file("g", "2")}, {white("a/.wh.b")}}, "g=2"},
		{"whiteout of nothing", [][]ent{{file("a/f", "1")}, {white("a/.wh.x"), white("y/.wh.z")}}, "a/f=1"},
		{"whiteout then again", [][]ent{{file("f", "1")}, {white(".wh.f")}, {file("f", "3")}}, "f=3"},
		{"whiteout and new directory", [][]ent{{file("a/f", "1")}, {white(".wh.a"), dir("a/"), file("a/g", "2")}}, "a/g=2"},
		{"new directory and whiteout", [][]ent{{file("a/f", "1")}, {dir("a/"), file("a/g", "2"), white(".wh.a")}}, "a/g=2"},
		{"own file and whiteout", [][]ent{{file("f", "1")}, {file("f", "2"), white(".wh.f")}}, "f=2"},
		{"implied parent and whiteout", [][]ent{{file("a/b/f", "1")}, {file("a/b/g", "2"), white(".wh.a")}}, "a/b/g=2"},
		{"opaque", [][]ent{{file("a/f", "1"), file("a/b/f", "1")}, {dir("a/"), white("a/.wh..wh..opq"), file("a/g", "2")}}, "a/g=2"},
		{"opaque last", [][]ent{{file("a/f", "1"), file("a/b/f", "1")}, {file("a/b/g", "2"), white("a/.wh..wh..opq")}}, "a/b/g=2"},
		{"whiteout then opaque", [][]ent{{file("a/f", "1"), file("a/b/f", "1"), file("a/h", "1")}, {white("a/b/.wh.f"), white("a/.wh.f"), file("a/b/g", "2"), white("a/.wh..wh..opq")}}, "a/b/g=2"},
		{"opaque then below", [][]ent{{file("a/f", "1")}, {dir("a/"), white("a/.wh..wh..opq")}, {file("a/g", "3")}}, "a/g=3"},
		{"opaque root", [][]ent{{file("a/f", "1")}, {file("g", "2"), white(".wh..wh..opq")}}, "g=2"},
		{"other AUFS names", [][]ent{{white(".wh..wh.aufs"), white(".wh..wh.plnk"), file("f", "1")}}, "f=1"},
		{"file over directory", [][]ent{{file("a/f", "1")}, {file("a", "2")}}, "a=2"},
		{"directory over file", [][]ent{{file("a", "1")}, {dir("a/"), file("a/f", "2")}}, "a/f=2"},
		{"and back in one layer", [][]ent{{file("a/f", "1")}, {file("a", "2"), dir("a/"), file("a/g", "3")}}, "a/g=3"},
		{"twice over in one layer", [][]ent{{file("a/f", "1")}, {dir("a/"), file("a/g", "3"), file("a", "2")}}, "a=2"},
		{"directory over symlink", [][]ent{{dir("b/"), symlinkTo("a", "b")}, {dir("a/"), file("a/f", "2")}}, "a/f=2"},
		{"later duplicate", [][]ent{{file("f", "1"), file("f", "2"), symlinkTo("f", "x"), file("f", "3")}}, "f=3"},
		{"symlinked parent", [][]ent{{dir("usr/lib/"), symlinkTo("lib", "usr/lib")}, {file("lib/x/f", "2")}}, "lib->usr/lib usr/lib/x/f=2"},
		{"absolute and relative links", [][]ent{
			{file("r/d/keep", "1"), symlinkTo("abs", "/r/d"), symlinkTo("r/up", "../../../../abs"), symlinkTo("r/e", "d/../d/.")},
			{file("abs/a", "2"), file("r/up/b", "2"), file("r/e/c", "2"), white("abs/.wh.keep")},
		}, "abs->/r/d r/d/a=2 r/d/b=2 r/d/c=2 r/e->d/../d/. r/up->../../../../abs"},
		{"dangling symlink as parent", [][]ent{{symlinkTo("a", "b/c")}, {file("a/f", "2")}}, "a->b/c b/c/f=2"},
		{"symlink in this layer", [][]ent{{dir("d/"), symlinkTo("l", "d"), file("l/f", "1")}}, "d/f=1 l->d"},
		{"symlink hidden by a whiteout", [][]ent{{dir("d/"), symlinkTo("l", "d")}, {white(".wh.l")}, {file("l/f", "3")}}, "l/f=3"},
		{"symlink over a directory", [][]ent{{file("a/f", "1"), file("b/f", "2")}, {symlinkTo("a", "b")}, {file("a/g", "3")}}, "a->b b/f=2 b/g=3"},
		{"hard link", [][]ent{{file("a/f", "1"), link("g", "a/f"), link("./h", "/g")}}, "a/f=1 g=1 h=1"},
		{"hard link to a replaced file", [][]ent{{file("f", "1"), link("g", "f"), file("f", "2")}}, "f=2 g=1"},
		{"hard link over a file", [][]ent{{file("f", "1"), file("g", "2"), link("g", "f")}}, "f=1 g=1"},
		{"hard link to itself", [][]ent{{file("f", "1"), link("f", "f")}}, "f=1"},
		{"hard link to a symlink", [][]ent{{symlinkTo("s", "x"), link("t", "s")}}, "s->x t->x"},
		{"hard link through a symlink", [][]ent{{file("d/f", "1"), symlinkTo("l", "d")}, {link("l/g", "l/f")}}, "d/f=1 d/g=1 l->d"},
		{"entry of the root", [][]ent{{dir("./"), file("./f", "1")}, {dir("/").mode(0o711)}}, "f=1"},
		{"names to be cleaned", [][]ent{{file("/a//b/./c", "1"), file("./d", "2"), file("a/x/../e", "3")}}, "a/b/c=1 a/e=3 d=2"},
		{"whiteout device", [][]ent{{file("f", "1"), file("g", "2")}, {{Header: tar.Header{Name: "f", Typeflag: tar.TypeChar}}}}, "g=2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStack(t)
			for _, l := range tt.layers {
				s.push(mkTar(t, l...))
			}
			if got := briefly(t, s.plain); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if tt.name != "hard link through a symlink" { // overlayfs shows the lower name as it was
				s.agree()
			}
		})
	}
}

func briefly(t *testing.T, dir string) string {
	var out []string
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case err != nil:
			t.Fatal(err)
		case d.Type()&os.ModeSymlink != 0:
			l, _ := os.Readlink(p)
			out = append(out, rel+"->"+l)
		case !d.IsDir():
			b, _ := os.ReadFile(p)
			out = append(out, rel+"="+string(b))
		}
		return nil
	})
	return strings.Join(out, " ")
}

// A hard link to a file of a lower layer copies it up, with everything it has.
func TestHardLinkBelow(t *testing.T) {
	needRoot(t)
	s := newStack(t)
	s.push(mkTar(t, dir("d/").mode(0o1770).owner(7, 8), file("d/f", "1").mode(0o6750).owner(5, 6).xattr("user.x", "y"),
		symlinkTo("d/s", "f").owner(9, 9)))
	s.push(mkTar(t, file("other", "x")))
	up := s.push(mkTar(t, link("g", "d/f"), link("t", "d/s")))
	s.agree()
	got := listTar(t, diffOf(t, up))
	if want := "[5 d/ 0 d/f 2 d/s 1 g 1 t]"; fmt.Sprint(got) != want {
		t.Errorf("layer %v, want %v", got, want)
	}
}

// Owners, modes with set-ID bits, times of files and directories, xattrs, devices and FIFOs are those of the tar,
// whatever the umask is.
func TestMetadata(t *testing.T) {
	needRoot(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	s := newStack(t)
	node := func(name string, typ byte, major, minor int64) ent {
		return ent{Header: tar.Header{Name: name, Typeflag: typ, Devmajor: major, Devminor: minor, Mode: 0o666, Gid: 5}}
	}
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw=ep
	s.push(mkTar(t,
		dir("sticky/").mode(0o1777).at(11), file("sticky/suid", "x").mode(0o4755).owner(1000, 100).at(12),
		file("sticky/sgid", "x").mode(0o2711).owner(0, 100), dir("setgid/").mode(0o2775).owner(3, 4), file("setgid/f", "").owner(0, 0),
		symlinkTo("link", "/etc/passwd").owner(65534, 65534).at(13), file("cap", "x").mode(0o755).owner(1, 1).xattr("security.capability", caps),
		file("big", "x").owner(4_000_000_000, 4_000_000_001), file("past", "").at(-5), file("future", "").at(1<<33),
		node("null", tar.TypeChar, 1, 3), node("disk", tar.TypeBlock, 259, 70_000), node("fifo", tar.TypeFifo, 0, 0),
		dir("x/").xattr("user.dir", "d"), file("hostpolicy", "").xattr("security.selinux", "label"), dir("closed/").mode(0), file("closed/f", "y").mode(0),
	))
	s.agree()
	got := dump(t, s.plain)
	for _, want := range []string{
		`"sticky" 041777 0:0 11`, `"sticky/suid" 104755 1000:100 12`, `"sticky/sgid" 102711 0:100`, `"setgid/f" 100644 0:0`,
		`"link" 120777 65534:65534 13 -> "/etc/passwd"`, `"past" 100644 0:0 -5`, `"future" 100644 0:0 8589934592`, "4000000000:4000000001",
		`"null" 020666 0:5 1500000000 dev 1:3`, `"disk" 060666 0:5 1500000000 dev 259:70000`, `"fifo" 010666 0:5`,
		`user.dir="d"`, `security.capability="\x01`, `"closed/f" 100000`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in:\n%s", want, got)
		}
	}
	var b [8]byte
	if n, err := unix.Lgetxattr(filepath.Join(s.plain, "hostpolicy"), "security.selinux", b[:]); err == nil {
		t.Errorf("the host's label was set from the tar: %q", b[:n])
	}
}

// A directory that a layer only passes through keeps its metadata; one that has an entry loses what the entry lacks.
func TestParents(t *testing.T) {
	needRoot(t)
	s := newStack(t)
	s.push(mkTar(t, dir("a/").mode(0o750).owner(1, 2).at(100).xattr("user.x", "1"), dir("b/").mode(0o2700).at(200).xattr("user.y", "2"), dir("c/").at(300)))
	s.push(mkTar(t, file("a/new/f", "1").at(5), dir("b/").at(201), white("c/.wh.nothing")))
	s.agree()
	got := dump(t, s.plain)
	for _, want := range []string{
		`"a" 040750 1:2 100 user.x="1"`, `"a/new" 040755 0:0 5`, "\"b\" 040755 0:0 201\n", `"c" 040755 0:0 300`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in:\n%s", want, got)
		}
	}
}

// Names of bytes that are no UTF-8, and paths longer than PATH_MAX, are names like any others.
func TestNames(t *testing.T) {
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 60)
	for _, name := range []string{"\xff\xfe", "new\nline", "ütf", strings.Repeat("n", 255), `back\slash`, deep + "f", deep + "\x80"} {
		root := t.TempDir()
		b := mkTar(t, file(name, "x"))
		apply(t, Target{Dir: root}, b)
		got := diffOf(t, Target{Dir: root})
		names := listTar(t, got)
		if len(names) == 0 || names[len(names)-1] != "0 "+name {
			t.Errorf("%.20q: came back as %.300q", name, names)
		}
		// os.RemoveAll, which cleans up, goes by descriptors too.
	}
}

// compressed returns b in every format.
func compressed(t testing.TB, b []byte) map[Compression][]byte {
	var gz, gz2, zs, x bytes.Buffer
	g := gzip.NewWriter(&gz)
	g.Write(b)
	g.Close()
	for _, part := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		g := gzip.NewWriter(&gz2)
		g.Write(part)
		g.Close()
	}
	z, _ := zstd.NewWriter(&zs)
	z.Write(b)
	z.Close()
	w, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	w.Close()
	return map[Compression][]byte{Uncompressed: b, Gzip: gz.Bytes(), "gzip in two members": gz2.Bytes(), Zstd: zs.Bytes(), Xz: x.Bytes()}
}

// Whatever the compression, the tree, the diff ID and the size are those of the tar.
func TestCompressions(t *testing.T) {
	b := mkTar(t, dir("a/"), file("a/f", strings.Repeat("some text ", 100_000)))
	b = append(b, make([]byte, 10_240)...) // padding counts for the digest
	for name, c := range compressed(t, b) {
		root := t.TempDir()
		res, err := Apply(t.Context(), Target{Dir: root}, iotest.HalfReader(bytes.NewReader(c)), Options{DiffID: digest.FromBytes(b)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if res.DiffID != digest.FromBytes(b) || res.Size != int64(len(b)) || res.Compressed != int64(len(c)) || res.Entries != 2 {
			t.Errorf("%s: got %+v", name, res)
		}
		if fi, err := os.Stat(filepath.Join(root, "a/f")); err != nil || fi.Size() != 1_000_000 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A tar whose first name looks like another format is a tar.
func TestDetectTar(t *testing.T) {
	if c := Detect(mkTar(t, file("BZh91AY", ""))[:512]); c != Uncompressed {
		t.Errorf("got %s", c)
	}
}

// A layer that is not what its config says is refused (CVE-2026-93318).
func TestWrongDiffID(t *testing.T) {
	b := mkTar(t, file("f", "x"))
	for _, id := range []digest.Digest{digest.FromString("other"), digest.SHA512.FromString("other")} {
		if _, err := Apply(t.Context(), Target{Dir: t.TempDir()}, bytes.NewReader(b), Options{DiffID: id}); !errors.Is(err, ErrDiffID) {
			t.Errorf("got %v, want ErrDiffID", err)
		}
	}
	if _, err := Apply(t.Context(), Target{Dir: t.TempDir()}, bytes.NewReader(b), Options{DiffID: digest.SHA512.FromBytes(b)}); err != nil {
		t.Errorf("right SHA-512: %v", err)
	}
	if _, err := Apply(t.Context(), Target{Dir: t.TempDir()}, bytes.NewReader(b), Options{DiffID: "sha256:x"}); !errors.Is(err, digest.ErrDigestInvalidFormat) {
		t.Errorf("invalid: %v", err)
	}
}

// A stream that stops anywhere, in any compression, is an error and never a smaller layer, and ends (CVE-2021-20291).
func TestTruncated(t *testing.T) {
	b := mkTar(t, file("f", strings.Repeat("x", 3000)), file("g", "y"))
	for name, c := range compressed(t, b) {
		for n := 0; n < len(c); n += 1 + len(c)/97 {
			_, err := Apply(t.Context(), Target{Dir: t.TempDir()}, bytes.NewReader(c[:n]), Options{DiffID: digest.FromBytes(b)})
			if err == nil && (name != Xz || n < len(c)-64) { // of xz only the index, which says nothing new, may be missing
				t.Errorf("%s cut at %d of %d: no error", name, n, len(c))
			}
		}
	}
}

// Cancelling at any byte ends Apply with the cause.
func TestCancel(t *testing.T) {
	b := mkTar(t, file("f", strings.Repeat("x", 100_000)), file("g", strings.Repeat("y", 2_000_000)))
	why := errors.New("why")
	for n := 0; n < len(b); n += len(b) / 20 {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := io.MultiReader(bytes.NewReader(b[:n]), readFunc(func(p []byte) (int, error) {
			cancel(why)
			return 0, why
		}))
		if _, err := Apply(ctx, Target{Dir: t.TempDir()}, r, Options{}); !errors.Is(err, why) {
			t.Errorf("at %d: got %v", n, err)
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
