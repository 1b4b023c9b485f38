package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	methodContentInfo  = "/containerd.services.content.v1.Content/Info"
	methodContentRead  = "/containerd.services.content.v1.Content/Read"
	methodContentWrite = "/containerd.services.content.v1.Content/Write"

	// keyStore is the header that says which store of the client's a request is for.
	keyStore = "buildkit-attachable-store-id"

	// contentChunk is how many bytes of a blob are one message; clients take up to 4 MiB.
	contentChunk = 2 << 20
)

// A ContentStore is one of the content stores that a client offers: "export" for an OCI layout that it has written,
// "oci:<name>" for one that it lets be read, "local:<directory>" for a cache. It is safe for concurrent use.
type ContentStore struct {
	s      *Session
	id     string
	client contentapi.ContentClient
}

// ContentStore returns the client's store of that ID. Whether there is one the first call says.
func (s *Session) ContentStore(id string) *ContentStore {
	return &ContentStore{s: s, id: id, client: contentapi.NewContentClient(s.cc)}
}

// begin prepares a call.
func (c *ContentStore) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := c.s.Bind(ctx)
	return metadata.NewOutgoingContext(ctx, encodeMetadata(metadata.Pairs(keyStore, c.id))), cancel
}

// notFoundError is fs.ErrNotExist in the client's words.
type notFoundError struct{ error }

func (e notFoundError) Is(target error) bool { return target == fs.ErrNotExist }
func (e notFoundError) Unwrap() error        { return e.error }

func (c *ContentStore) fail(ctx context.Context, verb string, d digest.Digest, err error) error {
	if err == nil {
		return nil
	}
	code := status.Code(err)
	err = c.s.fail(ctx, fmt.Sprintf("%s %s in the client's store %q", verb, d, printable(c.id, maxID)), err)
	if code == codes.NotFound {
		return notFoundError{err}
	}
	return err
}

// Size returns how many bytes a blob has. The error is fs.ErrNotExist if the store does not have it, or if there is no
// such store.
func (c *ContentStore) Size(ctx context.Context, d digest.Digest) (int64, error) {
	if err := c.s.need(methodContentInfo); err != nil {
		return 0, err
	}
	ctx, cancel := c.begin(ctx)
	defer cancel()
	resp, err := c.client.Info(ctx, &contentapi.InfoRequest{Digest: d.String()})
	if err != nil {
		return 0, c.fail(ctx, "looking for", d, err)
	}
	if resp.Info == nil || resp.Info.Size < 0 {
		return 0, fmt.Errorf("looking for %s in the client's store %q: the answer has no size", d, printable(c.id, maxID))
	}
	return resp.Info.Size, nil
}

// Open returns a blob, whose digest and size are checked when it has been read to its end: only a reader that has seen
// io.EOF has seen what was asked for. The caller closes it. The error is fs.ErrNotExist if the store does not have it.
func (c *ContentStore) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("reading %s from the client: %w", printable(string(desc.Digest), 100), err)
	}
	size, err := c.Size(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	if desc.Size > 0 && desc.Size != size {
		return nil, fmt.Errorf("reading %s in the client's store %q: it has %d bytes instead of %d", desc.Digest, printable(c.id, maxID), size, desc.Size)
	}
	return c.read(ctx, desc.Digest, size)
}

func (c *ContentStore) read(ctx context.Context, d digest.Digest, size int64) (io.ReadCloser, error) {
	if err := c.s.need(methodContentRead); err != nil {
		return nil, err
	}
	ctx, cancel := c.begin(ctx)
	stream, err := c.client.Read(ctx, &contentapi.ReadContentRequest{Digest: d.String()})
	if err != nil {
		defer cancel()
		return nil, c.fail(ctx, "reading", d, err)
	}
	what := fmt.Sprintf("reading %s in the client's store %q", d, printable(c.id, maxID))
	r := &byteReader{s: c.s, ctx: ctx, cancel: cancel, what: what, recv: func() ([]byte, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	}}
	return &verifiedReader{r: r, what: what, size: size, sum: d.Verifier()}, nil
}

// A verifiedReader makes the end of a blob that is not the right one an error.
type verifiedReader struct {
	r    io.ReadCloser
	what string
	size int64 // bytes that are still due
	sum  digest.Verifier
}

func (v *verifiedReader) Read(b []byte) (int, error) {
	n, err := v.r.Read(b)
	v.size -= int64(n)
	_, _ = v.sum.Write(b[:n]) // a hash takes everything
	switch {
	case v.size < 0:
		return 0, fmt.Errorf("%s: there are more bytes than there should be", v.what)
	case errors.Is(err, io.EOF) && (v.size != 0 || !v.sum.Verified()):
		return n, fmt.Errorf("%s: the bytes are not those of this digest", v.what)
	}
	return n, err
}

func (v *verifiedReader) Close() error { return v.r.Close() }

// ReadAt reads bytes of a blob from an offset, as many as p has unless the blob ends before; then the error is io.EOF.
// What it returns is not verified.
func (c *ContentStore) ReadAt(ctx context.Context, d digest.Digest, p []byte, off int64) (int, error) {
	if err := c.s.need(methodContentRead); err != nil {
		return 0, err
	}
	ctx, cancel := c.begin(ctx)
	defer cancel()
	stream, err := c.client.Read(ctx, &contentapi.ReadContentRequest{Digest: d.String(), Offset: off, Size: int64(len(p))})
	n := 0
	for err == nil && n < len(p) {
		var m *contentapi.ReadContentResponse
		if m, err = stream.Recv(); err == nil {
			n += copy(p[n:], m.Data)
		}
	}
	if n == len(p) {
		return n, nil
	}
	if errors.Is(err, io.EOF) || status.Code(err) == codes.OutOfRange {
		return n, io.EOF
	}
	return n, c.fail(ctx, "reading", d, err)
}

// Write stores a blob, whose digest and size the client checks. One that is there already is not written again, and r is
// then not read to its end.
func (c *ContentStore) Write(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := c.s.need(methodContentWrite); err != nil {
		return err
	}
	ctx, cancel := c.begin(ctx)
	defer cancel()
	// Two writers of one reference are in each other's way, so each has its own.
	ref := fmt.Sprintf("boxbuild-%s-%d", desc.Digest, writes.Add(1))
	stream, err := c.client.Write(ctx)
	if err != nil {
		return c.fail(ctx, "writing", desc.Digest, err)
	}
	if err = writeContent(stream, ref, desc, r); status.Code(err) == codes.AlreadyExists {
		return nil
	}
	if err != nil && ctx.Err() == nil {
		c.abort(ctx, stream, ref)
	}
	var local *readError
	if errors.As(err, &local) {
		return local.error
	}
	return c.fail(ctx, "writing", desc.Digest, err)
}

// writes counts the writes of this process.
var writes atomic.Int64

// abort removes what a write has left in the client's store: the directory of an OCI layout is a user's. A client that
// does not want to is let be.
func (c *ContentStore) abort(ctx context.Context, stream contentapi.Content_WriteClient, ref string) {
	err := stream.CloseSend()
	for err == nil { // until the client has let go of it
		_, err = stream.Recv()
	}
	_, _ = c.client.Abort(ctx, &contentapi.AbortRequest{Ref: ref})
}

// A readError is one of what is written, not of the client's.
type readError struct{ error }

// writeContent makes the conversation of a write: each message has an answer, which says how far the client has got.
func writeContent(stream contentapi.Content_WriteClient, ref string, desc ocispec.Descriptor, r io.Reader) error {
	ask := func(m *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) { // whose reason Recv has
			return nil, err
		}
		return stream.Recv()
	}
	_, err := ask(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_STAT, Ref: ref, Total: desc.Size, Expected: desc.Digest.String(),
	})
	if err != nil {
		return err
	}
	at := int64(0)
	buf := make([]byte, min(contentChunk, max(desc.Size, 512)))
	for {
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return &readError{err}
		}
		if n == 0 {
			break
		}
		resp, err := ask(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Offset: at, Data: buf[:n]})
		if err != nil {
			return err
		}
		if at += int64(n); resp.Offset != at {
			return fmt.Errorf("the client has taken %d bytes of %d", resp.Offset, at)
		}
	}
	if at != desc.Size {
		return &readError{fmt.Errorf("writing %s: it has %d bytes instead of %d", desc.Digest, at, desc.Size)}
	}
	_, err = ask(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_COMMIT, Total: desc.Size, Offset: at, Expected: desc.Digest.String(),
	})
	return err
}
