package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A world is a tree with an outside, to which nothing may happen.
type world struct {
	*testing.T
	root    *os.File
	path    string
	outside string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{T: t, path: filepath.Join(dir, "root"), outside: filepath.Join(dir, "outside")}
	for _, d := range []string{w.path, w.outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.must(os.WriteFile(filepath.Join(w.outside, "secret"), []byte("secret"), 0o600))
	var err error
	w.root, err = os.Open(w.path)
	w.must(err)
	t.Cleanup(func() {
		w.root.Close()
		b, err := os.ReadFile(filepath.Join(w.outside, "secret"))
		entries, _ := os.ReadDir(w.outside)
		if err != nil || string(b) != "secret" || len(entries) != 1 {
			t.Errorf("outside of the tree there is %v, %q, %v", entries, b, err)
		}
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// make makes files: "dir/", "file=content", "link>target".
func (w *world) make(specs ...string) {
	w.Helper()
	for _, s := range specs {
		switch {
		case strings.HasSuffix(s, "/"):
			w.must(os.MkdirAll(filepath.Join(w.path, s), 0o755))
		case strings.Contains(s, ">"):
			name, target, _ := strings.Cut(s, ">")
			w.must(os.Symlink(strings.ReplaceAll(target, "OUT", w.outside), filepath.Join(w.path, name)))
		default:
			name, content, _ := strings.Cut(s, "=")
			w.must(os.WriteFile(filepath.Join(w.path, name), []byte(content), 0o644))
		}
	}
}

// archive makes a tar in the same language; "link#target" is a hard link.
func archive(specs ...string) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, s := range specs {
		h := &tar.Header{Mode: 0o644, ModTime: time.Unix(1000, 0), Uid: os.Getuid(), Gid: os.Getgid()}
		content := ""
		switch {
		case strings.HasSuffix(s, "/"):
			h.Typeflag, h.Name, h.Mode = tar.TypeDir, s, 0o750
		case strings.Contains(s, ">"):
			h.Typeflag = tar.TypeSymlink
			h.Name, h.Linkname, _ = strings.Cut(s, ">")
		case strings.Contains(s, "#"):
			h.Typeflag = tar.TypeLink
			h.Name, h.Linkname, _ = strings.Cut(s, "#")
		default:
			h.Typeflag = tar.TypeReg
			h.Name, content, _ = strings.Cut(s, "=")
			h.Size = int64(len(content))
		}
		_ = w.WriteHeader(h)
		_, _ = w.Write([]byte(content))
	}
	_ = w.Close()
	return &b
}

// files describes what is in the tree, in the same language.
func (w *world) files() string {
	var out []string
	_ = filepath.WalkDir(w.path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == w.path {
			return err
		}
		name := strings.TrimPrefix(p, w.path+"/")
		switch {
		case d.IsDir():
			name += "/"
		case d.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			name += ">" + strings.ReplaceAll(target, w.outside, "OUT")
		default:
			b, _ := os.ReadFile(p)
			name += "=" + string(b)
		}
		out = append(out, name)
		return nil
	})
	sort.Strings(out)
	return strings.Join(out, " ")
}

// Whatever links lead where, files are written inside of the tree, and nowhere else.
func TestUnpack(t *testing.T) {
	for _, tt := range []struct {
		name  string
		have  []string
		dir   string
		tar   []string
		want  string
		fails string
	}{
		{"plain", []string{"d/"}, "/d", []string{"a=1", "b/", "b/c=2", "l>../x", "h#a"}, "d/ d/a=1 d/b/ d/b/c=2 d/h=1 d/l>../x", ""},
		{"missing parents", nil, "/", []string{"a/b/c=1"}, "a/ a/b/ a/b/c=1", ""},
		{"through a link", []string{"real/", "link>real"}, "/link", []string{"a=1"}, "link>real real/ real/a=1", ""},
		{"absolute link is the tree's", []string{"outside/", "link>/outside"}, "/link", []string{"a=1"}, "link>/outside outside/ outside/a=1", ""},
		{"link out", []string{"link>OUT"}, "/link", []string{"a=1"}, "", "no such file"},
		{"link up and out", []string{"link>../outside", "outside/"}, "/link", []string{"a=1"}, "link>../outside outside/ outside/a=1", ""},
		{"entry through a link out", []string{"link>OUT"}, "/", []string{"link/secret=bad"}, "", "no such file"},
		{"link made by the tar", nil, "/", []string{"link>OUT", "link/secret=bad"}, "", "no such file"},
		{"link replaced", []string{"secret>OUT/secret"}, "/", []string{"secret=new"}, "secret=new", ""},
		{"hard link out", nil, "/", []string{"x>OUT/secret", "h#x"}, "h>OUT/secret x>OUT/secret", ""},
		{"hard link through a link", []string{"d>OUT"}, "/", []string{"h#d/secret"}, "", "no such file"},
		{"dots", nil, "/", []string{"../a=1"}, "", "leads out of the directory"},
		{"dots in a link", nil, "/", []string{"h#../a"}, "", "leads out of the directory"},
		{"absolute", []string{"d/"}, "/d", []string{"/a=1"}, "d/ d/a=1", ""},
		{"no directory", []string{"f=1"}, "/f", []string{"a=1"}, "", "not a directory"},
		{"missing", nil, "/none", []string{"a=1"}, "", "no such file"},
		{"file over directory", []string{"d/", "d/e=1"}, "/", []string{"d=2"}, "d=2", ""},
		{"directory over link", []string{"d>OUT"}, "/", []string{"d/", "d/secret=mine"}, "d/ d/secret=mine", ""},
		{"itself", []string{"d/"}, "/d", []string{"./", "./a=1"}, "d/ d/a=1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.make(tt.have...)
			err := Unpack(t.Context(), w.root, tt.dir, archive(tt.tar...), Options{})
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("error is %v, want %q", err, tt.fails)
				}
				return
			}
			if got := w.files(); err != nil || got != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// With KeepKind a directory is not replaced by anything else, nor the other way round.
func TestKeepKind(t *testing.T) {
	w := newWorld(t)
	w.make("d/", "f=1")
	for _, tt := range []struct{ entry, text string }{
		{"d=1", "cannot overwrite directory"}, {"f/", "cannot overwrite non-directory"}, {"f=2", ""}, {"d/", ""},
	} {
		err := Unpack(t.Context(), w.root, "/", archive(tt.entry), Options{KeepKind: true})
		if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %q", tt.entry, err, tt.text)
		}
	}
}

// What is packed and unpacked is the same: contents, modes, owners, times, links of both kinds, attributes, devices.
func TestRoundTrip(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	a, b := newWorld(t), newWorld(t)
	a.make("d/", "d/e/", "d/f=content", "d/l>/nowhere", "d/suid=x")
	p := func(name string) string { return filepath.Join(a.path, name) }
	a.must(os.Link(p("d/f"), p("d/e/again")))
	a.must(os.Lchown(p("d/f"), 12, 34))
	a.must(os.Lchown(p("d/l"), 56, 78))
	a.must(os.Chmod(p("d/suid"), 0o755|fs.ModeSetuid))
	a.must(os.Chmod(p("d/e"), 0o700|fs.ModeSticky))
	a.must(unix.Mknod(p("d/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	a.must(unix.Mkfifo(p("d/fifo"), 0o600))
	a.must(unix.Setxattr(p("d/f"), "user.x", []byte("y"), 0))
	a.must(os.Truncate(p("d/suid"), 1<<20))
	for _, name := range []string{"d/f", "d/suid", "d/e", "d"} {
		a.must(os.Chtimes(p(name), time.Unix(500, 7), time.Unix(500, 7)))
	}
	a.must(os.Chown(p("d"), 90, 91))
	to, err := os.Open(b.path)
	b.must(err)
	defer to.Close()
	if err := Copy(t.Context(), a.root, "/d", to); err != nil {
		t.Fatal(err)
	}
	describe := func(root string) string {
		var out []string
		_ = filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
			var st unix.Stat_t
			if err = errors.Join(err, unix.Lstat(p, &st)); err != nil {
				return err
			}
			x := make([]byte, 10)
			n, _ := unix.Lgetxattr(p, "user.x", x)
			mtime := ""
			if st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&unix.S_IFMT != unix.S_IFIFO && st.Mode&unix.S_IFMT != unix.S_IFCHR {
				mtime = fmt.Sprint(st.Mtim)
			}
			out = append(out, fmt.Sprintf("%s %o %d:%d %d %s links %d rdev %d %s",
				strings.TrimPrefix(p, root), st.Mode, st.Uid, st.Gid, st.Size*int64(btoi(st.Mode&unix.S_IFMT == unix.S_IFREG)), mtime,
				btoi(st.Nlink > 1 && st.Mode&unix.S_IFMT == unix.S_IFREG), st.Rdev, x[:max(0, n)]))
			return nil
		})
		return strings.Join(out, "\n")
	}
	if got, want := describe(b.path), describe(p("d")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Paths are described as docker does: a link itself, but for one with a slash behind; and where links lead.
func TestStat(t *testing.T) {
	w := newWorld(t)
	w.make("d/", "d/f=123", "l>d", "abs>/d/f", "up>../../d", "loop>loop", "gone>/x/y", "out>OUT/secret")
	for _, tt := range []struct{ path, want string }{
		{"/", "/ d"},
		{"d", "d d"},
		{"/d/f", "f - 3"},
		{"/l", "l l /d"},
		{"/l/", "l d"},
		{"/l/.", "l d"},
		{"/l/f", "f - 3"},
		{"/abs", "abs l /d/f"},
		{"/up", "up l /d"},
		{"/gone", "gone l /x/y"},
		{"/../../d", "d d"},
		{"/none", "error"},
		{"/d/f/x", "error"},
		{"/loop/", "error"},
		{"/out/", "error"},
		{"/l/../d/f", "f - 3"},
	} {
		in, err := Stat(w.root, tt.path)
		got := "error"
		if err == nil {
			got = in.Name + " "
			switch {
			case in.Mode.IsDir():
				got += "d"
			case in.Link != "":
				got += "l " + in.Link
			default:
				got += fmt.Sprintf("- %d", in.Size)
			}
		}
		if got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.path, got, err, tt.want)
		}
	}
}

// A tar begins with the name that was asked for, and has the link itself or what it leads to. Hidden directories are empty
// unless one asks for them, or for what is in them.
func TestPackNames(t *testing.T) {
	w := newWorld(t)
	w.make("d/", "d/f=1", "h/", "h/p/", "h/p/f=1", "l>d", "m>h")
	for _, tt := range []struct{ path, base, want string }{
		{"/d", "d", "d/ d/f"},
		{"/d/f", "f", "f"},
		{"/l", "l", "l>d"},
		{"/l/", "l", "l/ l/f"},
		{"/", "", "/ /d/ /d/f /h/ /l>d /m>h"},
		{"/d/.", "x", "x/ x/f"},
		{"/.", "x", "x/ x/d/ x/d/f x/h/ x/l>d x/m>h"},
		{"/h", "h", "h/ h/p/"},
		{"/m/", "m", "m/ m/p/"},
		{"/m/p/", "p", "p/ p/f"},
		{"/h/p/f", "f", "f"},
	} {
		var b bytes.Buffer
		w.must(Pack(t.Context(), Source{Root: w.root, Name: tt.path, Base: tt.base, Hidden: []string{"/h/p", "/h"}}, &b))
		var got []string
		for r := tar.NewReader(&b); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			name := h.Name
			if h.Typeflag == tar.TypeSymlink {
				name += ">" + h.Linkname
			}
			got = append(got, name)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: got %s, want %s", tt.path, s, tt.want)
		}
	}
}

// What clients get has times in whole seconds, also from before 1970, and so no PAX headers where nothing else needs them.
func TestPackTimes(t *testing.T) {
	w := newWorld(t)
	w.make("d/", "d/f=1", "g=1")
	for name, at := range map[string]time.Time{"d": time.Unix(500, 7), "d/f": time.Unix(-5, 7e8), "g": time.Unix(500, 999_999_999)} {
		w.must(os.Chtimes(filepath.Join(w.path, name), at, at))
	}
	const want = "d/ 500 d/f -5 g 500"
	for name, pack := range map[string]func(io.Writer) error{
		"Pack": func(b io.Writer) error { return Pack(t.Context(), Source{Root: w.root, Name: "/.", Base: "."}, b) },
		"tree": func(b io.Writer) error { return PackTree(t.Context(), w.root, b) },
	} {
		var b bytes.Buffer
		w.must(pack(&b))
		var got []string
		for r := tar.NewReader(&b); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Name == "./" {
				continue
			}
			got = append(got, strings.TrimPrefix(h.Name, "./"), fmt.Sprint(h.ModTime.Unix()))
			if h.ModTime.Nanosecond() != 0 || len(h.PAXRecords) != 0 && h.ModTime.Unix() >= 0 {
				t.Errorf("%s: %s is of %v, with the records %q", name, h.Name, h.ModTime, h.PAXRecords)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: got %s, want %s", name, s, want)
		}
	}
}

// While links are changed all the time, nothing outside is written or read (CVE-2018-15664), nor given another mode
// (CVE-2021-41089).
func TestRace(t *testing.T) {
	w := newWorld(t)
	w.make("a/", "b>OUT")
	before, err := os.Stat(w.outside)
	w.must(err)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(w.path, "a"), unix.AT_FDCWD, filepath.Join(w.path, "b"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	packed := 0
	for range 300 {
		_ = Unpack(t.Context(), w.root, "/a", archive("./", "secret=bad", "new=bad"), Options{})
		for _, name := range []string{"/a/secret", "/a/.", "/a/"} {
			var b bytes.Buffer
			if Pack(t.Context(), Source{Root: w.root, Name: name, Base: "x"}, &b) != nil {
				continue
			}
			packed++
			// The name stands in headers; the content of the file outside is one block that begins with it.
			if bytes.Contains(b.Bytes(), append([]byte{0}, "secret\x00\x00\x00\x00"...)) {
				t.Fatalf("%s: read what is outside", name)
			}
		}
	}
	close(stop)
	<-done
	if packed == 0 {
		t.Error("nothing was packed")
	}
	if after, err := os.Stat(w.outside); err != nil || after.Mode() != before.Mode() {
		t.Errorf("outside has the mode %v, %v, had %v", after.Mode(), err, before.Mode())
	}
}

// What vanishes after it has been opened, as all of a process does that ends, is left out of a tar.
func TestPackVanished(t *testing.T) {
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	open := func(name string) int {
		t.Helper()
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", sleep.Process.Pid, name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	file, link, dir := open("auxv"), open("exe"), open("task")
	if err := sleep.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = sleep.Wait() // it was killed
	var b bytes.Buffer
	p := &packer{ctx: t.Context(), w: tar.NewWriter(&b)}
	if err := p.file(file, &tar.Header{Name: "auxv", Size: 1, Format: tar.FormatPAX}); err != nil {
		t.Errorf("a file: %v", err)
	}
	if h, err := p.header(link, &unix.Stat_t{Mode: unix.S_IFLNK}, "exe"); h != nil || err != nil {
		t.Errorf("a link: %v, %v", h, err)
	}
	if err := p.below(dir, "task"); err != nil {
		t.Errorf("a directory: %v", err)
	}
	if b.Len() > 0 {
		t.Errorf("there are %d bytes of a tar", b.Len())
	}
}

// Files that nobody may read, as some of the kernel's settings, are in a tar as the empty files that they say they are.
func TestPackUnreadable(t *testing.T) {
	const file = "compact_memory"
	if f, err := os.Open("/proc/sys/vm/" + file); !errors.Is(err, fs.ErrPermission) {
		f.Close()
		t.Skipf("%s is no such file: %v", file, err)
	}
	root, err := os.Open("/proc/sys/vm")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var b bytes.Buffer
	if err := Pack(t.Context(), Source{Root: root, Name: "/", Base: "vm"}, &b); err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s is not in the tar: %v", file, err)
		}
		if h.Name == "vm/"+file {
			return
		}
	}
}

// Whatever a tar says, unpacking it ends, and harms nothing outside.
func FuzzUnpack(f *testing.F) {
	for _, specs := range [][]string{{"a=1", "b/", "l>/x", "h#a"}, {"../x=1"}} {
		b, _ := io.ReadAll(archive(specs...))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorld(t)
		w.make("l>OUT", "d/")
		_ = Unpack(t.Context(), w.root, "/", bytes.NewReader(b), Options{})
	})
}
