package bksession

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bkfilesync "github.com/moby/buildkit/session/filesync"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A sink is the file that a client puts an output into.
type sink struct {
	strings.Builder
	md     map[string]string
	fail   error // of Write
	closed chan struct{}
}

func (s *sink) Write(b []byte) (int, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	return s.Builder.Write(b)
}

func (s *sink) Close() error {
	close(s.closed)
	return nil
}

func newSink() *sink { return &sink{closed: make(chan struct{})} }

// targets is what BuildKit's client offers of outputs: number 1 goes to k, number 2 is there already, number 3 is dir.
func targets(k *sink, dir string) *bkfilesync.SyncTarget {
	return bkfilesync.NewFSSyncTarget(
		bkfilesync.WithFSSync(1, func(md map[string]string) (io.WriteCloser, error) {
			k.md = md
			return k, nil
		}),
		bkfilesync.WithFSSync(2, func(map[string]string) (io.WriteCloser, error) { return nil, nil }),
		bkfilesync.WithFSSyncDir(3, dir), bkfilesync.WithFSSyncDirDelete(4, dir))
}

func TestSendStream(t *testing.T) {
	k := newSink()
	s, _ := open(t, New(patient(t)), "", targets(k, t.TempDir()))
	w, err := s.SendStream(t.Context(), 1, map[string]string{"containerimage.digest": "sha256:1", "name": "ünï"})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789", 500_000)
	for _, part := range []string{"", text[:1], text[1:4_000_000], text[4_000_000:]} {
		if n, err := io.WriteString(w, part); err != nil || n != len(part) {
			t.Fatalf("wrote %d of %d: %v", n, len(part), err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	<-k.closed
	if k.String() != text {
		t.Errorf("%d bytes have come of %d", k.Len(), len(text))
	}
	if k.md["containerimage.digest"] != "sha256:1" {
		t.Errorf("the client was told %v", k.md)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a stream that is closed could be written")
	}
}

// The client's errors arrive: of an output that it does not have or want, or that it cannot write.
func TestSendStreamRefused(t *testing.T) {
	k := newSink()
	k.fail = errors.New("the disk is full")
	s, _ := open(t, New(patient(t)), "", targets(k, t.TempDir()))
	for id, want := range map[int]string{0: "exporter 0 not found", 1: "the disk is full", 2: "already exists"} {
		w, err := s.SendStream(t.Context(), id, nil)
		for err == nil {
			_, err = w.Write(make([]byte, outputChunk))
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("output %d: error %v, want %s", id, err, want)
		}
		if w != nil {
			if err := w.Close(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("output %d: closing: %v, want %s", id, err, want)
			}
		}
	}
	none, _ := open(t, New(patient(t)), "")
	var unsupported *UnsupportedError
	if _, err := none.SendStream(t.Context(), 1, nil); !errors.As(err, &unsupported) {
		t.Errorf("error %v, want an *UnsupportedError", err)
	}
}

// A stream that ends with an error is not a whole one for the client, whose call ends with an error too.
func TestCloseWithError(t *testing.T) {
	ended := make(chan error, 1)
	s := scripted(t, New(patient(t)), methodSend, func(stream grpc.ServerStream) error {
		var m raw
		for {
			if err := stream.RecvMsg(&m); err != nil {
				ended <- err
				return err
			}
		}
	})
	w, err := s.SendStream(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.CloseWithError(errors.New("the export has failed")); err != nil {
		t.Error(err)
	}
	if err := <-ended; errors.Is(err, io.EOF) {
		t.Error("the client takes the stream for whole")
	}
	if _, err := w.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "the export has failed") {
		t.Errorf("error %v, want the reason", err)
	}
}

// read returns what a directory contains: modes, contents, links.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		text := fi.Mode().String()
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text += " " + string(b)
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			text += " " + to
		}
		out[rel] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What arrives in the client's directory is what the tree has, but for devices; the times are there, links are links.
func TestSendFiles(t *testing.T) {
	from, to := everything(t), t.TempDir()
	k := newSink()
	s, _ := open(t, New(patient(t)), "", targets(k, to))
	tr := here(t, from, filesync.Selection{})
	if err := s.SendFiles(t.Context(), 3, []Part{{Tree: tr, Name: "linux/amd64"}}); err != nil {
		t.Fatal(err)
	}
	want := read(t, from)
	maps.DeleteFunc(want, func(_, text string) bool { return strings.HasPrefix(text, "Dcr") })
	got := read(t, to)
	for p, text := range want {
		if got[p] != text {
			t.Errorf("%s: got %.100q, want %.100q", p, got[p], text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	var st [3]unix.Stat_t
	for i, p := range []string{"a", "b/hard", "zhard"} {
		if err := unix.Lstat(filepath.Join(to, p), &st[i]); err != nil {
			t.Fatal(err)
		}
	}
	if st[0].Ino != st[1].Ino || st[0].Ino != st[2].Ino {
		t.Error("names of one file are files of their own")
	}
	fi, err := os.Lstat(filepath.Join(to, "src/main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := tr.Lookup(t.Context(), "/src/main.go"); err != nil || !e.MTime.Equal(fi.ModTime()) {
		t.Errorf("time %s, want %s", fi.ModTime(), e.MTime)
	}
}

// Parts have directories of their own or are merged; in one transfer, so that what is not among them can be deleted.
func TestSendParts(t *testing.T) {
	a, b, to := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, a, map[string]string{"f": "a", "d/x": "1"})
	write(t, b, map[string]string{"g": "b", "d/y": "2"})
	write(t, to, map[string]string{"stale": "s", "linux_arm/stale": "s"})
	k := newSink()
	s, _ := open(t, New(patient(t)), "", targets(k, to))
	ta, tb := here(t, a, filesync.Selection{}), here(t, b, filesync.Selection{})
	epoch := time.Unix(1_600_000_000, 0)

	parts := []Part{{Tree: ta, Name: "amd64", Dir: "linux_amd64", Epoch: &epoch}, {Tree: tb, Name: "arm", Dir: "linux_arm"}}
	if err := s.SendFiles(t.Context(), 3, parts); err != nil {
		t.Fatal(err)
	}
	got := read(t, to)
	for _, p := range []string{"linux_amd64/f", "linux_amd64/d/x", "linux_arm/g", "linux_arm/d/y", "stale", "linux_arm/stale"} {
		if got[p] == "" {
			t.Errorf("%s is missing: %v", p, got)
		}
	}
	if fi, err := os.Stat(filepath.Join(to, "linux_amd64/d/x")); err != nil || !fi.ModTime().Equal(epoch) {
		t.Errorf("time %v, want %s (%v)", fi, epoch, err)
	}

	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	write(t, to, map[string]string{"stale": "s", "f": "old"})
	merged := []Part{{Tree: ta, Name: "amd64"}, {Tree: tb, Name: "arm"}}
	if err := s.SendFiles(t.Context(), 4, merged); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"d": "drwxr-xr-x", "d/x": "-rw-r--r-- 1", "d/y": "-rw-r--r-- 2", "f": "-rw-r--r-- a", "g": "-rw-r--r-- b"}
	if got := read(t, to); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}

	merged[1].Tree = ta
	if err := s.SendFiles(t.Context(), 3, merged); err == nil || !strings.Contains(err.Error(), "cannot overwrite f from amd64 with arm") {
		t.Errorf("error %v, want one about f", err)
	}
}

// A broken tree is one whose files cannot be read.
type broken struct{ treehash.Tree }

func (broken) Open(context.Context, string) (io.ReadCloser, error) {
	return nil, errors.New("the disk is broken")
}

// Errors of either side end the transfer on both.
func TestSendFilesFails(t *testing.T) {
	from := t.TempDir()
	write(t, from, map[string]string{"f": "text"})
	tr := here(t, from, filesync.Selection{})
	s, _ := open(t, New(patient(t)), "", targets(newSink(), t.TempDir()))
	if err := s.SendFiles(t.Context(), 3, []Part{{Tree: broken{tr}}}); err == nil || !strings.Contains(err.Error(), `reading "f": the disk is broken`) {
		t.Errorf("error %v, want that of the file", err)
	}
	if err := s.SendFiles(t.Context(), 9, []Part{{Tree: tr}}); err == nil || !strings.Contains(err.Error(), "exporter 9 not found") {
		t.Errorf("error %v, want the client's", err)
	}
	for _, tc := range []struct {
		name string
		play script
		want string
	}{
		{"not listed", says(newPacket(packetReq, 99, nil)), "file 99"},
		{"error", says(newPacket(packetErr, 0, []byte("no space left"))), "no space left"},
		{"leaves", func(grpc.ServerStream) error { return nil }, "ended the transfer"},
		{"twice", func(stream grpc.ServerStream) error {
			var m raw
			for range 2 { // the file and the end of the list
				if err := stream.RecvMsg(&m); err != nil {
					return err
				}
			}
			return says(newPacket(packetReq, 0, nil), newPacket(packetReq, 0, nil))(stream)
		}, "file 0"},
		{"a stat", says(stat("x", 0o644, 0, "")), "kind 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := scripted(t, New(patient(t)), methodSend, tc.play)
			err := s.SendFiles(t.Context(), 1, []Part{{Tree: tr}})
			if err == nil || !(strings.Contains(err.Error(), tc.want) || tc.name == "twice" && strings.Contains(err.Error(), "twice")) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

// A client that goes in the middle of an output ends it with the reason.
func TestSendLost(t *testing.T) {
	from := t.TempDir()
	write(t, from, map[string]string{"big": strings.Repeat("x", 64<<20)})
	tr := here(t, from, filesync.Selection{})
	m := New(patient(t))
	s := scripted(t, m, methodSend, func(stream grpc.ServerStream) error {
		ask := newPacket(packetReq, 0, nil)
		var msg raw
		for i := 0; ; i++ {
			if err := stream.RecvMsg(&msg); err != nil {
				return err
			}
			switch i {
			case 1:
				if err := stream.SendMsg(&ask); err != nil {
					return err
				}
			case 3: // the file has begun
				s, err := m.Get(context.Background(), "hostile")
				if err != nil {
					return err
				}
				s.end(nil)
			}
		}
	})
	var lost *LostError
	if err := s.SendFiles(t.Context(), 1, []Part{{Tree: tr}}); !errors.As(err, &lost) {
		t.Errorf("error %v, want a *LostError", err)
	}
}
