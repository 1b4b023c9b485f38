package bksession

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/proto/filesync"
)

// A client that goes in the middle of a directory ends the transfer with the reason, and what has come is kept: the next
// one does not send it again.
func TestDirectoryLost(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, map[string]string{"a": "1", "z": strings.Repeat("x", 10<<20)})
	store, err := filesync.NewStore(filepath.Join(state, "store"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	m := New(Options{Store: store, Wait: DefaultWait})
	files := offer(t, dir)
	s, c := open(t, m, "key", provider(files))
	files.before = func(p string) {
		if p == "z" {
			c.gone()
		}
	}
	src, err := s.Directory(t.Context(), "context")
	if err != nil {
		t.Fatal(err)
	}
	var lost *LostError
	if _, err := src.Tree(t.Context(), filesync.Selection{}); !errors.As(err, &lost) || !strings.Contains(err.Error(), `"context"`) {
		t.Errorf("error %v, want a *LostError that names the directory", err)
	}
	if _, err := s.Directory(t.Context(), "context"); !errors.As(err, &lost) {
		t.Errorf("error %v, want a *LostError", err)
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	checkStore(t, state)
}

// The end of the build ends a transfer whose client does nothing, with the build's reason.
func TestDirectoryCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the build was cancelled")
	s := scripted(t, New(patient(t)), methodDiffCopy, func(stream grpc.ServerStream) error {
		cancel(reason)
		<-stream.Context().Done()
		return stream.Context().Err()
	})
	src, err := s.Directory(ctx, "context")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := src.Tree(ctx, filesync.Selection{}); !errors.Is(err, reason) {
		t.Errorf("error %v, want %v", err, reason)
	}
	if err := s.Context().Err(); err != nil {
		t.Errorf("the session has ended with the build: %v", err)
	}
}

// endless is a reader without an end, that does something after a while.
type endless struct {
	n     int
	after func()
}

func (e *endless) Read(b []byte) (int, error) {
	if e.n++; e.n == 3 {
		e.after()
	}
	return len(b), nil
}

// A client that goes while it is sent a blob, or a stream, ends that with the reason.
func TestOutputsLost(t *testing.T) {
	m := New(patient(t))
	var lost *LostError
	blobs := scripted(t, m, methodContentWrite, func(stream grpc.ServerStream) error {
		for at := uint64(0); ; {
			var m raw
			if err := stream.RecvMsg(&m); err != nil {
				return err
			}
			err := fields(m, func(field int, _ uint64, b []byte) error {
				if field == 6 { // data
					at += uint64(len(b))
				}
				return nil
			})
			if m = appendNumber(nil, 4, at); err == nil {
				err = stream.SendMsg(&m)
			}
			if err != nil {
				return err
			}
		}
	})
	desc := descOf([]byte("x"))
	desc.Size = 1 << 40
	err := blobs.ContentStore("export").Write(t.Context(), desc, &endless{after: func() { blobs.end(nil) }})
	if !errors.As(err, &lost) || !strings.Contains(err.Error(), desc.Digest.String()) {
		t.Errorf("error %v, want a *LostError that names the blob", err)
	}
	s, c := open(t, m, "", targets(newSink(), t.TempDir()))
	w, err := s.SendStream(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, &endless{after: c.gone}); !errors.As(err, &lost) || !strings.Contains(err.Error(), "output 1") {
		t.Errorf("error %v, want a *LostError that names the output", err)
	}
	if err := w.Close(); !errors.As(err, &lost) {
		t.Errorf("closing: error %v, want a *LostError", err)
	}
}

// FuzzSession has a client send any bytes instead of HTTP/2: the session ends when it does, and nothing is left.
func FuzzSession(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))                                             // SETTINGS
	f.Add([]byte("\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))             // GOAWAY
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678")) // and PING
	m := New(Options{})
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- m.Serve(t.Context(), ours, headersOf("fuzzed", methodSecret)) }()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, theirs)
		}()
		_, _ = theirs.Write(b)
		_ = theirs.Close()
		<-served
		<-drained
		if n := m.Sessions(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}
