package fileop

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// What an action copies and a later one replaces by something that no manifest describes is not there for the next result to
// link, even if nothing replaces it then.
func TestPreviousReplaced(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for name, replace := range map[string]func(dir string) error{
		"symlink": func(dir string) error { return os.Symlink("elsewhere", dir+"/f") },
		"fifo":    func(dir string) error { return unix.Mkfifo(dir+"/f", 0o644) },
		"hard links": func(dir string) error {
			files(t, "f=2", "r/")(dir)
			return os.Link(dir+"/f", dir+"/g")
		},
		"attributes": func(dir string) error {
			files(t, "f=2")(dir)
			return unix.Setxattr(dir+"/f", "user.x", []byte("1"), 0)
		},
		"unknown digest": func(dir string) error { files(t, "f=2")(dir); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, direct)
			one := e.base(files(t, "f=1"))
			two := e.base(func(dir string) {
				if err := replace(dir); err != nil {
					t.Fatal(err)
				}
			})
			known(t, e, one)
			both := &op.File{Actions: []op.FileAction{
				{Input: op.NoInput, Second: 0, Output: op.NoOutput, Copy: dockerfile("/", "/to/")},
				{Input: 2, Second: 1, Copy: dockerfile("/", "/to/")},
			}}
			out, err := Do(t.Context(), e, both, []solver.Result{one, two})
			if err != nil {
				t.Fatal(err)
			}
			e.reuse = out[0]
			empty := e.base(func(string) {})
			out, err = Do(t.Context(), e, both, []solver.Result{one, empty})
			if err != nil {
				t.Fatal(err)
			}
			check(t, e.dump(out[0]), lines(`"to" 040755 0:0`+at, `"to/f" 100644 0:0 "1"`+at))
		})
	}
}

// So it is with a file that is written over what was copied, by way of a link that the next tree has not.
func TestPreviousWritten(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	e := newEnv(t, direct)
	src := e.base(files(t, "f=1"))
	known(t, e, src)
	both := &op.File{Actions: []op.FileAction{
		{Input: 0, Second: 1, Output: op.NoOutput, Copy: dockerfile("/", "/to/")},
		{Input: 2, Second: op.NoInput, Mkfile: &op.Mkfile{Path: "/w", Data: []byte("2"), Mode: 0o644, Time: old}},
	}}
	for _, c := range []struct {
		base []string
		want string
	}{
		{[]string{"w -> to/f"}, `"to/f" 100644 0:0 "2"`},
		{[]string{"x=X"}, `"to/f" 100644 0:0 "1"`},
	} {
		out, err := Do(t.Context(), e, both, []solver.Result{e.base(files(t, c.base...)), src})
		if err != nil {
			t.Fatal(err)
		}
		e.reuse = out[0]
		if got := e.dump(out[0]); !strings.Contains(got, c.want) {
			t.Errorf("on %v: got\n%swant %s", c.base, got, c.want)
		}
	}
}

// known has the digests of a tree known, as they are when the key of a step has been computed from it.
func known(t *testing.T, e *testEnv, r solver.Result) {
	t.Helper()
	tree, release, err := e.Tree(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := treehash.Digest(t.Context(), tree, nil); err != nil {
		t.Fatal(err)
	}
}
