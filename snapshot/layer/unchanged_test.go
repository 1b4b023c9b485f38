package layer

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// emptyLayer is the digest of the tar of nothing.
const emptyLayer digest.Digest = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

// write makes the next layer by what f does in a mount of it, which is how the kernel leaves upper directories behind.
func (s *stack) write(f func(root string)) Target {
	s.t.Helper()
	to := s.next()
	at := mkdir(s.t, filepath.Join(s.dir, "writing"))
	opts := "index=off,redirect_dir=nofollow,metacopy=off,lowerdir=" + strings.Join(to.Lower, ":") + ",upperdir=" + to.Dir +
		",workdir=" + mkdir(s.t, filepath.Join(s.dir, "work", filepath.Base(to.Dir)))
	if err := unix.Mount("overlay", at, "overlay", 0, opts); err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			s.t.Error(err)
		}
	}()
	f(at)
	return to
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// stub makes and removes a mount point, as a sandbox does in a tree that lacks it, and puts back the directory's time.
func stub(t testing.TB, root, name string) {
	t.Helper()
	var st unix.Stat_t
	p := filepath.Join(root, name)
	must(t, unix.Stat(filepath.Dir(p), &st), os.WriteFile(p, nil, 0o644), os.Remove(p),
		unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Dir(p), []unix.Timespec{st.Atim, st.Mtim}, 0))
}

// nano gives a file a time that whole seconds cannot tell from someTime.
func nano(t testing.TB, path string, ns int64) {
	t.Helper()
	ts := unix.Timespec{Sec: someTime.Unix(), Nsec: ns}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, 0))
}

// A directory which the kernel copied up and that is as it was, and all that is in it, is not in the layer; one that
// differs in anything a layer can say is.
func TestUnchangedDirectory(t *testing.T) {
	needRoot(t)
	below := []ent{dir("etc/").at(5).xattr("user.k", "v"), file("etc/f", "x"), dir("etc/a/"), dir("etc/a/b/"), dir("gone/"), file("gone/f", "")}
	for name, c := range map[string]struct {
		change func(etc string)
		want   []string
	}{
		"stub":   {func(etc string) { stub(t, etc, "hosts"); stub(t, etc, "a/b/c") }, nil},
		"file":   {func(etc string) { stub(t, etc, "hosts"); must(t, os.WriteFile(etc+"/a/b/n", nil, 0o600)) }, []string{"5 etc/", "5 etc/a/", "5 etc/a/b/", "0 etc/a/b/n"}},
		"remove": {func(etc string) { must(t, os.Remove(etc+"/f")); nano(t, etc, 0) }, []string{"5 etc/", "0 etc/.wh.f"}},
		"mode":   {func(etc string) { must(t, os.Chmod(etc+"/a/b", 0o700)) }, []string{"5 etc/", "5 etc/a/", "5 etc/a/b/"}},
		"owner":  {func(etc string) { must(t, os.Chown(etc, 1, 0)) }, []string{"5 etc/"}},
		"time":   {func(etc string) { nano(t, etc+"/a", 1) }, []string{"5 etc/", "5 etc/a/"}},
		"xattr":  {func(etc string) { must(t, unix.Setxattr(etc, "user.k", []byte("w"), 0)) }, []string{"5 etc/"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			s.push(mkTar(t, below...))
			s.push(mkTar(t, file("other/f", ""))) // the directory is not in the topmost layer
			to := s.write(func(root string) { c.change(root + "/etc") })
			b := diffOf(t, to)
			if got := listTar(t, b); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if d := digest.FromBytes(b); c.want == nil && d != emptyLayer {
				t.Errorf("got %s, want %s", d, emptyLayer)
			}
			apply(t, Target{Dir: s.plain}, b)
			s.agree()
		})
	}
}

// A directory is compared with the topmost below that has it, and not with what a whiteout, a file or an opaque mark hides.
func TestUnchangedBelow(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		below [][]ent
		want  []string
	}{
		"top is the same":     {[][]ent{{dir("d/").mode(0o700)}, {dir("d/")}}, nil},
		"top differs":         {[][]ent{{dir("d/")}, {dir("d/").mode(0o700)}}, []string{"5 d/"}},
		"whiteout":            {[][]ent{{dir("d/")}, {white(".wh.d")}}, []string{"5 d/"}},
		"file":                {[][]ent{{dir("d/")}, {white(".wh.d"), file("d", "")}}, []string{"5 d/"}},
		"symlink":             {[][]ent{{dir("d/"), dir("e/")}, {white(".wh.d"), symlinkTo("d", "e")}}, []string{"5 d/"}},
		"opaque parent":       {[][]ent{{dir("p/"), dir("p/d/")}, {dir("p/"), white("p/.wh..wh..opq")}}, []string{"5 p/", "5 p/d/"}},
		"opaque and the same": {[][]ent{{dir("d/").mode(0o700), file("d/f", "")}, {dir("d/"), white("d/.wh..wh..opq")}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			for _, ents := range c.below {
				s.push(mkTar(t, ents...))
			}
			up := []ent{dir("d/")}
			if name == "opaque parent" {
				up = []ent{dir("p/"), dir("p/d/")}
			}
			if got := listTar(t, diffOf(t, s.push(mkTar(t, up...)))); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			s.agree()
		})
	}
}

// The kernel marks the directories opaque that it makes. The mark is written where it hides a directory, and nowhere else.
func TestOpaque(t *testing.T) {
	needRoot(t)
	s := newStack(t)
	s.push(mkTar(t, dir("old/"), file("old/f", ""), dir("old/sub/"), file("old/sub/g", ""), file("file", ""), dir("gone/"), dir("keep/")))
	s.push(mkTar(t, white(".wh.gone")))
	to := s.write(func(root string) {
		must(t, os.RemoveAll(root+"/old"), os.MkdirAll(root+"/old/sub", 0o755), os.Remove(root+"/file"),
			os.MkdirAll(root+"/file/x", 0o755), os.MkdirAll(root+"/gone/x", 0o755), os.MkdirAll(root+"/keep/new/x", 0o755))
	})
	for _, d := range []string{"old", "old/sub", "file/x", "keep/new", "gone"} { // whatever this kernel does
		must(t, unix.Setxattr(filepath.Join(to.Dir, d), Overlay.opaqueXattr(), []byte("y"), 0))
	}
	b := diffOf(t, to)
	want := []string{"5 file/", "5 file/x/", "5 gone/", "5 gone/x/", "5 keep/", "5 keep/new/", "5 keep/new/x/", "5 old/", "0 old/.wh.f", "5 old/sub/", "0 old/sub/.wh.g"}
	if got := listTar(t, b); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	apply(t, Target{Dir: s.plain}, b)
	s.agree()
}

// upperOf is a snapshotter of a stack: the IDs are "0", "1" and so on, and views merge what is below.
type upperOf struct {
	snapshot.Snapshotter
	s     *stack
	views map[snapshot.Draft]bool
}

func (u *upperOf) index(id snapshot.ID) int { return len(u.s.upper) - 1 - int(id[0]-'0') }

func (u *upperOf) Upper(_ context.Context, id snapshot.ID) (string, bool, error) {
	return u.s.upper[u.index(id)], true, nil
}

func (u *upperOf) Stat(_ context.Context, id snapshot.ID) (snapshot.Info, error) {
	info := snapshot.Info{ID: id}
	if id != "0" {
		info.Parent = snapshot.ID([]byte{id[0] - 1})
	}
	return info, nil
}

func (u *upperOf) View(_ context.Context, d snapshot.Draft, id snapshot.ID) ([]snapshot.Mount, error) {
	u.views[d] = true
	dirs := u.s.upper[u.index(id):]
	if len(dirs) == 1 {
		return []snapshot.Mount{{Type: "bind", Source: dirs[0], Options: []string{"ro"}}}, nil
	}
	return []snapshot.Mount{{Type: "overlay", Options: []string{"ro"}, Lower: dirs}}, nil
}

func (u *upperOf) Discard(_ context.Context, d snapshot.Draft) error {
	delete(u.views, d)
	return nil
}

// The difference of a snapshot knows what is below, however deep, and no view is left.
func TestDiffSnapshotBelow(t *testing.T) {
	needRoot(t)
	s := newStack(t)
	s.push(mkTar(t, dir("etc/")))
	for range 2 {
		s.write(func(root string) { stub(t, root, "etc/hosts") })
	}
	u := &upperOf{s: s, views: make(map[snapshot.Draft]bool)}
	for id, empty := range map[snapshot.ID]bool{"0": false, "1": true, "2": true} {
		h := digest.Canonical.Digester()
		must(t, DiffSnapshot(t.Context(), u, id, h.Hash(), DiffOptions{}))
		if d := h.Digest(); (d == emptyLayer) != empty {
			t.Errorf("snapshot %s: %s", id, d)
		}
	}
	if len(u.views) > 0 {
		t.Errorf("views %v are left", u.views)
	}
}

// A file that the kernel copied up, or a step wrote again, and that is as it was is not in the layer. One that differs in
// anything, or that shares its inode with other names than before, is.
func TestUnchangedFile(t *testing.T) {
	needRoot(t)
	below := []ent{
		dir("d/"), file("d/f", "text").at(5).xattr("user.k", "v"), file("d/one", "x"), link("d/two", "d/one"), symlinkTo("d/s", "f"),
	}
	again := func(d string) { // opened for writing, which copies it up
		f, err := os.OpenFile(d+"/f", os.O_RDWR|os.O_APPEND, 0)
		must(t, err, f.Close())
	}
	rewrite := func(d, text string) { // in place, with the time that it had
		must(t, os.WriteFile(d+"/f", []byte(text), 0o644), unix.UtimesNanoAt(unix.AT_FDCWD, d+"/f", []unix.Timespec{{Sec: 5}, {Sec: 5}}, 0))
	}
	for name, c := range map[string]struct {
		change func(d string)
		want   []string
	}{
		"opened":     {again, nil},
		"same mode":  {func(d string) { must(t, os.Chmod(d+"/f", 0o644)) }, nil},
		"rewritten":  {func(d string) { rewrite(d, "text") }, nil},
		"content":    {func(d string) { rewrite(d, "tuxt") }, []string{"5 d/", "0 d/f"}},
		"size":       {func(d string) { rewrite(d, "longer") }, []string{"5 d/", "0 d/f"}},
		"time":       {func(d string) { nano(t, d+"/f", 1) }, []string{"5 d/", "0 d/f"}},
		"mode":       {func(d string) { must(t, os.Chmod(d+"/f", 0o600)) }, []string{"5 d/", "0 d/f"}},
		"owner":      {func(d string) { must(t, os.Chown(d+"/f", 0, 1)) }, []string{"5 d/", "0 d/f"}},
		"xattr":      {func(d string) { must(t, unix.Setxattr(d+"/f", "user.k", []byte("w"), 0)) }, []string{"5 d/", "0 d/f"}},
		"new name":   {func(d string) { must(t, os.Link(d+"/f", d+"/z")); nano(t, d, 0) }, []string{"5 d/", "0 d/f", "1 d/z"}},
		"a name off": {func(d string) { must(t, os.Chmod(d+"/one", 0o644)) }, []string{"5 d/", "0 d/one"}},
		"symlink": {func(d string) {
			must(t, os.Remove(d+"/s"), os.Symlink("f", d+"/s"))
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, d+"/s", []unix.Timespec{{Sec: 5}, {Sec: someTime.Unix()}}, unix.AT_SYMLINK_NOFOLLOW))
			nano(t, d, 0)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			s.push(mkTar(t, dir("d/"), file("d/f", "old")))
			s.push(mkTar(t, below...))
			to := s.write(func(root string) { nano(t, root+"/d", 0); c.change(root + "/d") })
			b := diffOf(t, to)
			if got := listTar(t, b); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			apply(t, Target{Dir: s.plain}, b)
			s.agree()
		})
	}
}

// Snapshots share inodes with one another. That an unchanged file is a link to another snapshot's changes no byte.
func TestUnchangedShared(t *testing.T) {
	needRoot(t)
	s := newStack(t)
	s.push(mkTar(t, dir("d/"), file("d/f", "text"), file("d/g", "text")))
	to := s.next()
	apply(t, to, mkTar(t, dir("d/"), file("d/f", "text"), file("d/g", "other"), file("d/h", "new")))
	want := diffOf(t, to)
	for _, name := range []string{"f", "g", "h"} {
		must(t, os.Link(filepath.Join(to.Dir, "d", name), filepath.Join(s.dir, "elsewhere-"+name)))
	}
	must(t, os.Link(filepath.Join(to.Lower[0], "d/f"), filepath.Join(s.dir, "elsewhere-below")))
	if got := listTar(t, diffOf(t, to)); !slices.Equal(got, listTar(t, want)) || !slices.Equal(got, []string{"5 d/", "0 d/g", "0 d/h"}) {
		t.Errorf("got %q, want %q", got, listTar(t, want))
	}
}
