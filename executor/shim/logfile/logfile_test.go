package logfile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

// start opens a log in a new directory, whose clock stands still.
func start(t testing.TB, opts executor.Log) (*Writer, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Open(root, "c.log", opts)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC)
	w.now = func() time.Time { return at }
	return w, filepath.Join(dir, "c.log")
}

// A line is one of Docker's json-file.
type line struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Attrs  map[string]string `json:"attrs"`
	Time   time.Time         `json:"time"`
}

func readLines(t testing.TB, data []byte) []line {
	t.Helper()
	var out []line
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		var l line
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("line %d: %v in %q", len(out), err, data)
		}
		out = append(out, l)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(path, ".gz") {
		return data
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if data, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	return data
}

// The bytes are those that docker's driver writes.
func TestJSONFile(t *testing.T) {
	w, path := start(t, executor.Log{Driver: "json-file", Attrs: map[string]string{"b": "2", "a": "<1>"}})
	w.Write(1, []byte("one\ntwo <\"\\\t\x01\r"))
	w.Write(2, []byte("err\n"))
	w.Write(1, []byte("\u2028é\xff\nlast"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const rest = `,"attrs":{"a":"\u003c1\u003e","b":"2"},"time":"2026-02-03T04:05:06.000000007Z"}` + "\n"
	want := `{"log":"one\n","stream":"stdout"` + rest +
		`{"log":"err\n","stream":"stderr"` + rest +
		`{"log":"two \u003c\"\\\t\u0001\r\u2028é\ufffd\n","stream":"stdout"` + rest +
		`{"log":"last","stream":"stdout"` + rest
	if got := string(read(t, path)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v, %v", fi.Mode(), err)
	}
}

// A string is encoded as encoding/json does it, but for the short forms of backspace and form feed.
func FuzzEscaped(f *testing.F) {
	for _, s := range []string{"", "plain", "\x00\b\f\n", "<&>\u2028\u2029", "\xc3", "\xed\xa0\x80", "日本"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got := `"` + string(appendEscaped(nil, in)) + `"`
		want, err := json.Marshal(string(in))
		if err != nil {
			t.Fatal(err)
		}
		w := strings.NewReplacer(`\b`, `\u0008`, `\f`, `\u000c`, `\\`, `\\`).Replace(string(want))
		if got != w {
			t.Errorf("of %q: got %s, want %s", in, got, w)
		}
	})
}

// However the output is cut into writes, putting the parts together gives all of it, and no part is over 16 KiB.
func TestPartial(t *testing.T) {
	text := strings.Repeat("x", MaxLine-1) + "\n" + strings.Repeat("y", MaxLine) + "\n" + strings.Repeat("z", 2*MaxLine+5) + "\nend"
	for _, step := range []int{1, 7, 4096, MaxLine, 1 << 20} {
		w, path := start(t, executor.Log{Driver: "json-file"})
		for rest := text; len(rest) > 0; {
			n := min(step, len(rest))
			w.Write(1, []byte(rest[:n]))
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		var sizes []int
		for _, l := range readLines(t, read(t, path)) {
			all.WriteString(l.Log)
			sizes = append(sizes, len(l.Log))
		}
		if all.String() != text {
			t.Errorf("in steps of %d: %d bytes, want %d", step, all.Len(), len(text))
		}
		want := fmt.Sprint([]int{MaxLine, MaxLine, 1, MaxLine, MaxLine, 6, 3})
		if got := fmt.Sprint(sizes); got != want {
			t.Errorf("in steps of %d: parts of %s, want %s", step, got, want)
		}
	}
}

// All parts of a line have the time of its first byte.
func TestPartialTime(t *testing.T) {
	w, path := start(t, executor.Log{Driver: "json-file"})
	n := int64(0)
	w.now = func() time.Time {
		n++
		return time.Unix(n, 0)
	}
	w.Write(1, []byte(strings.Repeat("a", 100)))
	w.Write(1, []byte(strings.Repeat("b", MaxLine)))
	w.Write(1, []byte("\nnext\n"))
	w.Close()
	var got []int64
	for _, l := range readLines(t, read(t, path)) {
		got = append(got, l.Time.Unix())
	}
	if fmt.Sprint(got) != "[1 1 3]" {
		t.Errorf("times are %v", got)
	}
}

// Files are rotated when they have reached the size; so many are kept, in order, compressed if that is asked for.
func TestRotate(t *testing.T) {
	for _, compress := range []bool{false, true} {
		w, path := start(t, executor.Log{Driver: "json-file", MaxSize: 200, MaxFiles: 3, Compress: compress})
		for i := range 20 {
			w.Write(1, fmt.Appendf(nil, "line %02d\n", i))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		suffix := ""
		if compress {
			suffix = ".gz"
		}
		var got []string
		for _, name := range []string{path + ".2" + suffix, path + ".1" + suffix, path} {
			for _, l := range readLines(t, read(t, name)) {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(l.Log, "line "), "\n"))
			}
		}
		// Three lines make a file full.
		if want := "12 13 14 15 16 17 18 19"; strings.Join(got, " ") != want {
			t.Errorf("compressed %v: lines are %v, want %s", compress, got, want)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(entries) != 3 {
			t.Errorf("files are %v, %v", entries, err)
		}
	}
}

// With one file, a full one begins anew.
func TestRotateOne(t *testing.T) {
	w, path := start(t, executor.Log{Driver: "json-file", MaxSize: 200})
	for i := range 7 {
		w.Write(1, fmt.Appendf(nil, "line %02d\n", i))
	}
	w.Close()
	if l := readLines(t, read(t, path)); len(l) != 1 || l[0].Log != "line 06\n" {
		t.Errorf("lines are %v", l)
	}
}

// A full file that cannot be followed by another, for want of descriptors, goes on; the files before it stay, however many
// lines come meanwhile.
func TestRotateFails(t *testing.T) {
	w, path := start(t, executor.Log{Driver: "json-file", MaxSize: 1000, MaxFiles: 4})
	write := func(from, to int) {
		for i := from; i < to; i++ {
			w.Write(1, fmt.Appendf(nil, "line %02d\n", i))
		}
	}
	write(0, 30) // some files are full
	old := read(t, path+".1")
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	write(30, 44) // fills another one
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path+".2"); !bytes.Equal(got, old) {
		t.Errorf("the file before is %q, want %q", got, old)
	}
	if err := w.Close(); err == nil {
		t.Error("nobody learns of it")
	}
}

// A log goes on where it was, and counts what is there.
func TestReopen(t *testing.T) {
	opts := executor.Log{Driver: "json-file", MaxSize: 200, MaxFiles: 2}
	w, path := start(t, opts)
	w.Write(1, []byte("one\ntwo\nthree\n"))
	w.Close()
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if w, err = Open(root, "c.log", opts); err != nil {
		t.Fatal(err)
	}
	w.Write(1, []byte("four\n"))
	w.Close()
	if old, now := readLines(t, read(t, path+".1")), readLines(t, read(t, path)); len(old) != 3 || len(now) != 1 {
		t.Errorf("there are %d lines in the old file, and %d in the new one", len(old), len(now))
	}
}

// A disk that takes nothing loses the log, and Close says why; it holds nothing up.
func TestFull(t *testing.T) {
	w, _ := start(t, executor.Log{Driver: "json-file"})
	w.file.Close()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	w.file = full
	w.Write(1, []byte("lost\n"))
	w.Write(1, []byte("lost, too\n"))
	if err := w.Close(); err == nil {
		t.Error("nobody learns of it")
	}
}

// The file of the driver local has a length before and behind each message, which is the same.
func TestLocal(t *testing.T) {
	w, path := start(t, executor.Log{Driver: "local"})
	w.Write(1, []byte("one\n"))
	w.Write(2, []byte(strings.Repeat("x", MaxLine)+"y\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := read(t, path)
	var got []string
	for len(data) > 0 {
		n := binary.BigEndian.Uint32(data)
		msg, tail := data[4:4+n], data[4+n:8+n]
		if binary.BigEndian.Uint32(tail) != n {
			t.Fatalf("lengths %d and %x", n, tail)
		}
		got = append(got, describe(t, msg))
		data = data[8+n:]
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC).UnixNano()
	id := w.parts[2].id
	if id != "" {
		t.Errorf("the line's id is still %q", id)
	}
	want := []string{
		fmt.Sprintf("1=stdout 2=%d 3=one", at),
		fmt.Sprintf("1=stderr 2=%d 3=%d bytes 4=1 5={2=ID 3=1}", at, MaxLine),
		fmt.Sprintf("1=stderr 2=%d 3=y 5={1=1 2=ID 3=2}", at),
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Errorf("message %d: got %q, want %s", i, got, want[i])
		}
	}
}

// describe decodes a message of protocol buffers.
func describe(t *testing.T, b []byte) string {
	t.Helper()
	var out []string
	for len(b) > 0 {
		field, kind := b[0]>>3, b[0]&7
		n, k := binary.Uvarint(b[1:])
		b = b[1+k:]
		if kind == 0 {
			out = append(out, fmt.Sprintf("%d=%d", field, n))
			continue
		}
		v := string(b[:n])
		b = b[n:]
		switch {
		case field == 5:
			v = "{" + describe(t, []byte(v)) + "}"
		case field == 2:
			v = "ID"
		case len(v) > 100:
			v = fmt.Sprintf("%d bytes", len(v))
		}
		out = append(out, fmt.Sprintf("%d=%s", field, v))
	}
	return strings.Join(out, " ")
}

func TestDrivers(t *testing.T) {
	for driver, ok := range map[string]bool{"none": true, "": true, "syslog": false} {
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		w, err := Open(root, "log", executor.Log{Driver: driver})
		if w != nil || (err == nil) != ok {
			t.Errorf("%q: %v, %v", driver, w, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "log")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: there is a file: %v", driver, err)
		}
	}
}

// BenchmarkJSON writes lines of 80 bytes, 32 KiB at a time.
func BenchmarkJSON(b *testing.B) {
	w, _ := start(b, executor.Log{Driver: "json-file", MaxSize: 64 << 20})
	p := []byte(strings.Repeat(strings.Repeat("x", 79)+"\n", 400))
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		w.Write(1, p)
	}
	w.Close()
}
