package logread

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/logfile"
)

// A written is a log that a keeper's writer writes.
type written struct {
	*logfile.Writer
	opt Options
}

func newLog(t *testing.T, l executor.Log) *written {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := logfile.Open(root, "c.log", l)
	if err != nil {
		t.Fatal(err)
	}
	return &written{w, Options{Path: filepath.Join(dir, "c.log"), Driver: l.Driver, Tail: -1}}
}

// read returns what is read, each entry with a letter for its stream.
func read(t *testing.T, opt Options) string {
	t.Helper()
	var b strings.Builder
	err := Read(t.Context(), opt, func(m *Message) error {
		if m.At.IsZero() {
			t.Error("an entry has no time")
		}
		fmt.Fprintf(&b, "%c %s", m.Stream[3], m.Text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What a keeper has written is read, whole lines and parts of long ones, across files that were rotated and compressed.
func TestRead(t *testing.T) {
	for _, l := range []executor.Log{
		{Driver: "json-file"},
		{Driver: "local"},
		{Driver: "json-file", MaxSize: 300, MaxFiles: 100},
		{Driver: "local", MaxSize: 300, MaxFiles: 100},
		{Driver: "json-file", MaxSize: 300, MaxFiles: 100, Compress: true},
		{Driver: "local", MaxSize: 300, MaxFiles: 100, Compress: true},
	} {
		w := newLog(t, l)
		var lines []string
		for i := range 50 {
			line := fmt.Sprintf("line <%d> \"é\"\n", i)
			stream, letter := 1, "o "
			if i%3 == 0 {
				stream, letter = 2, "e "
			}
			w.Write(stream, []byte(line))
			lines = append(lines, letter+line)
		}
		long := strings.Repeat("x", logfile.MaxLine)
		w.Write(1, []byte(long+"rest\n"))
		lines = append(lines, "o "+long, "o rest\n")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got, want := read(t, w.opt), strings.Join(lines, ""); got != want {
			t.Errorf("%+v: got %.300q, want %.300q", l, got, want)
		}
		for _, n := range []int{0, 1, 2, 7, 30, len(lines), 1000} {
			w.opt.Tail = n
			if got, want := read(t, w.opt), strings.Join(lines[max(0, len(lines)-n):], ""); got != want {
				t.Errorf("%+v, the last %d: got %.300q, want %.300q", l, n, got, want)
			}
		}
	}
}

// Times bound what is read, on both sides.
func TestTimes(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var b bytes.Buffer
	for i := range 5 {
		fmt.Fprintf(&b, `{"log":"%d\n","stream":"stdout","attrs":{"a":"b"},"time":"%s"}`+"\n", i, at.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano))
	}
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		since, until int
		want         string
	}{{-1, -1, "01234"}, {2, -1, "234"}, {-1, 2, "012"}, {1, 3, "123"}, {9, -1, ""}} {
		opt := Options{Path: path, Driver: "json-file", Tail: -1}
		if tt.since >= 0 {
			opt.Since = at.Add(time.Duration(tt.since) * time.Second)
		}
		if tt.until >= 0 {
			opt.Until = at.Add(time.Duration(tt.until) * time.Second)
		}
		got := strings.NewReplacer("o ", "", "\n", "").Replace(read(t, opt))
		if got != tt.want {
			t.Errorf("%d to %d: got %s, want %s", tt.since, tt.until, got, tt.want)
		}
	}
}

// What a power cut leaves of a log is skipped, and what is not whole waits.
func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	good := `{"log":"a\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}` + "\n"
	for _, tt := range []struct{ content, want string }{
		{"", ""},
		{"\x00\x00\x00\n" + good, "o a\n"},
		{good + good[:20], "o a\n"},
		{good + "{\n" + good, "o a\no a\n"},
		{strings.Repeat("y", 3<<20) + "\n" + good, "o a\n"},
	} {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := read(t, Options{Path: path, Driver: "json-file", Tail: -1}); got != tt.want {
			t.Errorf("%.40q: got %q, want %q", tt.content, got, tt.want)
		}
	}
	if got := read(t, Options{Path: path + "none", Driver: "json-file", Tail: -1}); got != "" {
		t.Errorf("of nothing: got %q", got)
	}
	if err := Read(t.Context(), Options{Path: path, Driver: "none"}, nil); err == nil {
		t.Error("an unknown driver is read")
	}
}

// Following gives every line once and in order, whatever is rotated meanwhile, and ends when the container has and all has
// been read.
func TestFollow(t *testing.T) {
	for _, l := range []executor.Log{
		{Driver: "json-file"}, {Driver: "local"}, {Driver: "json-file", MaxSize: 4000, MaxFiles: 1000}, {Driver: "local", MaxSize: 4000, MaxFiles: 1000},
	} {
		const lines = 3000
		w := newLog(t, l)
		w.Write(1, []byte("0\n"))
		ended := make(chan struct{})
		go func() {
			for i := 1; i < lines; i++ {
				w.Write(1, fmt.Appendf(nil, "%d\n", i))
			}
			w.Close()
			close(ended)
		}()
		w.opt.Follow, w.opt.Ended = true, ended
		next := 0
		err := Read(t.Context(), w.opt, func(m *Message) error {
			if want := fmt.Sprintf("%d\n", next); string(m.Text) != want {
				return fmt.Errorf("got %q, want %q", m.Text, want)
			}
			next++
			return nil
		})
		if err != nil || next != lines {
			t.Errorf("%+v: %v, after %d lines", l, err, next)
		}
	}
}

// Following ends with its context, and with an error of who is told.
func TestFollowEnds(t *testing.T) {
	w := newLog(t, executor.Log{Driver: "json-file"})
	w.Write(1, []byte("x\n"))
	w.opt.Follow, w.opt.Ended = true, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	err := Read(ctx, w.opt, func(*Message) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if err := Read(t.Context(), w.opt, func(*Message) error { return io.ErrShortWrite }); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("error is %v", err)
	}
	w.Close()
}

// Whatever is in a file, reading it ends, and the last n entries are the end of all of them.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"log":"a\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`+"\n"), 1)
	f.Add([]byte("\x00\x00\x00\x04\x12\x01a\x00\x00\x00\x00\x04"), 1)
	f.Fuzz(func(t *testing.T, content []byte, n int) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, driver := range []string{"json-file", "local"} {
			for _, tail := range []int{-1, n} {
				err := Read(t.Context(), Options{Path: path, Driver: driver, Tail: tail}, func(*Message) error { return nil })
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
}
