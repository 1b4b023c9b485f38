package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A sent is a channel to a daemon that takes what it is sent.
type sent struct {
	grpc.ClientStream
	ctx  context.Context //nolint:containedctx // the stream's
	data bytes.Buffer
	eof  bool
}

func (s *sent) Context() context.Context         { return s.ctx }
func (s *sent) Recv() (*boxbuildv1.Chunk, error) { return nil, io.EOF }

func (s *sent) Send(c *boxbuildv1.Chunk) error {
	s.eof = s.eof || c.GetEof()
	s.data.Write(c.GetData())
	return nil
}

// TestUpload checks that standard input arrives whole, with its end, and that nobody waits for it when the build is over.
func TestUpload(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef"), chunkSize/8)
	for _, want := range [][]byte{nil, text[:5], text[:chunkSize], text[:chunkSize+1]} {
		to := &sent{ctx: t.Context()}
		if err := (&buildStream{}).upload(to, bytes.NewReader(want)); err != nil || !to.eof || !bytes.Equal(to.data.Bytes(), want) {
			t.Errorf("%d bytes: got %d, end %t, %v", len(want), to.data.Len(), to.eof, err)
		}
	}
	r, w := io.Pipe() // to which nobody writes
	defer w.Close()
	over := errors.New("the build is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	if err := (&buildStream{}).upload(&sent{ctx: ctx}, r); !errors.Is(err, over) {
		t.Errorf("got %v, want %v", err, over)
	}
	broken := errors.New("broken")
	if err := (&buildStream{}).upload(&sent{ctx: t.Context()}, io.MultiReader(bytes.NewReader(text[:5]), brokenReader{broken})); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }
