package layer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// dump describes everything below dir: types, modes, owners, whole seconds of times, links, devices, xattrs, contents and
// which names share an inode. Directories' own sizes are not part of it.
func dump(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if rel == "." {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%q %06o %d:%d %d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		case unix.S_IFLNK:
			l, _ := os.Readlink(p)
			line += fmt.Sprintf(" -> %q", l)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		names, err := listXattrs(func(b []byte) (int, error) { return unix.Llistxattr(p, b) })
		if err != nil {
			return err
		}
		for _, n := range names {
			v, err := getXattr(func(b []byte) (int, error) { return unix.Lgetxattr(p, n, b) })
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%q", n, v)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if f := first[st.Ino]; f != "" {
				line += fmt.Sprintf(" same as %q", f)
			} else {
				first[st.Ino] = rel
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n") + "\n"
}

// diffText returns the lines that only one of two dumps has.
func diffText(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	var b strings.Builder
	for _, l := range g {
		if !slices.Contains(w, l) {
			fmt.Fprintln(&b, "got  ", l)
		}
	}
	for _, l := range w {
		if !slices.Contains(g, l) {
			fmt.Fprintln(&b, "want ", l)
		}
	}
	return b.String()
}

// An ent is an entry of a test's tar. Zero modes, times and types get sensible values.
type ent struct {
	tar.Header
	body string
}

var someTime = time.Unix(1_500_000_000, 0)

func file(name, body string) ent {
	return ent{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body: body}
}

func dir(name string) ent {
	return ent{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

func link(name, to string) ent {
	return ent{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}}
}

func symlinkTo(name, to string) ent {
	return ent{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}}
}
func white(name string) ent { return ent{Header: tar.Header{Name: name, Typeflag: tar.TypeReg}} }

func (e ent) xattr(name, value string) ent {
	e.PAXRecords = map[string]string{xattrRecord + name: value}
	return e
}

func (e ent) mode(m int64) ent { e.Mode = m; return e }

func (e ent) owner(uid, gid int) ent { e.Uid, e.Gid = uid, gid; return e }

func (e ent) at(sec int64) ent { e.ModTime = time.Unix(sec, 0); return e }

// mkTar writes a tar. Its files are root's, and so only root can apply it.
func mkTar(t testing.TB, ents ...ent) []byte {
	t.Helper()
	needRoot(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		e.Size = int64(len(e.body))
		if e.ModTime.IsZero() {
			e.ModTime = someTime
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%.100q: %.200v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// listTar returns the names in a tar, each with its type.
func listTar(t testing.TB, b []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err != nil {
			return out
		}
		out = append(out, string(h.Typeflag)+" "+h.Name)
	}
}

func apply(t testing.TB, to Target, tarball []byte) {
	t.Helper()
	if _, err := Apply(t.Context(), to, bytes.NewReader(tarball), Options{}); err != nil {
		t.Fatal(err)
	}
}

func diffOf(t testing.TB, of Target) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Diff(t.Context(), of, &b, DiffOptions{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A stack is a pile of overlay layers on disk, and the same layers applied on top of each other in a plain directory.
type stack struct {
	t     testing.TB
	dir   string
	upper []string // topmost first
	plain string
}

func newStack(t testing.TB) *stack {
	s := &stack{t: t, dir: t.TempDir()}
	s.plain = filepath.Join(s.dir, "plain")
	mkdir(t, s.plain)
	return s
}

func mkdir(t testing.TB, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// next returns the target of the next overlay layer.
func (s *stack) next() Target {
	up := mkdir(s.t, filepath.Join(s.dir, fmt.Sprint("up", len(s.upper))))
	to := Target{Dir: up, Lower: slices.Clone(s.upper), Form: Overlay}
	s.upper = append([]string{up}, s.upper...)
	return to
}

// push applies a layer to both, and returns the overlay's upper directory.
func (s *stack) push(tarball []byte) Target {
	s.t.Helper()
	to := s.next()
	apply(s.t, to, tarball)
	apply(s.t, Target{Dir: s.plain}, tarball)
	return to
}

// merged returns a dump of what overlayfs makes of the layers.
func (s *stack) merged() string {
	s.t.Helper()
	at := mkdir(s.t, filepath.Join(s.dir, "merged"))
	lower := append(slices.Clone(s.upper), mkdir(s.t, filepath.Join(s.dir, "empty")))
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			s.t.Error(err)
		}
	}()
	return dump(s.t, at)
}

// agree checks that overlayfs shows what the plain directory has.
func (s *stack) agree() {
	s.t.Helper()
	if d := diffText(s.merged(), dump(s.t, s.plain)); d != "" {
		s.t.Errorf("overlay (got) and plain (want) differ:\n%s", d)
	}
}

// canary is a tree outside of every target, which nothing may change.
type canary struct {
	t    testing.TB
	dir  string
	want string
}

func newCanary(t testing.TB) *canary {
	c := &canary{t: t, dir: t.TempDir()}
	mkdir(t, filepath.Join(c.dir, "sub"))
	for _, p := range []string{"file", "sub/f", "passwd"} {
		p = filepath.Join(c.dir, p)
		if err := os.WriteFile(p, []byte("canary"), 0o640); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(p, someTime, someTime)
	}
	os.Chtimes(filepath.Join(c.dir, "sub"), someTime, someTime)
	os.Chtimes(c.dir, someTime, someTime)
	c.want = c.state()
	return c
}

func (c *canary) state() string {
	fi, err := os.Stat(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprintln(fi.Mode(), fi.ModTime()) + dump(c.t, c.dir)
}

func (c *canary) check() {
	c.t.Helper()
	if got := c.state(); got != c.want {
		c.t.Errorf("canary changed:\n%s", diffText(got, c.want))
	}
}

func wantEntryError(t testing.TB, err error, name string, is error) {
	t.Helper()
	var ee *EntryError
	if !errors.As(err, &ee) || ee.Name != name || (is != nil && !errors.Is(err, is)) {
		t.Errorf("got error %v, want one of entry %q that is %v", err, name, is)
	}
}
