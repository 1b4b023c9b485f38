package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/native"
	"github.com/boxbuild/boxbuild/snapshot/overlay"
	"github.com/boxbuild/boxbuild/snapshot/store"
)

// A deltas is a snapshotter with a few snapshots in it.
type deltas struct {
	t  *testing.T
	sn snapshot.Snapshotter
}

// eachDeltas runs f with a snapshotter of each form: an overlay, and plain trees.
func eachDeltas(t *testing.T, f func(t *testing.T, s *deltas)) {
	t.Run("overlay", func(t *testing.T) {
		needRoot(t)
		sn, err := overlay.Open(t.Context(), t.TempDir(), store.Options{})
		must(t, err)
		t.Cleanup(func() { must(t, sn.Close()) })
		f(t, &deltas{t, sn})
	})
	t.Run("plain", func(t *testing.T) {
		needRoot(t)
		sn, err := native.Open(t.Context(), t.TempDir(), store.Options{})
		must(t, err)
		t.Cleanup(func() { must(t, sn.Close()) })
		f(t, &deltas{t, sn})
	})
}

// layer applies entries on parent.
func (s *deltas) layer(id, parent snapshot.ID, ents ...ent) {
	s.t.Helper()
	s.draft(id, parent, func(t Target) error {
		_, err := Apply(s.t.Context(), t, bytes.NewReader(mkTar(s.t, ents...)), Options{})
		return err
	}, snapshot.Delta{})
}

func (s *deltas) draft(id, parent snapshot.ID, f func(Target) error, of snapshot.Delta) {
	s.t.Helper()
	d := NewDraft("t")
	m, err := s.sn.Prepare(s.t.Context(), d, parent)
	must(s.t, err)
	t, ok := TargetOf(m)
	if !ok {
		s.t.Fatal("no target")
	}
	must(s.t, f(t), s.sn.(snapshot.DeltaCommitter).CommitDelta(s.t.Context(), d, id, of))
}

// copy makes id on parent of a delta.
func (s *deltas) copy(id, parent snapshot.ID, of snapshot.Delta) {
	s.t.Helper()
	s.draft(id, parent, func(t Target) error { return Transplant(s.t.Context(), s.sn, of, t) }, of)
}

// tar returns the layer of id.
func (s *deltas) tar(id snapshot.ID) []byte {
	s.t.Helper()
	var b bytes.Buffer
	must(s.t, DiffSnapshot(s.t.Context(), s.sn, id, &b, DiffOptions{}))
	return b.Bytes()
}

// whole returns the tar of all of the tree of id.
func (s *deltas) whole(id snapshot.ID) []byte {
	s.t.Helper()
	v := &views{sn: s.sn}
	defer func() { must(s.t, v.end(context.Background())) }()
	dir, err := v.tree(s.t.Context(), id)
	must(s.t, err)
	var b bytes.Buffer
	must(s.t, Diff(s.t.Context(), Target{Dir: dir}, &b, DiffOptions{}))
	return b.Bytes()
}

// TestTransplant checks that a delta that is copied gives the tree that its tar gives, that the copy's layer is the
// delta's, byte for byte, on whatever parent, and that a delta between any two trees turns the one into the other.
func TestTransplant(t *testing.T) {
	eachDeltas(t, func(t *testing.T, s *deltas) {
		s.layer("a", "", dir("d/").at(1), file("d/f", "1"), file("d/g", "1"), dir("e/"), file("e/x", "1"), symlinkTo("l", "d"), file("h", "h"), link("h2", "h"))
		s.layer("b", "a", dir("d/"), white("d/.wh.f"), dir("e/"), white("e/.wh..wh..opq"), file("e/y", "2"), file("l", "no link"), dir("new/"), ent{Header: tar.Header{Name: "new/p", Typeflag: tar.TypeFifo, Mode: 0o644}}, file("n1", "n"), link("n2", "n1"))
		s.layer("c", "b", white(".wh.d"), file("h", "3").xattr("user.k", "v"))
		s.layer("other", "", dir("d/"), file("d/f", "o"), file("d/o", "o"), dir("e/"), file("e/z", "o"), dir("l/"), file("l/in", "o"))
		all := []snapshot.ID{"", "a", "b", "c", "other"}
		for _, lower := range all {
			for _, upper := range all {
				of := snapshot.Delta{Lower: lower, Upper: upper}
				var want bytes.Buffer
				must(t, DiffDelta(t.Context(), s.sn, of, &want, DiffOptions{}))
				for _, parent := range all {
					id := "t" + lower + "0" + upper + "0" + parent
					s.copy(id, parent, of)
					s.draft("p"+id, parent, func(t Target) error {
						_, err := Apply(context.Background(), t, bytes.NewReader(want.Bytes()), Options{})
						return err
					}, snapshot.Delta{})
					if got, want := names(t, s.whole(id)), names(t, s.whole("p"+id)); !slices.Equal(got, want) {
						t.Errorf("%v on %q: got  %q\nwant %q", of, parent, got, want)
					}
					if !bytes.Equal(s.tar(id), want.Bytes()) {
						t.Errorf("%v on %q: its layer is %q, want %q", of, parent, listTar(t, s.tar(id)), listTar(t, want.Bytes()))
					}
					if parent == lower && upper != "" {
						if got, want := names(t, s.whole(id)), names(t, s.whole(upper)); !slices.Equal(got, want) {
							t.Errorf("%v on its lower: got %q, want %q", of, got, want)
						}
					}
				}
			}
		}
	})
}

// names is listTar without who is a link to whom: a file that is linked into a tree may meet another name of its there.
func names(t *testing.T, b []byte) []string {
	list := listTar(t, b)
	for i, x := range list {
		if rest, ok := strings.CutPrefix(x, string(tar.TypeLink)); ok {
			list[i] = string(tar.TypeReg) + rest
		}
	}
	return list
}

// TestTransplantFiles checks that files of an overlay are linked and those of plain trees are not, that times keep their
// nanoseconds, and that sockets come along.
func TestTransplantFiles(t *testing.T) {
	eachDeltas(t, func(t *testing.T, s *deltas) {
		s.layer("base", "", file("below", "b"))
		s.draft("a", "base", func(to Target) error {
			must(t, os.WriteFile(filepath.Join(to.Dir, "f"), []byte("x"), 0o640))
			nano(t, filepath.Join(to.Dir, "f"), 123)
			return unix.Mknod(filepath.Join(to.Dir, "sock"), unix.S_IFSOCK|0o600, 0)
		}, snapshot.Delta{})
		s.layer("other", "", file("o", "o"))
		var to Target
		of := snapshot.Delta{Lower: "base", Upper: "a"}
		s.draft("c", "other", func(t Target) error {
			to = t
			return Transplant(context.Background(), s.sn, of, t)
		}, of)
		v := &views{sn: s.sn}
		defer func() { must(t, v.end(context.Background())) }()
		from, err := v.target(t.Context(), of)
		must(t, err)
		copied, err := v.target(t.Context(), snapshot.Delta{Lower: "other", Upper: "c"})
		must(t, err)
		var a, c, sock unix.Stat_t
		must(t, unix.Stat(filepath.Join(from.Dir, "f"), &a), unix.Stat(filepath.Join(copied.Dir, "f"), &c), unix.Lstat(filepath.Join(copied.Dir, "sock"), &sock))
		if linked := a.Ino == c.Ino; linked != (to.Form != Plain) {
			t.Errorf("the file is linked: %v", linked)
		}
		if c.Mtim.Nsec != 123 || c.Mode != a.Mode {
			t.Errorf("the copy has time %v and mode %o", c.Mtim, c.Mode)
		}
		if sock.Mode&unix.S_IFMT != unix.S_IFSOCK {
			t.Error("the socket is not there")
		}
	})
}

// BenchmarkTransplant20000 copies a layer of 20,000 files onto another parent.
func BenchmarkTransplant20000(b *testing.B) {
	needRoot(b)
	sn, err := overlay.Open(b.Context(), b.TempDir(), store.Options{})
	must(b, err)
	b.Cleanup(func() { must(b, sn.Close()) })
	snap := func(id snapshot.ID, f func(Target) error) {
		d := NewDraft("b")
		m, err := sn.Prepare(b.Context(), d, "")
		must(b, err)
		t, _ := TargetOf(m)
		must(b, f(t), sn.Commit(b.Context(), d, id))
	}
	snap("files", func(t Target) error {
		for i := range 100 {
			dir := filepath.Join(t.Dir, strconv.Itoa(i))
			must(b, os.Mkdir(dir, 0o755))
			for j := range 200 {
				must(b, os.WriteFile(filepath.Join(dir, strconv.Itoa(j)), []byte("content"), 0o644))
			}
		}
		return nil
	})
	b.ResetTimer()
	for i := range b.N {
		snap(snapshot.ID("copy"+strconv.Itoa(i)), func(t Target) error {
			return Transplant(context.Background(), sn, snapshot.Delta{Upper: "files"}, t)
		})
	}
}

// TestLoose checks that a loose delta lacks a directory of which only the time differs, says so, and has one in which
// something has changed; and that a delta that is not loose has both.
func TestLoose(t *testing.T) {
	eachDeltas(t, func(t *testing.T, s *deltas) {
		s.layer("a", "", dir("same/").at(1), file("same/f", "1"), dir("other/").at(1), file("other/f", "1"))
		s.layer("b", "a", dir("same/").at(2), dir("other/").at(2), file("other/f", "2"))
		s.layer("c", "b", dir("other/").at(3), file("other/f", "3"))
		for _, c := range []struct {
			of    snapshot.Delta
			lacks bool
			want  []string
		}{
			{snapshot.Delta{Lower: "a", Upper: "b"}, false, []string{"5 other/", "0 other/f", "5 same/"}},
			{snapshot.Delta{Lower: "a", Upper: "b", Loose: true}, true, []string{"5 other/", "0 other/f"}},
			{snapshot.Delta{Lower: "b", Upper: "c", Loose: true}, false, []string{"5 other/", "0 other/f"}},
			{snapshot.Delta{Lower: "a", Upper: "c", Loose: true}, true, []string{"5 other/", "0 other/f"}},
		} {
			lacks := false
			var b bytes.Buffer
			must(t, DiffDelta(t.Context(), s.sn, c.of, &b, DiffOptions{TimeOnly: &lacks}))
			if got := listTar(t, b.Bytes()); !slices.Equal(got, c.want) || lacks != c.lacks {
				t.Errorf("%v: got %q, something left out: %v; want %q, %v", c.of, got, lacks, c.want, c.lacks)
			}
		}
	})
}
