package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/buildkit/session/upload"
	"google.golang.org/grpc/metadata"
)

const (
	methodPull = "/moby.upload.v1.Upload/Pull"

	// UploadHost is the host of the URLs that name what a client sends, "http://buildkit-session/<id>".
	UploadHost = "buildkit-session"

	keyURLPath = "urlpath"
	keyURLHost = "urlhost"
)

// Upload returns what the client sends under http://buildkit-session/<id>, which clients let be had once. A read fails
// unless all has come. The caller closes it.
func (s *Session) Upload(ctx context.Context, id string) (io.ReadCloser, error) {
	if err := s.need(methodPull); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("receiving what the client sends as %q", printable(id, maxID))
	ctx, cancel := s.Bind(ctx)
	stream, err := upload.NewUploadClient(s.cc).Pull(metadata.AppendToOutgoingContext(ctx, keyURLPath, "/"+id, keyURLHost, UploadHost))
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		defer cancel()
		return nil, s.fail(ctx, what, err)
	}
	return &byteReader{s: s, ctx: ctx, cancel: cancel, what: what, recv: func() ([]byte, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	}}, nil
}

// A byteReader reads the bytes that come in messages.
type byteReader struct {
	s      *Session
	ctx    context.Context //nolint:containedctx // of the stream, for what its end means
	cancel context.CancelFunc
	what   string
	recv   func() ([]byte, error)
	left   []byte
	err    error
}

// Read implements io.Reader.
func (r *byteReader) Read(b []byte) (int, error) {
	for len(r.left) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		var err error
		if r.left, err = r.recv(); errors.Is(err, io.EOF) {
			r.err = io.EOF
		} else if err != nil {
			r.err = r.s.fail(r.ctx, r.what, err)
		}
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

// Close implements io.Closer.
func (r *byteReader) Close() error {
	r.cancel()
	return nil
}
