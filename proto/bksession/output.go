package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	methodSend = "/moby.filesync.v1.FileSend/DiffCopy"

	keyExporter       = "buildkit-attachable-exporter-id"
	keyExporterPrefix = "exporter-md-"
	keyManyPlatforms  = "buildkit-exporter-multi-platform"

	// outputChunk is how many bytes of an output are one message; clients take up to 4 MiB.
	outputChunk = 1 << 20
	// firstChunk is how many the first has: most outputs are smaller than a chunk.
	firstChunk = 64 << 10
	// outputHead is how many bytes a message has before those of the output, at most.
	outputHead = 8
)

// An OutputStream takes the bytes of one output. Exactly one of Close and CloseWithError has to be called.
type OutputStream interface {
	io.WriteCloser // Close returns when the client has it all and has closed its file
	// CloseWithError ends the stream without the client taking it for whole.
	CloseWithError(err error) error
}

// SendStream opens the output of that number (the place of the exporter in the request) for a stream of bytes: a tar. md
// is what the client is told of it, in BuildKit's names: of the exporter's response, such as "containerimage.digest". The
// output ends with ctx.
func (s *Session) SendStream(ctx context.Context, exporter int, md map[string]string) (OutputStream, error) {
	if err := s.need(methodSend); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("sending output %d to the client", exporter)
	ctx, cancel := s.Bind(ctx)
	out := metadata.Pairs(keyExporter, strconv.Itoa(exporter))
	for k, v := range md {
		out.Set(keyExporterPrefix+k, v)
	}
	stream, err := s.cc.NewStream(metadata.NewOutgoingContext(ctx, encodeMetadata(out)), &diffCopyDesc, methodSend)
	if err != nil {
		defer cancel()
		return nil, s.fail(ctx, what, err)
	}
	return &outputStream{s: s, ctx: ctx, cancel: cancel, what: what, stream: stream, chunk: firstChunk}, nil
}

type outputStream struct {
	s      *Session
	ctx    context.Context //nolint:containedctx // of the stream, for what its end means
	cancel context.CancelFunc
	what   string
	stream grpc.ClientStream
	buf    raw   // begins with outputHead bytes of room; nil if empty
	chunk  int   // how many bytes the next message has at most
	err    error // the first one
}

// Write implements io.Writer.
func (o *outputStream) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) && o.err == nil {
		if o.buf == nil {
			o.buf = make(raw, outputHead, outputHead+o.chunk)
		}
		part := b[n:min(len(b), n+cap(o.buf)-len(o.buf))]
		o.buf = append(o.buf, part...)
		n += len(part)
		if len(o.buf) == cap(o.buf) {
			o.flush()
		}
	}
	return n, o.err
}

// flush sends what is buffered. A buffer belongs to gRPC once it has been sent. What goes before the bytes is written into
// the room that was left for it, so that they are not copied.
func (o *outputStream) flush() {
	if o.err != nil || len(o.buf) <= outputHead {
		return
	}
	var room [outputHead]byte
	head := protowire.AppendTag(room[:0], 1, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(o.buf)-outputHead))
	m := o.buf[outputHead-len(head):]
	copy(m, head)
	o.buf, o.chunk = nil, outputChunk
	if err := o.stream.SendMsg(&m); err != nil {
		o.err = o.s.fail(o.ctx, o.what, reason(o.stream, err))
	}
}

// reason returns why a message could not be sent: SendMsg has io.EOF for whatever the other side has ended the stream with.
func reason(stream grpc.ClientStream, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	var m raw
	for err = nil; err == nil; {
		err = stream.RecvMsg(&m)
	}
	return err
}

// Close implements io.Closer.
func (o *outputStream) Close() error {
	defer o.cancel()
	o.flush()
	if o.err != nil {
		return o.err
	}
	if o.err = o.stream.CloseSend(); o.err == nil {
		var m raw
		if err := o.stream.RecvMsg(&m); !errors.Is(err, io.EOF) {
			if err == nil {
				err = errors.New("bytes where the end was due")
			}
			o.err = err
		}
	}
	if o.err != nil {
		o.err = o.s.fail(o.ctx, o.what, o.err)
		return o.err
	}
	o.err = io.ErrClosedPipe
	return nil
}

// CloseWithError implements OutputStream.
func (o *outputStream) CloseWithError(err error) error {
	if err == nil {
		return o.Close()
	}
	if o.err == nil {
		o.err = err
	}
	o.cancel()
	return nil
}
