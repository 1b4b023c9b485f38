package wire

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

func pair(t *testing.T) (*Conn, *Conn) {
	t.Helper()
	a, f, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// A message arrives with its descriptors in order, close-on-exec, and one after the other, also when it is larger than
// the socket's buffer.
func TestSendRecv(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	big := bytes.Repeat([]byte("x"), 3<<20)
	sent := make(chan error, 1)
	go func() {
		err := a.Send(&Request{Op: Start, ID: 1, Spec: &executor.Spec{ID: "s", Hosts: big}}, []*os.File{w, r})
		sent <- errors.Join(err, a.Send(&Request{Op: Kill, ID: 2}, nil))
	}()
	var q Request
	files, err := b.Recv(&q)
	if err != nil || len(files) != 2 || q.ID != 1 || !bytes.Equal(q.Spec.Hosts, big) {
		t.Fatalf("got %v, %d files, %v", q.ID, len(files), err)
	}
	for _, f := range files {
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is inherited, %v", f.Fd(), err)
		}
	}
	if _, err := files[0].Write([]byte("y")); err != nil {
		t.Errorf("the first file is not the pipe's end for writing: %v", err)
	}
	CloseAll(files)
	q = Request{}
	if files, err = b.Recv(&q); err != nil || len(files) != 0 || q.Op != Kill || q.ID != 2 {
		t.Errorf("got %+v, %d files, %v", q, len(files), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	a.Close()
	if _, err := b.Recv(&q); !errors.Is(err, io.EOF) {
		t.Errorf("after the peer's end: %v, want io.EOF", err)
	}
}

// What is too large is refused by the sender, and the connection still works.
func TestLimits(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(&Request{Spec: &executor.Spec{Hosts: make([]byte, MaxBody)}}, nil); err == nil {
		t.Error("a large message was sent")
	}
	if err := a.Send(&Request{}, make([]*os.File, MaxFiles+1)); err == nil {
		t.Error("many descriptors were sent")
	}
	go func() { _ = a.Send(&Request{ID: 7}, nil) }()
	var q Request
	if _, err := b.Recv(&q); err != nil || q.ID != 7 {
		t.Errorf("got %+v, %v", q, err)
	}
}

// Whatever bytes come, Recv returns a message or an error.
func FuzzRecv(f *testing.F) {
	f.Add([]byte("bx\x01\x00\x00\x00\x00\x02{}"))
	f.Add([]byte("bx\x01\x05\x00\x00\x00\x02{}"))
	f.Add([]byte("bx\x02\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, child, err := Pair()
		if err != nil {
			t.Skip(err)
		}
		defer a.Close()
		b, err := FromFile(child)
		if err != nil {
			t.Skip(err)
		}
		defer b.Close()
		go func() {
			_, _ = a.c.Write(data)
			_ = a.c.CloseWrite()
		}()
		var q Request
		files, err := b.Recv(&q)
		if err == nil && (len(data) < headerLen || data[2] != Version || len(files) != int(data[3])) {
			t.Errorf("%q was taken for a message", data)
		}
	})
}

func TestPick(t *testing.T) {
	files := []*os.File{os.Stdin, os.Stdout}
	for i, want := range map[int]*os.File{-1: nil, 0: nil, 1: os.Stdin, 2: os.Stdout, 3: nil} {
		if got := Pick(files, i); got != want {
			t.Errorf("Pick(%d) is %v", i, got)
		}
	}
}
