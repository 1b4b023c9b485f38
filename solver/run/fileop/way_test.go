package fileop

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A directory that was there and is only the way to something that patterns pick gets the mode of the source and nothing
// else: no owner, no --chown, no --chmod, no attributes, no time. One that is picked itself gets everything, and so does one
// that the copy makes. What is wanted is what BuildKit v0.32.2 makes of the same.
func TestCopyWay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	owner := func(o *op.Copy) { o.Owner = &op.Owner{UID: 5, GID: 6} }
	mode := func(o *op.Copy) { o.ModeSet, o.Mode = true, 0o711 }
	for _, c := range []struct {
		src, dst, include string
		exclude           []string
		fns               []func(*op.Copy)
		want              string // the directories, where x/a and x/a/b had mode 777 and owner 9:9
	}{
		{"/", "/x/", "a/b/f", nil, nil, "x/a 755 9:9 @old, x/a/b 750 9:9"},
		{"/", "/x/", "a/b/f", nil, []func(*op.Copy){owner}, "x/a 755 9:9 @old, x/a/b 750 9:9"},
		{"/", "/x/", "a/b/f", nil, []func(*op.Copy){owner, mode}, "x/a 755 9:9 @old, x/a/b 750 9:9"},
		{"/", "/x/", "a/b/f", nil, []func(*op.Copy){func(o *op.Copy) { o.ModeString = "o+w" }}, "x/a 755 9:9 @old, x/a/b 750 9:9"},
		{"/", "/x/", "a/b", nil, []func(*op.Copy){mode}, "x/a 755 9:9 @old, x/a/b 711 3:4 @old user.q"},
		{"/", "/x/", "a", nil, []func(*op.Copy){mode, owner}, "x/a 711 5:6 @old, x/a/b 711 5:6 @old user.q"},
		{"/", "/x/", "", nil, nil, "x/a 755 3:4 @old, x/a/b 750 3:4 @old user.q"},
		{"/a", "/x/a", "", []string{"*", "!b/f"}, nil, "x/a 777 9:9 @old, x/a/b 750 9:9"},
		{"/", "/x/", "", []string{"**", "!**/f"}, []func(*op.Copy){owner, mode}, "x/a 755 9:9 @old, x/a/b 750 9:9"},
		{"/", "/x/", "a/b/f", nil, []func(*op.Copy){func(o *op.Copy) { o.AlwaysReplace = true }}, "x/a 755 9:9 @old, x/a/b 750 9:9"},
		{"/*", "/x/a", "b/f", nil, []func(*op.Copy){owner}, "x/a 777 9:9 @old, x/a/b 750 9:9"},
		{"/", "/l/", "a/b/f", nil, []func(*op.Copy){owner}, "x/a 755 9:9 @old, x/a/b 750 9:9"},
		{"/", "/new/", "a/b/f", nil, []func(*op.Copy){owner, mode}, "new/a 711 5:6 @old, new/a/b 711 5:6 @old user.q"},
	} {
		o := with(dockerfile(c.src, c.dst), func(o *op.Copy) {
			o.Exclude = c.exclude
			if c.include != "" {
				o.Include = []string{c.include}
			}
			for _, fn := range c.fns {
				fn(o)
			}
		})
		everyWay(t, func(t *testing.T, e *testEnv) {
			ground := e.base(func(dir string) {
				files(t, "x/a/b/", "l -> x")(dir)
				for _, d := range []string{"/x/a", "/x/a/b"} {
					if err := errors.Join(os.Chown(dir+d, 9, 9), unix.Chmod(dir+d, 0o777)); err != nil {
						t.Fatal(err)
					}
				}
			})
			got := e.must(ground, wayTree(t, e), op.FileAction{Copy: o})
			root, _, _ := strings.Cut(c.want, "/")
			if got := directories(got, root+"/"); got != c.want {
				t.Errorf("copying %+v:\n got %s\nwant %s", *o, got, c.want)
			}
		})
	}
}

// What the first source of a copy makes was there for the second one.
func TestCopyWayTwice(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	everyWay(t, func(t *testing.T, e *testEnv) {
		action := func(include string) op.FileAction {
			return op.FileAction{Copy: with(dockerfile("/", "/x/"), func(o *op.Copy) {
				o.Include, o.ModeSet, o.Mode, o.Owner = []string{include}, true, 0o770, &op.Owner{UID: 5, GID: 6}
			})}
		}
		for _, c := range []struct {
			includes []string
			want     string
		}{
			{[]string{"a/b/f"}, "x/a 770 5:6 @old, x/a/b 770 5:6 @old user.q"},
			{[]string{"a/b/f", "a/g"}, "x/a 755 5:6, x/a/b 770 5:6 @old user.q"},
			{[]string{"a/g", "a/b/f"}, "x/a 755 5:6, x/a/b 770 5:6 @old user.q"},
			{[]string{"a/b/f", "a"}, "x/a 770 5:6 @old, x/a/b 770 5:6 @old user.q"},
		} {
			var actions []op.FileAction
			for _, i := range c.includes {
				actions = append(actions, action(i))
			}
			if got := directories(e.must(Empty, wayTree(t, e), actions...), "x/"); got != c.want {
				t.Errorf("copying %q:\n got %s\nwant %s", c.includes, got, c.want)
			}
		}
	})
}

// wayTree is a/b/f and a/g, with owner 3:4 and the modes 755 and 750 of the directories.
func wayTree(t *testing.T, e *testEnv) solver.Result {
	return e.base(func(dir string) {
		files(t, "a/b/f=1", "a/g=2")(dir)
		err := errors.Join(
			os.Chown(dir+"/a", 3, 4), os.Chown(dir+"/a/b", 3, 4), unix.Chmod(dir+"/a", 0o755), unix.Chmod(dir+"/a/b", 0o750),
			unix.Setxattr(dir+"/a/b", "user.q", []byte("1"), 0), os.Chtimes(dir+"/a/b", old, old), os.Chtimes(dir+"/a", old, old),
		)
		if err != nil {
			t.Fatal(err)
		}
	})
}

// directories returns those of a dump that are below a path: mode, owner, whether the time is old, attributes.
func directories(dump, below string) string {
	var out []string
	for line := range strings.Lines(dump) {
		f := strings.Fields(line)
		if name := strings.Trim(f[0], `"`); strings.HasPrefix(f[1], "04") && strings.HasPrefix(name, below) {
			d := name + " " + strings.TrimPrefix(f[1], "040") + " " + f[2]
			for _, more := range f[3:] {
				more, _, _ = strings.Cut(more, "=")
				d += " " + strings.Replace(more, strings.TrimSpace(at), "@old", 1)
			}
			out = append(out, d)
		}
	}
	return strings.Join(out, ", ")
}
