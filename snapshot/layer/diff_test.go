package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The tar of a known tree has known bytes: this digest is part of images' identity, and never changes.
func TestDiffGolden(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	apply(t, Target{Dir: root}, goldenTar(t))
	got := diffOf(t, Target{Dir: root})
	const want = "sha256:fcfbbb6fe3341d9238c8222c80b0c083bfa9bb5ff0e859eb6e2b0081ab3921ae"
	if d := digest.FromBytes(got); d != want {
		t.Errorf("got %s, want %s:\n%s", d, want, strings.Join(listTar(t, got), "\n"))
	}
	if again := diffOf(t, Target{Dir: root}); !bytes.Equal(got, again) {
		t.Error("a second walk gives other bytes")
	}
}

func goldenTar(t testing.TB) []byte {
	return mkTar(t,
		dir("etc/"), file("etc/passwd", "root:x:0:0\n"), symlinkTo("etc/mtab", "/proc/mounts"), dir("usr/").owner(1000, 100),
		file("usr/sudo", "x").mode(0o4755), link("usr/sudoedit", "usr/sudo"), file("usr/"+strings.Repeat("long", 60), "y"),
		file("ütf", "").at(7), file("a.b", "").owner(3_000_000, 1), file("xattr", "").xattr("user.a", "b\x00c"), dir("a/"), file("a/b", "z"),
		ent{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}},
	)
}

// Entries come in the order of a sorted walk, with parents, whiteouts first; nothing in a header is of this host.
func TestDiffEntries(t *testing.T) {
	needRoot(t)
	s := newStack(t)
	s.push(mkTar(t, file("d/gone", "1"), file("d/old/f", "1"), dir("e/"), file("zz", "1")))
	up := s.push(mkTar(t, file("d/b", "2"), white("d/.wh.gone"), dir("d/old/"), white("d/old/.wh..wh..opq"), file("d/old/g", "2"), file("d/a", "2"), white(".wh.zz")))
	b := diffOf(t, up)
	want := []string{"0 .wh.zz", "5 d/", "0 d/.wh.gone", "0 d/a", "0 d/b", "5 d/old/", "0 d/old/.wh.f", "0 d/old/g"}
	if got := listTar(t, b); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		if h.Uname != "" || h.Gname != "" || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() || h.Format != tar.FormatUSTAR {
			t.Errorf("header %+v", h)
		}
	}
}

// A layer of nothing is the tar of nothing, which every builder knows by this digest.
func TestDiffEmpty(t *testing.T) {
	want := digest.Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")
	if d := digest.FromBytes(diffOf(t, Target{Dir: t.TempDir(), Form: Overlay})); d != want {
		t.Errorf("got %s, want %s", d, want)
	}
}

// Times later than the epoch become the epoch, and earlier ones stay.
func TestDiffEpoch(t *testing.T) {
	root := t.TempDir()
	apply(t, Target{Dir: root}, mkTar(t, file("old", "").at(100), file("new", "").at(300)))
	var b bytes.Buffer
	epoch := time.Unix(200, 0)
	if err := Diff(t.Context(), Target{Dir: root}, &b, DiffOptions{Epoch: &epoch}); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&b)
	for _, want := range []int64{200, 100} {
		if h, err := r.Next(); err != nil || h.ModTime.Unix() != want {
			t.Errorf("got %v, %v, want %d", h, err, want)
		}
	}
}

// What a tar cannot say is left out: sockets, names that mean whiteouts, overlayfs's own xattrs. What would make the
// layer wrong is an error.
func TestDiffLeavesOut(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(root, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, n := range []string{".wh.x", ".wh..wh..opq", "f"} {
		if err := os.WriteFile(filepath.Join(root, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := filepath.Join(root, "f")
	for _, x := range []string{"trusted.overlay.origin", "trusted.overlay.impure", "user.overlay.opaque", "trusted.mine"} {
		if err := unix.Setxattr(f, x, []byte("y"), 0); err != nil {
			t.Fatal(err)
		}
	}
	b := diffOf(t, Target{Dir: root, Form: Overlay})
	if got := fmt.Sprint(listTar(t, b)); got != "[0 f]" {
		t.Errorf("got %s", got)
	}
	h, _ := tar.NewReader(bytes.NewReader(b)).Next()
	if len(h.PAXRecords) != 1 || h.PAXRecords["SCHILY.xattr.trusted.mine"] != "y" {
		t.Errorf("records %v", h.PAXRecords)
	}
	if err := unix.Setxattr(f, "trusted.overlay.metacopy", nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := Diff(t.Context(), Target{Dir: root, Form: Overlay}, &bytes.Buffer{}, DiffOptions{}); !errors.Is(err, errForeign) {
		t.Errorf("metacopy: %v", err)
	}
}

// A failing writer and a cancelled context end Diff with their error, and leave no descriptor open.
func TestDiffFails(t *testing.T) {
	root := t.TempDir()
	for i := range 500 {
		os.WriteFile(filepath.Join(root, fmt.Sprint(i)), make([]byte, 10_000), 0o600)
	}
	before := openFiles(t)
	broken := errors.New("broken")
	for _, n := range []int{0, 1, 100_000, 3_000_000} {
		if err := Diff(t.Context(), Target{Dir: root}, &failAfter{n, broken}, DiffOptions{}); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		w := writeFunc(func(p []byte) (int, error) {
			cancel(broken)
			return len(p), nil
		})
		if err := Diff(ctx, Target{Dir: root}, w, DiffOptions{}); !errors.Is(err, broken) {
			t.Errorf("cancelled: %v", err)
		}
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d files open, %d before", after, before)
	}
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	// The runtime takes some when it first waits for one, which it does from here on.
	if r, w, err := os.Pipe(); err != nil || errors.Join(r.Close(), w.Close()) != nil {
		t.Fatal("no pipe: ", err)
	}
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

type failAfter struct {
	n   int
	err error
}

func (w *failAfter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, w.err
	}
	return len(p), nil
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// randomLayer makes up a tar on a small set of names, so that entries often meet.
func randomLayer(t testing.TB, r *rand.Rand) []byte {
	name := func() string {
		parts := make([]string, 1+r.IntN(3))
		for i := range parts {
			parts[i] = string("abc"[r.IntN(3)])
		}
		return strings.Join(parts, "/")
	}
	var ents []ent
	for range r.IntN(12) {
		n := name()
		switch r.IntN(8) {
		case 0, 1:
			ents = append(ents, file(n, strings.Repeat(n, r.IntN(3))).mode(int64(r.IntN(0o10000))).at(int64(r.IntN(1000))))
		case 2, 3:
			ents = append(ents, dir(n+"/").mode(int64(r.IntN(0o10000))).owner(r.IntN(3), r.IntN(3)).at(int64(r.IntN(1000))))
		case 4:
			ents = append(ents, symlinkTo(n, []string{"a", "/b", "../c", "../../a/b", "x"}[r.IntN(5)]))
		case 5:
			ents = append(ents, white(filepath.Join(filepath.Dir(n), ".wh."+filepath.Base(n))))
		case 6:
			ents = append(ents, white(filepath.Join(n, ".wh..wh..opq")))
		case 7:
			ents = append(ents, file(n, "x").xattr("user.k", n))
		}
	}
	return mkTar(t, ents...)
}

// For random layers: overlayfs and a plain directory agree, or both refuse; the diff of an overlay layer, and that of two
// plain trees, applied to what is below, gives the same tree; and a layer that was applied from a diff has the same diff.
func TestRandomLayers(t *testing.T) {
	needRoot(t)
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := newStack(t)
		again := newStack(t)
		for range 3 {
			before := t.TempDir()
			apply(t, Target{Dir: before}, diffOf(t, Target{Dir: s.plain}))
			b := randomLayer(t, r)
			to := s.next()
			_, oerr := Apply(t.Context(), to, bytes.NewReader(b), Options{})
			_, perr := Apply(t.Context(), Target{Dir: s.plain}, bytes.NewReader(b), Options{})
			if (oerr == nil) != (perr == nil) {
				t.Fatalf("seed %d: overlay %v, plain %v", seed, oerr, perr)
			}
			if oerr != nil { // a parent that is a file, or a loop of links
				s.upper = s.upper[1:]
				break
			}
			s.agree()
			db := diffOf(t, to)
			up := again.push(db)
			if db2 := diffOf(t, up); !bytes.Equal(db, db2) {
				t.Errorf("seed %d: the diff of an applied diff differs:\n%q\n%q", seed, listTar(t, db), listTar(t, db2))
			}
			if d := diffText(again.merged(), s.merged()); d != "" {
				t.Errorf("seed %d: diff and apply of an overlay:\n%s", seed, d)
			}
			apply(t, Target{Dir: before}, diffOf(t, Target{Dir: s.plain, Lower: []string{before}}))
			if d := diffText(dump(t, before), dump(t, s.plain)); d != "" {
				t.Errorf("seed %d: diff and apply of plain trees:\n%s", seed, d)
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	}
}
