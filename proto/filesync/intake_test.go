package filesync

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A sentFile is a file as a sender has it.
type sentFile struct {
	path, text string
	link       string // hard link, or symlink with mode S_IFLNK
	mode       uint32 // 0 means a regular file of mode 0644, or a directory with a path that ends in a slash
	at         int64  // time, in seconds, with a fraction
}

func (f *sentFile) entry() (treehash.Entry, string) {
	e := treehash.Entry{Path: strings.TrimSuffix(f.path, "/"), Mode: f.mode, MTime: time.Unix(f.at, 1), Size: int64(len(f.text))}
	switch {
	case strings.HasSuffix(f.path, "/"):
		e.Mode = unix.S_IFDIR | 0o755
	case f.mode == 0:
		e.Mode = unix.S_IFREG | 0o644
	}
	if e.IsSymlink() {
		e.Link = f.link
		return e, ""
	}
	return e, f.link
}

// sendAll has the store take files, and returns the tree, which files were asked for, and the Intake.
func sendAll(t *testing.T, s *Store, req IntakeRequest, files []sentFile) (treehash.Tree, []string, *Intake, error) {
	t.Helper()
	in, err := s.Intake(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	give := func() error {
		for i := range files {
			e, link := files[i].entry()
			f, err := in.Add(&e, link)
			if err != nil {
				return err
			}
			if f == nil {
				continue
			}
			asked = append(asked, f.Path())
			if _, err := io.WriteString(f, files[i].text); err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
		return nil
	}
	err = give()
	var tr treehash.Tree
	if err == nil {
		var release func()
		if tr, release, err = in.Tree(); err == nil {
			t.Cleanup(release)
		}
	}
	return tr, asked, in, errors.Join(err, in.Close())
}

func newIntakeStore(t *testing.T) *Store {
	t.Helper()
	s, err := NewStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// intakeContents returns paths with contents; names of one file show the first of them.
func intakeContents(t *testing.T, tr treehash.Tree) string {
	t.Helper()
	var out []string
	first := map[uint64]string{}
	var dir func(string)
	dir = func(p string) {
		list, err := tr.List(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.IsDir() {
				dir(e.Path)
				continue
			}
			r, err := tr.Open(t.Context(), e.Path)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err = errors.Join(err, r.Close()); err != nil {
				t.Fatal(err)
			}
			text := e.Path + "=" + string(b)
			if e.Hard != 0 && first[e.Hard] != "" {
				text = e.Path + "=" + first[e.Hard]
			} else if e.Hard != 0 {
				first[e.Hard] = e.Path
			}
			out = append(out, text)
		}
	}
	dir("/")
	return strings.Join(out, " ")
}

// Whatever a directory was when it came last, what comes now is what it is: names of one file that part, files that
// become one, and directories that were nothing but that.
func TestIntakeSequence(t *testing.T) {
	s := newIntakeStore(t)
	for i, tc := range []struct {
		files []sentFile
		want  string
		asked string
	}{
		{[]sentFile{{path: "a", text: "1"}, {path: "d/"}, {path: "d/b", text: "2"}, {path: "e/"}, {path: "e/c", text: "3"}}, "/a=1 /d/b=2 /e/c=3", "/a /d/b /e/c"},
		// d/b is another name of a, and has all that b had but the content.
		{[]sentFile{{path: "a", text: "1"}, {path: "d/"}, {path: "d/b", link: "a"}, {path: "e/"}, {path: "e/c", text: "3"}}, "/a=1 /d/b=/a /e/c=3", ""},
		{[]sentFile{{path: "a", text: "1"}, {path: "d/"}, {path: "d/b", link: "a"}, {path: "e/"}, {path: "e/c", text: "3"}}, "/a=1 /d/b=/a /e/c=3", ""},
		// They part again: d/b looks as it did, but is a file of its own.
		{[]sentFile{{path: "a", text: "1"}, {path: "d/"}, {path: "d/b", text: "2"}, {path: "e/"}, {path: "e/c", text: "3"}}, "/a=1 /d/b=2 /e/c=3", "/d/b"},
		// The first name is in a directory in which nothing else changes.
		{[]sentFile{{path: "a", text: "1"}, {path: "d/"}, {path: "d/b", text: "2"}, {path: "e/"}, {path: "e/c", link: "d/b"}}, "/a=1 /d/b=2 /e/c=/d/b", ""},
		// The content of the first name changes: that of the other does, too.
		{[]sentFile{{path: "a", text: "1"}, {path: "d/"}, {path: "d/b", text: "4", at: 1}, {path: "e/"}, {path: "e/c", link: "d/b"}}, "/a=1 /d/b=4 /e/c=/d/b", "/d/b"},
		{[]sentFile{{path: "a", text: "1"}, {path: "d", text: "a file"}, {path: "e/"}}, "/a=1 /d=a file", "/d"},
		{nil, "", ""},
	} {
		tr, asked, _, err := sendAll(t, s, IntakeRequest{Key: "k"}, tc.files)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if got := intakeContents(t, tr); got != tc.want {
			t.Errorf("%d: got %s, want %s", i, got, tc.want)
		}
		if got := strings.Join(asked, " "); got != tc.asked {
			t.Errorf("%d: asked for %s, want %s", i, got, tc.asked)
		}
		fresh, _, _, err := sendAll(t, newIntakeStore(t), IntakeRequest{}, tc.files)
		if err != nil || rootOf(fresh) != rootOf(tr) {
			t.Errorf("%d: root %s, want %s as without a past (%v)", i, rootOf(tr), rootOf(fresh), err)
		}
	}
}

// What an Intake has taken before it failed need not come again for the next one.
func TestIntakeAfter(t *testing.T) {
	s := newIntakeStore(t)
	_, _, failed, err := sendAll(t, s, IntakeRequest{Key: "k"}, []sentFile{{path: "a", text: "1"}, {path: "b", text: "2"}, {path: "b", text: "again"}})
	if err == nil {
		t.Fatal("a name came twice")
	}
	_, asked, _, err := sendAll(t, s, IntakeRequest{Key: "k", After: failed}, []sentFile{{path: "a", text: "1"}, {path: "c", text: "3"}})
	if err != nil || !slices.Equal(asked, []string{"/c"}) {
		t.Errorf("asked for %q, want /c; %v", asked, err)
	}
}

// A file whose time is not long past when it comes may change without its time showing it, so it has to come again.
func TestIntakeRacy(t *testing.T) {
	s := newIntakeStore(t)
	files := []sentFile{{path: "new", text: "1", at: time.Now().Unix() + 10}, {path: "old", text: "2"}}
	for i, want := range [][]string{{"/new", "/old"}, {"/new"}} {
		if _, asked, _, err := sendAll(t, s, IntakeRequest{Key: "k"}, files); err != nil || !slices.Equal(asked, want) {
			t.Errorf("%d: asked for %q, want %q; %v", i, asked, want, err)
		}
	}
}

// A disk that fails is an error that names the file, whether it is small or large, and leaves nothing.
func TestIntakeDisk(t *testing.T) {
	for _, text := range []string{"small", strings.Repeat("large", smallFile)} {
		dir := t.TempDir()
		s, err := NewStore(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		// Not even root can write into what is no directory.
		if err := errors.Join(os.Remove(filepath.Join(dir, "new")), os.WriteFile(filepath.Join(dir, "new"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := sendAll(t, s, IntakeRequest{}, []sentFile{{path: "f", text: text}}); err == nil || !strings.Contains(err.Error(), `"/f"`) {
			t.Errorf("error %v, want one that names the file", err)
		}
	}
}

// Files that have begun when an Intake is closed leave nothing, and no sender can begin more than there is room for.
func TestIntakeUnfinished(t *testing.T) {
	dir := t.TempDir()
	s, err := NewStore(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.Intake(context.Background(), IntakeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; err == nil; i++ {
		var f *IncomingFile
		e := treehash.Entry{Path: string(rune('a'+i/1000)) + string(rune('0'+i%1000)), Mode: unix.S_IFREG, Size: smallFile + 1 - int64(i%2)}
		if f, err = in.Add(&e, ""); err == nil {
			if _, err = f.Write([]byte("x")); err != nil && i != maxBegun {
				t.Errorf("file %d could not begin: %v", i, err)
			}
		}
	}
	if !strings.Contains(err.Error(), "at the same time") {
		t.Errorf("error %v", err)
	}
	if _, _, err := in.Tree(); err == nil {
		t.Error("a tree of files that are not there")
	}
	if err := errors.Join(in.Close(), in.Close()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "new")); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
