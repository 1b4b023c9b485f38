package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { unix.Umask(0o022) }

// dockerfile is a Copy as COPY makes it.
func dockerfile(src, dst string) *op.Copy {
	return &op.Copy{
		Src: src, Dst: dst, DirContents: true, MkdirDst: true, Wildcard: true, EmptyWildcard: true, FollowSymlinks: true,
		Time: old,
	}
}

func with(c *op.Copy, fn func(*op.Copy)) *op.Copy {
	fn(c)
	return c
}

const at = " @1000000000000000000"

// Where a source goes, by what source and destination are. The rules are those of COPY.
func TestCopyDestination(t *testing.T) {
	base := []string{"dir/", "file=old", "ldir -> dir", "lfile -> file", "abs -> /dir", "up -> ../../../../dir"}
	src := []string{"f=F", "d/g=G", "d/sub/h=H", "l -> f", "ld -> d", "empty/"}
	for _, c := range []struct {
		src, dst string
		want     string // what is new or changed, or an error
	}{
		{"/f", "/new", `"new" "F"`},
		{"/f", "/new/", `"new" dir, "new/f" "F"`},
		{"/f", "/a/b/new", `"a" dir, "a/b" dir, "a/b/new" "F"`},
		{"/f", "/dir", `"dir/f" "F"`},
		{"/f", "/dir/", `"dir/f" "F"`},
		{"/f", "/dir/.", `"dir/f" "F"`},
		{"/f", "/", `"f" "F"`},
		{"/f", "/file", `"file" "F"`},
		{"/f", "/ldir", `"dir/f" "F"`},
		{"/f", "/lfile", `"file" "F"`},
		{"/f", "/abs/", `"dir/f" "F"`},
		{"/f", "/up/x", `"dir/x" "F"`},
		{"/f", "/file/", "not a directory"},
		{"/f", "/file/x", "not a directory"},
		{"/l", "/new", `"new" "F"`},
		{"/d", "/new", `"new" dir, "new/g" "G", "new/sub" dir, "new/sub/h" "H"`},
		{"/d", "/dir", `"dir/g" "G", "dir/sub" dir, "dir/sub/h" "H"`},
		{"/ld", "/dir/", `"dir/g" "G", "dir/sub" dir, "dir/sub/h" "H"`},
		{"/d", "/file", "cannot copy to non-directory: /file"},
		{"/d", "/lfile", "cannot copy to non-directory: /file"},
		{"/empty", "/new", `"new" dir`},
		{"/d/*", "/new/", `"new" dir, "new/g" "G", "new/h" "H"`},
		{"/?", "/dir/", `"dir/f" "F", "dir/g" "G", "dir/l" "F", "dir/sub" dir, "dir/sub/h" "H"`},
		{"/none*", "/dir/", ""},
		{"/empty/*", "/dir/", ""},
		{"/f/x*", "/dir/", ""},
		{"/no*/x", "/dir/", ""},
		{"/none/x*", "/dir/", "lstat /none: no such file or directory"},
		{"/d/none/*/x", "/dir/", "lstat /d/none: no such file or directory"},
		{"/none", "/dir/", `"/none": not found`},
		{"/d/none", "/dir/", `"/d/none": not found`},
		{"/../f", "/dir/", `"dir/f" "F"`},
	} {
		t.Run(c.src+" "+c.dst, func(t *testing.T) {
			everyWay(t, func(t *testing.T, e *testEnv) {
				b := e.base(files(t, base...))
				before := brief(e.dump(b))
				r, err := e.do(b, e.base(files(t, src...)), op.FileAction{Copy: dockerfile(c.src, c.dst)})
				got := ""
				if err != nil {
					if got = err.Error(); !strings.Contains(got, c.want) || c.want == "" {
						t.Errorf("got error %q, want %q", got, c.want)
					}
					return
				}
				var news []string
				for k, v := range brief(e.dump(r)) {
					if before[k] != v {
						news = append(news, fmt.Sprintf("%s %s", k, v))
					}
				}
				for k := range before {
					if _, ok := brief(e.dump(r))[k]; !ok {
						t.Errorf("%s is gone", k)
					}
				}
				want := map[string]bool{}
				for _, w := range strings.Split(c.want, ", ") {
					if w != "" {
						want[w] = true
					}
				}
				for _, n := range news {
					if !want[n] {
						t.Errorf("unexpected %s", n)
					}
					delete(want, n)
				}
				for w := range want {
					t.Errorf("missing %s", w)
				}
			})
		})
	}
}

// brief keeps of a dump the names and what kind of file each is, or its content.
func brief(dump string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(dump) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(f[1], "04"):
			out[f[0]] = "dir"
		case strings.HasPrefix(f[1], "12"):
			out[f[0]] = "link"
		default:
			out[f[0]] = f[3]
		}
	}
	return out
}

// What is copied and with what metadata.
func TestCopyMetadata(t *testing.T) {
	special := func(dir string) {
		files(t, "d/x/f=1", "d/x/g=2", "d/exec=#!", "d/l -> nowhere")(dir)
		_ = os.Chmod(dir+"/d/exec", 0o755)
		_ = os.Chmod(dir+"/d/x", 0o750)
		_ = os.Chmod(dir+"/d/x/g", 0o4711|os.ModeSetuid)
		_ = os.Link(dir+"/d/x/f", dir+"/d/again")
		_ = unix.Setxattr(dir+"/d/x/g", "user.a", []byte("1"), 0)
		_ = unix.Setxattr(dir+"/d/x", "user.b", []byte("2"), 0)
		_ = unix.Mkfifo(dir+"/d/fifo", 0o640)
		for _, p := range []string{"d/x/f", "d/x/g", "d/x", "d/exec", "d/fifo", "d"} {
			_ = os.Chtimes(dir+"/"+p, old, old)
		}
	}
	everyWay(t, func(t *testing.T, e *testEnv) {
		src := e.base(special)
		b := e.base(files(t, "have/x/keep=k"))
		c := dockerfile("/d", "/to")
		c.Time = time.Time{}
		got := e.must(b, src, op.FileAction{Copy: c})
		if !strings.Contains(got, `"to/l" 120777 0:0 -> nowhere`) {
			t.Errorf("symlink is missing:\n%s", got)
		}
		check(t, without(got, `"to/l"`), lines(
			`"have" 040755 0:0`+at, `"have/x" 040755 0:0`+at, `"have/x/keep" 100644 0:0 "k"`+at,
			`"to" 040755 0:0`+at,
			`"to/again" 100644 0:0 "1"`+at+` linked to/again,to/x/f`,
			`"to/exec" 100755 0:0 "#!"`+at, `"to/fifo" 010640 0:0`+at,
			`"to/x" 040750 0:0`+at+` user.b="2"`,
			`"to/x/f" 100644 0:0 "1"`+at+` linked to/again,to/x/f`,
			`"to/x/g" 104711 0:0 "2"`+at+` user.a="1"`,
		))
		// A directory that is there takes the source's metadata, but for the top one; owner and mode are overridden.
		got = e.must(b, src, op.FileAction{Copy: with(dockerfile("/d", "/have"), func(c *op.Copy) {
			c.Owner, c.ModeString, c.Exclude = &op.Owner{UID: 7, GID: 8}, "go=rX,u+w", []string{"fifo", "l", "again"}
		})})
		check(t, got, lines(
			`"have" 040755 0:0`+at, `"have/exec" 100755 7:8 "#!"`+at, `"have/x" 040755 7:8`+at+` user.b="2"`,
			`"have/x/f" 100644 7:8 "1"`+at, `"have/x/g" 104755 7:8 "2"`+at+` user.a="1"`, `"have/x/keep" 100644 0:0 "k"`+at,
		))
		// Parents are made with the mode and the owner that is asked for.
		got = e.must(b, src, op.FileAction{Copy: with(dockerfile("/d/exec", "/p/q/r"), func(c *op.Copy) {
			c.Owner, c.ModeSet, c.Mode = &op.Owner{UID: 7, GID: 8}, true, 0o700
		})})
		if !strings.Contains(got, `"p" 040700 7:8`+at) || !strings.Contains(got, `"p/q/r" 100700 7:8`) {
			t.Errorf("got:\n%s", got)
		}
	})
}

func without(dump, prefix string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		if !strings.HasPrefix(line, prefix) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Patterns choose what of a directory is copied, and directories that lead to it.
func TestCopyPatterns(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		src := e.base(files(t, "a/b/c.go=1", "a/b/d.txt=2", "a/e.go=3", "x/y=4", "x/z/=", "n/m=5"))
		for _, c := range []struct {
			include, exclude []string
			want             string
		}{
			{nil, nil, "a a/b a/b/c.go a/b/d.txt a/e.go n n/m x x/y x/z"},
			{[]string{"a/*/c*"}, nil, "a a/b a/b/c.go"},
			{[]string{"**/*.go"}, nil, "a a/b a/b/c.go a/e.go"},
			{[]string{"a"}, []string{"a/b"}, "a a/e.go"},
			{nil, []string{"**", "!a/b/d.txt"}, "a a/b a/b/d.txt"},
			{nil, []string{"a", "!a/b/*.go", "x"}, "a a/b a/b/c.go n n/m"},
			{[]string{"none"}, nil, ""},
		} {
			got := e.must(Empty, src, op.FileAction{Copy: with(dockerfile("/", "/"), func(o *op.Copy) {
				o.Include, o.Exclude = c.include, c.exclude
			})})
			var names []string
			for line := range strings.Lines(got) {
				names = append(names, strings.Trim(strings.Fields(line)[0], `"`))
			}
			if g := strings.Join(names, " "); g != c.want {
				t.Errorf("include %q exclude %q: got %s, want %s", c.include, c.exclude, g, c.want)
			}
		}
		_, err := e.do(Empty, src, op.FileAction{Copy: with(dockerfile("/", "/"), func(o *op.Copy) {
			o.Include, o.Required = []string{"q/r"}, []string{"/q/r"}
		})})
		if err == nil || err.Error() != `"/q/r": not found` || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v for a required path that is missing", err)
		}
	})
}

// What is in the way: files replace files, whatever they are, and nothing else unless asked to.
func TestCopyConflicts(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		src := e.base(files(t, "d/f=new", "d/g=new", "s/d/=", "s/f/x=1", "file/d=F"))
		b := e.base(files(t, "d/f -> /d/t", "d/t=target", "d/g=old", "f=file", "l -> d", "full/d/x=1"))
		got := e.must(b, src, op.FileAction{Copy: dockerfile("/d", "/d")})
		if !strings.Contains(got, `"d/f" 100644 0:0 "new"`) || !strings.Contains(got, `"d/t" 100644 0:0 "target"`) || !strings.Contains(got, `"d/g" 100644 0:0 "new"`) {
			t.Errorf("got:\n%s", got)
		}
		for _, c := range []struct{ from, to, want string }{
			{"/s", "/", "cannot copy to non-directory: /f"},
			{"/file", "/full", "cannot replace to directory /full/d with file"},
			{"/d", "/l", ""},
			{"/s", "/l", "cannot copy to non-directory: /d/f"},
		} {
			_, err := e.do(b, src, op.FileAction{Copy: dockerfile(c.from, c.to)})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("copying %s to %s: got %v, want %q", c.from, c.to, err, c.want)
			}
		}
		replace := func(c *op.Copy) { c.AlwaysReplace = true }
		got = e.must(b, src, op.FileAction{Copy: with(dockerfile("/s", "/"), replace)}, op.FileAction{Copy: with(dockerfile("/file", "/full"), replace)})
		for _, want := range []string{`"f/x" 100644 0:0 "1"`, `"full/d" 100644 0:0 "F"`, `"d/g" 100644 0:0 "old"`} {
			if !strings.Contains(got, want) {
				t.Errorf("%s is missing in:\n%s", want, got)
			}
		}
	})
}

// A tree that says otherwise leads nobody out of the root, on either side.
func TestCopyConfined(t *testing.T) {
	canary := t.TempDir()
	files(t, "secret=canary", "sub/f=1")(canary)
	before := dumpDir(t, canary)
	everyWay(t, func(t *testing.T, e *testEnv) {
		src := e.base(files(t, "out -> "+canary, "deep -> "+strings.Repeat("../", 30)+canary[1:], "f=evil", "loop -> loop", "a -> b", "b -> a"))
		for _, p := range []string{"/out/secret", "/out/*", "/deep/secret", "/loop", "/a", "/loop/x"} {
			r, err := e.do(Empty, src, op.FileAction{Copy: dockerfile(p, "/x/")})
			if err == nil && strings.Contains(e.dump(r), "canary") {
				t.Errorf("copying %s got at a file outside", p)
			}
		}
		b := e.base(files(t, "out -> "+canary, "deep -> "+strings.Repeat("../", 30)+canary[1:], "loop -> loop", "d/link -> "+canary))
		for _, p := range []string{"/out/secret", "/out/", "/deep/sub/f", "/deep/new/", "/loop/x", "/loop", "/out", "/d/link/sub/", "/out/../../" + canary + "/x"} {
			_, _ = e.do(b, src, op.FileAction{Copy: dockerfile("/f", p)})
			_, _ = e.do(b, src, op.FileAction{Mkfile: &op.Mkfile{Path: p, Data: []byte("evil")}})
			_, _ = e.do(b, src, op.FileAction{Mkdir: &op.Mkdir{Path: p, Parents: true, Mode: 0o777, Owner: &op.Owner{UID: 1, GID: 1}}})
			_, _ = e.do(b, src, op.FileAction{Symlink: &op.Symlink{Old: "x", New: p}})
			_, _ = e.do(b, src, op.FileAction{Rm: &op.Rm{Path: p}})
		}
	})
	check(t, dumpDir(t, canary), before)
}

// Results of actions can be sources and bases of several later ones, and outputs.
func TestGraph(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		f := &op.File{Actions: []op.FileAction{
			{Input: op.NoInput, Second: op.NoInput, Output: op.NoOutput, Mkfile: &op.Mkfile{Path: "/a", Data: []byte("1"), Mode: 0o644, Time: old}},
			{Input: 0, Second: op.NoInput, Output: 1, Mkfile: &op.Mkfile{Path: "/b", Data: []byte("2"), Mode: 0o644, Time: old}},
			{Input: 0, Second: 1, Output: 0, Copy: dockerfile("/b", "/c")},
			{Input: op.NoInput, Second: 2, Output: 2, Copy: dockerfile("/", "/")},
		}}
		out, err := Do(t.Context(), e, f, nil)
		if err != nil {
			t.Fatal(err)
		}
		check(t, e.dump(out[0]), lines(`"a" 100644 0:0 "1"`+at, `"c" 100644 0:0 "2"`+at))
		check(t, e.dump(out[1]), lines(`"a" 100644 0:0 "1"`+at, `"b" 100644 0:0 "2"`+at))
		check(t, e.dump(out[2]), lines(`"a" 100644 0:0 "1"`+at, `"c" 100644 0:0 "2"`+at))
	})
	for _, f := range []*op.File{
		{Actions: []op.FileAction{{Input: 3, Second: op.NoInput, Mkdir: &op.Mkdir{Path: "/a"}}}},
		{Actions: []op.FileAction{{Input: -2, Second: op.NoInput, Mkdir: &op.Mkdir{Path: "/a"}}}},
		{Actions: []op.FileAction{{Input: op.NoInput, Second: op.NoInput, Output: 1, Mkdir: &op.Mkdir{Path: "/a"}}}},
		{Actions: []op.FileAction{{Input: op.NoInput, Second: op.NoInput}}},
	} {
		if _, err := Do(t.Context(), newEnv(t, plain), f, nil); err == nil {
			t.Errorf("%+v was performed", f)
		}
	}
}

// After the first result of a step, files that are the same again are links to it; those that differ in anything are
// not, and the earlier result is never changed.
func TestPrevious(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	e := newEnv(t, direct)
	src := e.base(files(t, "s/same=1", "s/content=1", "s/mode=1", "s/time=1", "s/gone=1", "s/two=x"))
	b := e.base(files(t, "to/"))
	c := dockerfile("/s", "/to")
	c.Time = time.Time{}
	known(t, e, src)
	first, err := e.do(b, src, op.FileAction{Copy: c})
	if err != nil {
		t.Fatal(err)
	}
	before := e.dump(first)
	dir := e.layers[src][0]
	_ = os.WriteFile(dir+"/s/content", []byte("2"), 0o644)
	_ = os.Chtimes(dir+"/s/content", old, old)
	_ = os.Chmod(dir+"/s/mode", 0o600)
	_ = os.Chtimes(dir+"/s/time", old.Add(time.Second), old.Add(time.Second))
	_ = os.Remove(dir + "/s/gone")
	src2 := e.result(e.layers[src]) // the same directory under another name, since snapshots do not change
	known(t, e, src2)
	e.reuse = first
	second, err := e.do(b, src2, op.FileAction{Copy: c})
	if err != nil {
		t.Fatal(err)
	}
	for name, shared := range map[string]bool{"same": true, "two": true, "content": false, "mode": false, "time": false} {
		var a, b unix.Stat_t
		_ = unix.Lstat(filepath.Join(e.layers[first][0], "to", name), &a)
		_ = unix.Lstat(filepath.Join(e.layers[second][0], "to", name), &b)
		if a.Ino == 0 || b.Ino == 0 || (a.Ino == b.Ino) != shared {
			t.Errorf("%s: inodes %d and %d, want equal: %t", name, a.Ino, b.Ino, shared)
		}
	}
	// Links to another snapshot look like hard links to dump.
	got := e.dump(second)
	for _, want := range []string{`"to/content" 100644 0:0 "2"`, `"to/mode" 100600`, `"to/time" 100644 0:0 "1" @1000000001`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is missing in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "gone") {
		t.Error("a file that the source has not is there")
	}
	check(t, e.dump(first), before)
	// A manifest that is damaged is as good as none.
	e.previous[first] = append([]byte(nil), e.previous[first][1:]...)
	third, err := e.do(b, src2, op.FileAction{Copy: c})
	if err != nil {
		t.Fatal(err)
	}
	check(t, e.dump(third), got)
}

// A directory that files are copied to has the time of what was copied to it last: the source directory's, or now.
func TestCopyTimes(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		src := e.base(func(dir string) {
			files(t, "f=F", "d/g=G")(dir)
			_ = os.Chtimes(dir+"/d", old, old)
		})
		copies := func(sources ...string) []op.FileAction {
			var out []op.FileAction
			for _, s := range sources {
				out = append(out, op.FileAction{Copy: with(dockerfile(s, "/to/"), func(c *op.Copy) { c.Time = time.Time{} })})
			}
			return out
		}
		for _, c := range []struct {
			sources []string
			old     bool
		}{
			{[]string{"/f", "/d"}, true},
			{[]string{"/d", "/f"}, false},
			{[]string{"/d", "/f", "/d"}, true},
			{[]string{"/d", "/none*"}, true},
		} {
			for base, what := range map[solver.Result]string{Empty: "nothing", e.base(files(t, "x=")): "something", e.base(files(t, "to/y=")): "the directory"} {
				got := e.must(base, src, copies(c.sources...)...)
				if strings.Contains(got, `"to" 040755 0:0`+at) != c.old {
					t.Errorf("copying %q to %s, old time %t:\n%s", c.sources, what, c.old, got)
				}
			}
		}
	})
}

// Only files get set-ID bits and the sticky one from a numeric mode, not the directories that are made for them.
func TestCopySpecialBits(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		got := e.must(Empty, e.base(files(t, "d/s/f=F")), op.FileAction{Copy: with(dockerfile("/d", "/p/q"), func(c *op.Copy) {
			c.ModeSet, c.Mode = true, 0o7751
		})})
		check(t, got, lines(
			`"p" 040751 0:0`+at, `"p/q" 040751 0:0`+at, `"p/q/s" 047751 0:0`+at, `"p/q/s/f" 107751 0:0 "F"`+at,
		))
	})
}

// Directories that are made in one with the set-group-ID bit have its group and the bit; those that are copied are as they
// were. An owner that is given counts, and the bit stays.
func TestSetGroupID(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	everyWay(t, func(t *testing.T, e *testEnv) {
		base := e.base(func(dir string) {
			files(t, "sg/")(dir)
			if err := errors.Join(os.Chown(dir+"/sg", 0, 50), unix.Chmod(dir+"/sg", 0o2775)); err != nil {
				t.Fatal(err)
			}
		})
		got := e.must(base, e.base(files(t, "d/s/", "d/f=1")),
			op.FileAction{Copy: dockerfile("/d", "/sg/new/in")},
			op.FileAction{Copy: with(dockerfile("/d/f", "/sg/own/f"), func(c *op.Copy) { c.Owner = &op.Owner{UID: 7, GID: 8} })},
			op.FileAction{Mkdir: &op.Mkdir{Path: "/sg/w/x", Mode: 0o755, Parents: true}})
		for _, want := range []string{
			`"sg/new" 042755 0:50`, `"sg/new/in" 042755 0:50`, `"sg/new/in/s" 040755 0:0`,
			`"sg/own" 042755 7:8`, `"sg/own/f" 100644 7:8`, `"sg/w" 042755 0:50`, `"sg/w/x" 042755 0:50`,
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in\n%s", want, got)
			}
		}
	})
}

// Names that mean something else in a layer are copied, with a warning that names the first of each source.
func TestCopyWhiteoutNames(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		src := e.base(files(t, "d/.wh.f=1", "d/f=2", "d/s/.wh..wh..opq=3", "g=4", "wh=5", "d.wh./f=6"))
		for _, c := range []struct{ src, dst, warning string }{
			{"/d", "/x/", `"/d/.wh.f"`},
			{"/d/.wh.f", "/x/plain", ""},
			{"/g", "/x/.wh.g", `"/g"`},
			{"/d/s", "/x/", `"/d/s/.wh..wh..opq"`},
			{"/?h", "/x/", ""},
			{"/d.wh.", "/x/", ""},
		} {
			e.warnings = nil
			e.must(Empty, src, op.FileAction{Copy: dockerfile(c.src, c.dst)})
			got := strings.Join(e.warnings, "")
			if len(e.warnings) > 1 || !strings.Contains(got, c.warning) || (got == "") != (c.warning == "") {
				t.Errorf("copying %s to %s: got warnings %q, want of %q", c.src, c.dst, e.warnings, c.warning)
			}
		}
		got := brief(e.must(Empty, src, op.FileAction{Copy: dockerfile("/d", "/")}))
		if got[`".wh.f"`] != `"1"` || got[`"f"`] != `"2"` {
			t.Errorf("got %q", got)
		}
	})
}
