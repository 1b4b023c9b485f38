package fileop

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/op"
)

// tarOf makes a tar of headers; a regular file's content is its Linkname.
func tarOf(t testing.TB, hdrs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hdrs {
		data := ""
		if h.Typeflag == 0 {
			h.Typeflag, data, h.Linkname = tar.TypeReg, h.Linkname, ""
			h.Size = int64(len(data))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime = old
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(data))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Archives are known by their content, in every compression; what only looks like one is copied.
func TestUnpack(t *testing.T) {
	plainTar := tarOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3, Gid: 4},
		tar.Header{Name: "d/f", Linkname: "data", Uid: 5},
		tar.Header{Name: "d/.wh.x", Linkname: "no whiteout"},
		tar.Header{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: "/d"},
		tar.Header{Name: "abs/in", Linkname: "through a link"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "d/f"},
	)
	var gz, zst, xzb bytes.Buffer
	g := gzip.NewWriter(&gz)
	_, _ = g.Write(plainTar)
	_ = g.Close()
	z, _ := zstd.NewWriter(&zst)
	_, _ = z.Write(plainTar)
	_ = z.Close()
	x, _ := xz.NewWriter(&xzb)
	_, _ = x.Write(plainTar)
	_ = x.Close()
	var fake bytes.Buffer
	g = gzip.NewWriter(&fake)
	_, _ = g.Write([]byte("not a tar"))
	_ = g.Close()
	archives := map[string][]byte{"tar": plainTar, "gzip": gz.Bytes(), "zstd": zst.Bytes(), "xz": xzb.Bytes()}
	if cmd, err := exec.LookPath("bzip2"); err == nil {
		c := exec.Command(cmd)
		c.Stdin = bytes.NewReader(plainTar)
		if out, err := c.Output(); err == nil {
			archives["bzip2"] = out
		}
	}
	everyWay(t, func(t *testing.T, e *testEnv) {
		if os.Getuid() != 0 {
			t.Skip("needs root")
		}
		add := func(c *op.Copy) { c.Unpack, c.Time = true, time.Time{} }
		for name, data := range archives {
			src := e.base(func(dir string) { _ = os.WriteFile(dir+"/whatever", data, 0o644) })
			b := e.base(files(t, "to/d/kept=1", "to/x=1", "l -> to"))
			e.warnings = nil
			got := e.must(b, src, op.FileAction{Copy: with(dockerfile("/whatever", "/l"), add)})
			want := lines(
				`"l" 120777 0:0 -> to`,
				`"to/abs" 120777 0:0 -> /d`+at,
				`"to/d" 040750 3:4`+at,
				`"to/d/.wh.x" 100644 0:0 "no whiteout"`+at,
				`"to/d/f" 100644 5:0 "data"`+at+` linked to/d/f,to/hard`,
				`"to/d/in" 100644 0:0 "through a link"`+at,
				`"to/d/kept" 100644 0:0 "1"`+at,
				`"to/hard" 100644 5:0 "data"`+at+` linked to/d/f,to/hard`,
				`"to/x" 100644 0:0 "1"`+at,
			)
			if got = without(got, `"to" `); got != want {
				t.Errorf("%s: got:\n%s\nwant:\n%s", name, got, want)
			}
			if len(e.warnings) != 1 || !strings.HasPrefix(e.warnings[0], `"d/.wh.x" of "/whatever" is left out of the image`) {
				t.Errorf("%s: got the warnings %q", name, e.warnings)
			}
		}
		src := e.base(func(dir string) { _ = os.WriteFile(dir+"/a", plainTar, 0o644) })
		got := e.must(Empty, src, op.FileAction{Copy: with(dockerfile("/a", "/new/"), func(c *op.Copy) {
			add(c)
			c.Owner = &op.Owner{UID: 7, GID: 8}
		})})
		for line := range strings.Lines(got) {
			if !strings.Contains(line, " 7:8") {
				t.Errorf("--chown is not heeded: %s", line)
			}
		}
		for name, data := range map[string][]byte{
			"f.tar.gz": fake.Bytes(), "empty.tar": nil, "text.tar": []byte("hello"), "cut.xz": xzb.Bytes()[:8], "zeros": make([]byte, 4096),
		} {
			src := e.base(func(dir string) { _ = os.WriteFile(filepath.Join(dir, name), data, 0o644) })
			if got := brief(e.must(Empty, src, op.FileAction{Copy: with(dockerfile("/"+name, "/"), add)})); len(got) != 1 || got[`"`+name+`"`] == "" {
				t.Errorf("%s: got %v", name, got)
			}
		}
	})
}

// An archive cannot reach out of the directory that it is unpacked to, not even to the rest of the image.
func TestUnpackConfined(t *testing.T) {
	canary := t.TempDir()
	files(t, "secret=canary", "sub/f=1")(canary)
	before := dumpDir(t, canary)
	up := strings.Repeat("../", 30)
	everyWay(t, func(t *testing.T, e *testEnv) {
		for name, a := range map[string][]byte{
			"dots":            tarOf(t, tar.Header{Name: up + canary + "/evil", Linkname: "x"}),
			"dots inside":     tarOf(t, tar.Header{Name: "a/" + up + canary + "/evil", Linkname: "x"}),
			"absolute":        tarOf(t, tar.Header{Name: canary + "/evil", Linkname: "x"}),
			"through link":    tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: canary}, tar.Header{Name: "l/evil", Linkname: "x"}),
			"through dots":    tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: up + canary}, tar.Header{Name: "l/evil", Linkname: "x"}),
			"over link":       tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: canary + "/secret"}, tar.Header{Name: "l", Linkname: "x"}),
			"hard link out":   tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: canary + "/secret"}, tar.Header{Name: "l", Linkname: "x"}),
			"hard link dots":  tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: up + canary + "/secret"}),
			"chmod by link":   tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: canary}, tar.Header{Name: "l", Typeflag: tar.TypeDir, Mode: 0o777}),
			"replaces root":   tarOf(t, tar.Header{Name: "./", Typeflag: tar.TypeSymlink, Linkname: canary}, tar.Header{Name: "evil", Linkname: "x"}),
			"device 0:0":      tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeChar}),
			"link in the way": tarOf(t, tar.Header{Name: "there/evil", Linkname: "x"}),
		} {
			src := e.base(func(dir string) { _ = os.WriteFile(dir+"/a", a, 0o644) })
			b := e.base(files(t, "to/there -> "+canary, "rest=1"))
			r, err := e.do(b, src, op.FileAction{Copy: with(dockerfile("/a", "/to/"), func(c *op.Copy) { c.Unpack = true })})
			if err != nil {
				continue // refused
			}
			got := e.dump(r)
			if !strings.Contains(got, `"rest" 100644 0:0 "1"`) || strings.Contains(got, "canary\"") {
				t.Errorf("%s: got:\n%s", name, got)
			}
			for k := range brief(got) {
				if !strings.HasPrefix(k, `"to`) && k != `"rest"` {
					t.Errorf("%s: %s is outside of the destination", name, k)
				}
			}
		}
	})
	check(t, dumpDir(t, canary), before)
}

// A file that changes while an action reads it fails the action and names the file, whatever the size.
func TestCopyOfChangingFile(t *testing.T) {
	for _, size := range []int{3, copyBuffer, copyBuffer*2 + 5} {
		dir := t.TempDir()
		_ = os.WriteFile(dir+"/f", bytes.Repeat([]byte("x"), size), 0o644)
		tree := localTree(t, dir)
		_ = os.WriteFile(dir+"/f", bytes.Repeat([]byte("y"), size), 0o644)
		everyWay(t, func(t *testing.T, e *testEnv) {
			env := &treeEnv{testEnv: e, tree: tree}
			for _, unpack := range []bool{false, true} {
				f := &op.File{Actions: []op.FileAction{{Input: op.NoInput, Second: 0, Copy: with(dockerfile("/f", "/"), func(c *op.Copy) { c.Unpack = unpack })}}}
				_, err := Do(t.Context(), env, f, []solverResult{"local"})
				if err == nil || !strings.Contains(err.Error(), `"/f" changed`) {
					t.Errorf("size %d, unpack %t: got %v", size, unpack, err)
				}
			}
		})
	}
	if unix.Getuid() != 0 {
		return
	}
	// And so does one that has become a way out.
	dir, outside := t.TempDir(), t.TempDir()
	files(t, "d/f=1")(dir)
	files(t, "f=secret")(outside)
	tree := localTree(t, dir)
	_ = os.RemoveAll(dir + "/d")
	_ = os.Symlink(outside, dir+"/d")
	e := &treeEnv{testEnv: newEnv(t, plain), tree: tree}
	f := &op.File{Actions: []op.FileAction{{Input: op.NoInput, Second: 0, Copy: dockerfile("/", "/")}}}
	if _, err := Do(t.Context(), e, f, []solverResult{"local"}); err == nil || !strings.Contains(err.Error(), `"/d/f" changed`) {
		t.Errorf("got %v", err)
	}
}

// Whatever an archive holds, ADD of it changes nothing outside the tree and removes nothing in it, and two go the same way.
func FuzzUnpack(f *testing.F) {
	for _, ents := range [][]tar.Header{
		{{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d/f", Mode: 0o4755}, {Name: "d/l", Typeflag: tar.TypeLink, Linkname: "d/f"}},
		{{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../../.."}, {Name: "out/canary"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "out/canary"}},
		{{Name: ".wh.keep"}, {Name: ".wh..wh..opq"}, {Name: "../canary"}, {Name: "/canary"}, {Name: "."}},
		{{Name: "keep", Typeflag: tar.TypeSymlink, Linkname: "/canary"}, {Name: "keep", Typeflag: tar.TypeDir}, {Name: "keep/x"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := range ents {
			_ = w.WriteHeader(&ents[i])
		}
		_ = w.Close()
		f.Add(b.Bytes())
		var z bytes.Buffer
		g := gzip.NewWriter(&z)
		_, _ = g.Write(b.Bytes())
		_ = g.Close()
		f.Add(z.Bytes())
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		e := newEnv(t, plain)
		if err := os.WriteFile(filepath.Join(filepath.Dir(e.dir), "canary"), []byte("canary"), 0o600); err != nil {
			t.Fatal(err)
		}
		src := e.base(func(dir string) { _ = os.WriteFile(dir+"/a", archive, 0o644) })
		base := e.base(files(t, "keep=kept", "to/keep=kept"))
		add := op.FileAction{Copy: with(dockerfile("/a", "/to/"), func(c *op.Copy) { c.Unpack = true })}
		one, err := e.do(base, src, add)
		two, err2 := e.do(base, src, add)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("once %v, once %v", err, err2)
		}
		if b, err := os.ReadFile(filepath.Join(filepath.Dir(e.dir), "canary")); err != nil || string(b) != "canary" {
			t.Fatalf("outside: %q, %v", b, err)
		}
		if err != nil {
			return
		}
		got := e.dump(one)
		check(t, got, e.dump(two))
		if b := brief(got); b[`"keep"`] != `"kept"` || b[`"to/keep"`] == "" {
			t.Errorf("what was there is gone:\n%s", got)
		}
	})
}
