package bridge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// TestFeed checks that what is written is read in order, that much of it makes the writer wait until it is read, and that
// the end of the process and that of the stream both end the wait.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed()
		f.write(t.Context(), []byte("ab"), false)
		f.write(t.Context(), []byte("cd"), true)
		f.write(t.Context(), []byte("late"), false)
		if got, err := io.ReadAll(f); err != nil || string(got) != "abcd" {
			t.Errorf("got %q, %v", got, err)
		}
		f = newFeed()
		big := bytes.Repeat([]byte("x"), maxFeed+1)
		f.write(t.Context(), big, false)
		written := false
		go func() {
			f.write(t.Context(), []byte("y"), true)
			written = true
		}()
		synctest.Wait()
		if written {
			t.Error("there is no end to what is kept")
		}
		if got, err := io.ReadAll(f); err != nil || len(got) != len(big)+1 {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		for _, end := range []func(*feed, context.CancelFunc){
			func(f *feed, _ context.CancelFunc) { f.close() },
			func(_ *feed, cancel context.CancelFunc) { cancel() },
		} {
			f := newFeed()
			ctx, cancel := context.WithCancel(t.Context())
			f.write(ctx, big, false)
			done := make(chan struct{})
			go func() {
				f.write(ctx, []byte("y"), false)
				close(done)
			}()
			synctest.Wait()
			end(f, cancel)
			<-done
			cancel()
			f.close()
			if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("reading what is closed: %d, %v", n, err)
			}
		}
	})
}

// TestChunks checks that the parts are small enough, and together the whole.
func TestChunks(t *testing.T) {
	var got []string
	for c := range chunks([]byte("abcdefg"), 3) {
		got = append(got, string(c))
	}
	if !slices.Equal(got, []string{"abc", "def", "g"}) {
		t.Errorf("got %q", got)
	}
	for c := range chunks(nil, 3) {
		t.Errorf("got %q of nothing", c)
	}
}

// TestSignalNames checks that signals are known by their names, however these are written.
func TestSignalNames(t *testing.T) {
	for name, want := range map[string]int{"TERM": 15, "SIGKILL": 9, "winch": 28, "NONE": 0, "": 0} {
		if got, ok := signalByName(name); int(got) != want || ok != (want != 0) {
			t.Errorf("%q: got %d, %v, want %d", name, got, ok, want)
		}
	}
}

// TestTail checks that the end of what a program says is kept, and is in the error.
func TestTail(t *testing.T) {
	var s tail
	for range 100 {
		_, _ = s.Write([]byte(strings.Repeat("x", 1000)))
	}
	_, _ = s.Write([]byte("the end\n"))
	err := s.explain("f", 3, nil)
	if len(err.Error()) > maxTail+100 || !strings.HasSuffix(err.Error(), "xthe end") || !strings.Contains(err.Error(), "exit code: 3") {
		t.Errorf("got %d bytes: %.100q", len(err.Error()), err)
	}
}
