package terminal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/moby/moby/client"
)

// TestParseKeys checks that keys are read as docker writes them.
func TestParseKeys(t *testing.T) {
	for text, want := range map[string]string{
		"ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-@": "\x00", "ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_": "\x1b\x1c\x1d\x1e\x1f",
		"CTRL-A,b,Z": "\x01bZ", "ctrl-z": "\x1a",
	} {
		got, err := ParseKeys(text)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "ab", "ctrl-", "ctrl-ab", "ctrl-1", "a,,b"} {
		if got, err := ParseKeys(text); err == nil {
			t.Errorf("%q is taken for %q", text, got)
		}
	}
}

// TestEscape checks that the keys end the input however it is cut into reads, and that all that comes before them, and all
// that only looks like them, is let through.
func TestEscape(t *testing.T) {
	for _, c := range []struct {
		keys, in, out string
		detached      bool
	}{
		{"\x10\x11", "abc", "abc", false},
		{"\x10\x11", "ab\x10\x11cd", "ab", true},
		{"\x10\x11", "\x10a\x10", "\x10a\x10", false},
		{"\x10\x11", "\x10\x10\x11", "\x10", true},
		{"aab", "aaaab", "aa", true},
		{"abac", "ababac", "ab", true},
		{"x", "yx", "y", true},
		{"xyz", "xyxyxy", "xyxyxy", false},
	} {
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(c.in), "bytes": iotest.OneByteReader(strings.NewReader(c.in)),
			"with the end": iotest.DataErrReader(strings.NewReader(c.in)),
		} {
			got, err := io.ReadAll(&escape{r: r, keys: []byte(c.keys)})
			if string(got) != c.out || errors.Is(err, ErrDetached) != c.detached || err != nil && !c.detached {
				t.Errorf("%q in %q, %s: got %q, %v, want %q, detached %v", c.keys, c.in, name, got, err, c.out, c.detached)
			}
		}
	}
}

// FuzzEscape checks that nothing but the keys themselves is ever lost.
func FuzzEscape(f *testing.F) {
	f.Add([]byte("\x10\x11"), []byte("a\x10\x10\x11b"))
	f.Add([]byte("aa"), []byte("aba"))
	f.Fuzz(func(t *testing.T, keys, in []byte) {
		if len(keys) == 0 {
			t.Skip("there are none")
		}
		got, err := io.ReadAll(&escape{r: iotest.OneByteReader(bytes.NewReader(in)), keys: keys})
		before, _, found := bytes.Cut(in, keys)
		if !bytes.Equal(got, before) || found != errors.Is(err, ErrDetached) {
			t.Errorf("keys %q in %q: got %q, %v", keys, in, got, err)
		}
	})
}

// connect returns a connection as the API's client makes it, and its other end.
func connect(t *testing.T) (client.HijackedResponse, *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	return client.NewHijackedResponse(near, ""), far.(*net.UnixConn)
}

// frame is one of Docker's frames.
func frame(stream byte, text string) string {
	return string([]byte{stream, 0, 0, 0, 0, 0, 0, byte(len(text))}) + text
}

// TestStream checks that frames go where they belong, that the end of the user's input reaches the process, and that what
// that says afterwards is still shown.
func TestStream(t *testing.T) {
	conn, far := connect(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, _ = io.WriteString(w, "typed")
	_ = w.Close()
	peer := make(chan string, 1)
	go func() {
		in, _ := io.ReadAll(far)
		_, _ = io.WriteString(far, frame(1, "out")+frame(2, "err")+frame(1, "more"))
		_ = far.Close()
		peer <- string(in)
	}()
	var out, errs bytes.Buffer
	s := &Stream{In: r, Out: &out, Err: &errs}
	if err := s.Run(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if in := <-peer; in != "typed" || out.String() != "outmore" || errs.String() != "err" {
		t.Errorf("got %q, %q, %q", in, out.String(), errs.String())
	}
}

// TestStreamEnds checks that a stream ends with the process, although the user may yet type, and takes nothing from him
// that he types later; and with its context.
func TestStreamEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	conn, far := connect(t)
	_ = far.Close()
	if err := (&Stream{In: r, Out: io.Discard, Err: io.Discard}).Run(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	conn, _ = connect(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if err := (&Stream{In: r, Out: io.Discard}).Run(ctx, conn); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
	_, _ = io.WriteString(w, "later")
	_ = w.Close()
	if got, _ := io.ReadAll(r); string(got) != "later" {
		t.Errorf("%q is left of what was typed", got)
	}
}

// TestStreamDetaches checks that the keys end a stream of a terminal while the process goes on.
func TestStreamDetaches(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	_, _ = w.Write(append([]byte("ls"), DefaultKeys...))
	conn, far := connect(t)
	if err := (&Stream{In: r, Out: io.Discard, TTY: true, Keys: DefaultKeys}).Run(t.Context(), conn); !errors.Is(err, ErrDetached) {
		t.Errorf("got %v", err)
	}
	if in, _ := io.ReadAll(far); string(in) != "ls" {
		t.Errorf("the process got %q", in)
	}
}

// TestForward checks that signals reach the container by name, but not those that are the program's own.
func TestForward(t *testing.T) {
	names := make(chan string, 8)
	stop := Forward(func(name string) { names <- name })
	for _, s := range []syscall.Signal{syscall.SIGWINCH, syscall.SIGUSR1, syscall.SIGCHLD, syscall.SIGTERM} {
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
	}
	got := []string{<-names, <-names}
	slices.Sort(got)
	if want := []string{"TERM", "USR1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	stop()
	if name := name(syscall.Signal(40)); name != "40" {
		t.Errorf("a real-time signal is called %q", name)
	}
}
