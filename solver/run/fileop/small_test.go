package fileop

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

var old = time.Unix(1_000_000_000, 0)

// files makes files from lines: "dir/" is a directory, "a -> b" a symlink, "f=x" a file; all with the time old.
func files(t testing.TB, lines ...string) func(dir string) {
	return func(dir string) {
		for _, l := range lines {
			var err error
			p, to, isLink := strings.Cut(l, " -> ")
			name, data, _ := strings.Cut(p, "=")
			at := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			switch {
			case isLink:
				err = os.Symlink(to, at)
			case strings.HasSuffix(name, "/"):
				err = os.MkdirAll(at, 0o755)
			default:
				err = os.WriteFile(at, []byte(data), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		_ = filepath.Walk(dir, func(p string, fi os.FileInfo, _ error) error {
			if fi.Mode()&os.ModeSymlink == 0 {
				return os.Chtimes(p, old, old)
			}
			return nil
		})
	}
}

// do performs actions one after the other on base.
func (e *testEnv) do(base solver.Result, src solver.Result, actions ...op.FileAction) (solver.Result, error) {
	f := &op.File{}
	inputs := []solver.Result{base, src}
	for i, a := range actions {
		a.Input, a.Output = i+1, op.NoOutput
		if i == 0 {
			a.Input = 0
			if base == Empty {
				a.Input = op.NoInput
			}
		}
		a.Second = op.NoInput
		if a.Copy != nil {
			a.Second = 1
		}
		if i == len(actions)-1 {
			a.Output = 0
		}
		f.Actions = append(f.Actions, a)
	}
	out, err := Do(context.Background(), e, f, inputs)
	if err != nil {
		return "", err
	}
	return out[0], nil
}

// must is do for what has to work; it returns what the tree looks like.
func (e *testEnv) must(base, src solver.Result, actions ...op.FileAction) string {
	e.t.Helper()
	r, err := e.do(base, src, actions...)
	if err != nil {
		e.t.Fatal(err)
	}
	return e.dump(r)
}

func lines(s ...string) string { return strings.Join(s, "\n") + "\n" }

func check(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// Directories that are there are left alone, symlinks lead inside the root, parents are made only if asked for.
func TestMkdir(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		base := e.base(files(t, "there/", "link -> /there", "up -> ../../../there", "f=x"))
		got := e.must(base, "",
			op.FileAction{Mkdir: &op.Mkdir{Path: "/link/a/b", Mode: 0o700, Parents: true, Time: old, Owner: &op.Owner{UID: 5, GID: 6}}},
			op.FileAction{Mkdir: &op.Mkdir{Path: "/up/c", Mode: 0o755, Time: old}},
			op.FileAction{Mkdir: &op.Mkdir{Path: "/there", Mode: 0o700, Time: time.Unix(5, 0)}},
		)
		check(t, got, lines(
			`"f" 100644 0:0 "x" @1000000000000000000`,
			`"link" 120777 0:0 -> /there`,
			`"there" 040755 0:0`,
			`"there/a" 040700 5:6 @1000000000000000000`,
			`"there/a/b" 040700 5:6 @1000000000000000000`,
			`"there/c" 040755 0:0 @1000000000000000000`,
			`"up" 120777 0:0 -> ../../../there`,
		))
		for _, m := range []*op.Mkdir{{Path: "/no/x", Mode: 0o755}, {Path: "/f", Mode: 0o755, Parents: true}, {Path: "/f/x", Mode: 0o755, Parents: true}} {
			if _, err := e.do(base, "", op.FileAction{Mkdir: m}); err == nil {
				t.Errorf("Mkdir %+v worked", m)
			}
		}
	})
}

// Files and symlinks are made as said; what is there is replaced by a file, and is in the way of a symlink.
func TestMkfileSymlink(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		base := e.base(files(t, "d/f=old", "d/l -> f", "abs -> /d"))
		got := e.must(base, "",
			op.FileAction{Mkfile: &op.Mkfile{Path: "/abs/l", Data: []byte("new"), Mode: 0o666, Time: old}},
			op.FileAction{Mkfile: &op.Mkfile{Path: "/d/g", Data: nil, Mode: 0o600, Owner: &op.Owner{UID: 1, GID: 2}, Time: old}},
			op.FileAction{Symlink: &op.Symlink{Old: "../../x", New: "/d/s", Time: old, Owner: &op.Owner{UID: 3, GID: 4}}},
		)
		check(t, got, lines(
			`"abs" 120777 0:0 -> /d`,
			`"d" 040755 0:0`,
			`"d/f" 100644 0:0 "new" @1000000000000000000`,
			`"d/g" 100600 1:2 "" @1000000000000000000`,
			`"d/l" 120777 0:0 -> f`,
			`"d/s" 120777 3:4 -> ../../x @1000000000000000000`,
		))
		for _, a := range []op.FileAction{
			{Mkfile: &op.Mkfile{Path: "/d"}},
			{Mkfile: &op.Mkfile{Path: "/no/f"}},
			{Mkfile: &op.Mkfile{Path: "/"}},
			{Symlink: &op.Symlink{Old: "x", New: "/d/f"}},
			{Symlink: &op.Symlink{Old: "x", New: "/no/f"}},
		} {
			if _, err := e.do(base, "", a); err == nil {
				t.Errorf("%+v worked", a)
			}
		}
	})
}

// Removal takes what is named and nothing else, never the root, and never anything outside of it.
func TestRm(t *testing.T) {
	canary := t.TempDir()
	files(t, "keep/f=canary")(canary)
	before := dumpDir(t, canary)
	everyWay(t, func(t *testing.T, e *testEnv) {
		base := e.base(files(t, "a/b/c=1", "a/d=2", "out -> "+canary, "x1=1", "x2=2", "y=3", "in -> /a", "loop -> loop"))
		got := e.must(base, "",
			op.FileAction{Rm: &op.Rm{Path: "/in/b"}},
			op.FileAction{Rm: &op.Rm{Path: "/x*", Wildcard: true}},
			op.FileAction{Rm: &op.Rm{Path: "/in/*", Wildcard: true}},
			op.FileAction{Rm: &op.Rm{Path: "/nothing", AllowNotFound: true}},
			op.FileAction{Rm: &op.Rm{Path: "/y/below", AllowNotFound: true}},
			op.FileAction{Rm: &op.Rm{Path: "/out/keep", AllowNotFound: true}},
			op.FileAction{Rm: &op.Rm{Path: "/out/*", Wildcard: true}},
			op.FileAction{Rm: &op.Rm{Path: "/in"}},
			op.FileAction{Rm: &op.Rm{Path: "/loop"}},
		)
		check(t, got, lines(`"a" 040755 0:0`, `"out" 120777 0:0 -> `+canary, `"y" 100644 0:0 "3" @1000000000000000000`))
		for _, p := range []string{"", "/", ".", "..", "/..", "/a/..", "//", "/../..", "/nothing", "/y/below"} {
			if _, err := e.do(base, "", op.FileAction{Rm: &op.Rm{Path: p}}); err == nil {
				t.Errorf("removing %q worked", p)
			}
		}
		// A symlink that leads out is itself removed, not what it says.
		check(t, e.must(base, "", op.FileAction{Rm: &op.Rm{Path: "/*", Wildcard: true}}), "")
	})
	check(t, dumpDir(t, canary), before)
}

// A name is looked up for each of several actions, in what the first began with; where that was nothing, it is an error.
func TestOwnerOfSeveral(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	everyWay(t, func(t *testing.T, e *testEnv) {
		named := func(src, dst string) op.FileAction {
			return op.FileAction{Copy: with(dockerfile(src, dst), func(c *op.Copy) { c.Owner = &op.Owner{User: "app", GID: op.PrimaryGroup} })}
		}
		base := e.base(files(t, "etc/passwd=app:x:7:8::/:/bin/sh\n"))
		src := e.base(files(t, "a=1", "b=2"))
		got := e.must(base, src, named("/a", "/x/"), named("/b", "/x/"))
		for _, want := range []string{`"x" 040755 7:8`, `"x/a" 100644 7:8`, `"x/b" 100644 7:8`} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in\n%s", want, got)
			}
		}
		for _, first := range []op.FileAction{named("/a", "/x/"), {Mkfile: &op.Mkfile{Path: "/f", Mode: 0o644}}} {
			if _, err := e.do(Empty, src, first, named("/b", "/x/")); err == nil || !strings.Contains(err.Error(), `looking up the owner "app"`) {
				t.Errorf("onto nothing: got %v", err)
			}
		}
	})
}

// Names of owners are those of the files in the tree; an unknown user is 0, an unknown group the user's own, and both
// are a warning; a huge, linked or special file is no way out.
func TestOwner(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		base := e.base(files(t, "etc/passwd=root:x:0:0::/:\nbad\nu:x:12:34::/:\nhuge:x:4294967296:1::/:\nnouid:x:a:8::/:\nnogid:x:8:a::/:\n",
			"etc/real=bad:x:a:\ng:x:56:\nsigned:x:-1:\ntwice:x::\ntwice:x:57:\n", "etc/group -> /etc/real"))
		for _, c := range []struct {
			o    op.Owner
			want string
			warn bool
		}{
			{op.Owner{User: "u", GID: op.PrimaryGroup}, "12:34", false},
			{op.Owner{User: "u", Group: "g"}, "12:56", false},
			{op.Owner{User: "u", GID: 7}, "12:7", false},
			{op.Owner{UID: 9, Group: "g"}, "9:56", false},
			{op.Owner{UID: 9, GID: 9}, "9:9", false},
			{op.Owner{User: "nobody", GID: op.PrimaryGroup}, "0:0", true},
			{op.Owner{User: "huge", GID: op.PrimaryGroup}, "0:0", true},
			// Lines whose numbers are none do not count, where BuildKit takes what it cannot read for 0.
			{op.Owner{User: "nouid", GID: op.PrimaryGroup}, "0:0", true},
			{op.Owner{User: "nogid", GID: op.PrimaryGroup}, "0:0", true},
			{op.Owner{User: "u", Group: "bad"}, "12:34", true},
			{op.Owner{UID: 7, Group: "signed"}, "7:7", true},
			{op.Owner{UID: 7, Group: "twice"}, "7:57", false},
			{op.Owner{User: "u", Group: "none"}, "12:34", true},
			{op.Owner{UID: 7, Group: "none"}, "7:7", true},
			{op.Owner{UID: 7, Group: "g:x"}, "7:7", true},
			{op.Owner{UID: 5, Group: "99999999999"}, "5:5", true},
			{op.Owner{User: "nobody", Group: "none"}, "0:0", true},
			{op.Owner{User: "nobody", Group: "g"}, "0:56", true},
			{op.Owner{User: "nobody", GID: 5}, "0:5", true},
		} {
			e.warnings = nil
			got := e.must(base, "", op.FileAction{Mkfile: &op.Mkfile{Path: "/f", Mode: 0o644, Owner: &c.o, Time: old}})
			if !strings.Contains(got, `"f" 100644 `+c.want+" ") || (len(e.warnings) > 0) != c.warn {
				t.Errorf("%+v: want %s, warning %t; got warnings %q and\n%s", c.o, c.want, c.warn, e.warnings, got)
			}
		}
		for name, bad := range map[string]solver.Result{
			"huge":     e.base(func(dir string) { files(t, "etc/passwd=")(dir); _ = os.Truncate(dir+"/etc/passwd", 1<<31) }),
			"a device": e.base(files(t, "etc/passwd -> /dev/zero", "dev/zero/")),
		} {
			_, err := e.do(bad, "", op.FileAction{Mkdir: &op.Mkdir{Path: "/d", Owner: &op.Owner{User: "u"}}})
			if name == "huge" && err == nil {
				t.Errorf("%s passwd file was read", name)
			}
		}
		if _, err := e.do(base, "", op.FileAction{Mkdir: &op.Mkdir{Path: "/d", Owner: &op.Owner{UID: -1}}}); err == nil {
			t.Error("user -1 was taken")
		}
		// Where there is no image a name cannot be meant to be looked up, though numbers are as good as anywhere.
		for _, o := range []op.Owner{{User: "u", GID: op.PrimaryGroup}, {UID: 5, Group: "g"}} {
			_, err := e.do(Empty, "", op.FileAction{Mkdir: &op.Mkdir{Path: "/d", Owner: &o}})
			if err == nil || !strings.Contains(err.Error(), "give numbers") {
				t.Errorf("%+v on nothing: got %v", o, err)
			}
		}
		if got := e.must(Empty, "", op.FileAction{Mkdir: &op.Mkdir{Path: "/d", Mode: 0o755, Owner: &op.Owner{UID: 5, GID: 6}}}); !strings.Contains(got, " 5:6") {
			t.Errorf("got:\n%s", got)
		}
	})
}

// TestOwnerTrees checks that names of users and groups are looked up in the tree that the owner says: another input, an
// earlier action's result, or the tree that is changed; and that what they say of it is of a file inside that tree.
func TestOwnerTrees(t *testing.T) {
	everyWay(t, func(t *testing.T, e *testEnv) {
		base := e.base(files(t, "etc/passwd=u:x:1:2::/:\n", "etc/group=g:x:3:\n"))
		other := e.base(files(t, "etc/passwd -> ../../../../users", "users=u:x:11:12::/:\n", "etc/group=g:x:13:\n"))
		f := &op.File{Actions: []op.FileAction{
			{Input: 0, Second: op.NoInput, Output: op.NoOutput, Mkfile: &op.Mkfile{Path: "/etc/passwd", Data: []byte("u:x:21:22::/:\n"), Mode: 0o644}},
			{Input: op.NoInput, Second: op.NoInput, Output: op.NoOutput, Mkdir: &op.Mkdir{Path: "/mine", Mode: 0o755, Owner: &op.Owner{User: "u", Group: "g", UserTree: 1, GroupTree: 2}}},
			{Input: 3, Second: op.NoInput, Output: op.NoOutput, Mkfile: &op.Mkfile{Path: "/other", Mode: 0o644, Owner: &op.Owner{User: "u", GID: op.PrimaryGroup, UserTree: 2}}},
			{Input: 4, Second: op.NoInput, Output: 0, Symlink: &op.Symlink{Old: "x", New: "/earlier", Owner: &op.Owner{User: "u", Group: "g", UserTree: 3, GroupTree: 1}}},
			{Input: 2, Second: op.NoInput, Output: 1, Mkdir: &op.Mkdir{Path: "/own", Mode: 0o755, Owner: &op.Owner{User: "u", GID: op.PrimaryGroup, UserTree: 3}}},
		}}
		out, err := Do(t.Context(), e, f, []solver.Result{base, other})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			r    solver.Result
			line string
		}{
			{out[0], `"mine" 040755 1:13`}, {out[0], `"other" 100644 11:12`}, {out[0], `"earlier" 120777 21:3`}, {out[1], `"own" 040755 21:22`},
		} {
			if got := e.dump(want.r); !strings.Contains(got, want.line) {
				t.Errorf("got:\n%s\nwant a line %s", got, want.line)
			}
		}
		f.Actions[1].Mkdir.Owner.UserTree = 4 // its own result
		if _, err := Do(t.Context(), e, f, []solver.Result{base, other}); err == nil {
			t.Error("an action can have names from its own result")
		}
	})
}
