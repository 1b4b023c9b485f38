package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/buildkit/session/sshforward"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/solver/session"
)

const (
	methodCheckAgent   = "/moby.sshforward.v1.SSH/CheckAgent"
	methodForwardAgent = "/moby.sshforward.v1.SSH/ForwardAgent"

	keySSHID     = "buildkit.ssh.id"
	defaultAgent = "default"
)

// CheckSSH implements solver/session.Session. BuildKit's clients answer for an agent that they don't offer with an error
// without a code of its own, so that every answer but yes is a no.
func (s *Session) CheckSSH(ctx context.Context, id string) error {
	if id == "" {
		id = defaultAgent
	}
	if !s.Has(methodCheckAgent) || !s.Has(methodForwardAgent) {
		return &session.NotFoundError{Kind: "ssh", ID: id}
	}
	ctx, cancel := s.Bind(ctx)
	defer cancel()
	_, err := sshforward.NewSSHClient(s.cc).CheckAgent(ctx, &sshforward.CheckAgentRequest{ID: id})
	if err = s.fail(ctx, fmt.Sprintf("asking for the SSH agent %q", printable(id, maxID)), err); errors.As(err, new(*CallError)) {
		return &session.NotFoundError{Kind: "ssh", ID: id}
	}
	return err
}

// DialSSH implements solver/session.Session. The connection ends with ctx.
func (s *Session) DialSSH(ctx context.Context, id string) (session.Conn, error) {
	if id == "" {
		id = defaultAgent
	}
	if !s.Has(methodForwardAgent) {
		return nil, &session.NotFoundError{Kind: "ssh", ID: id}
	}
	ctx, cancel := s.Bind(ctx)
	stream, err := sshforward.NewSSHClient(s.cc).ForwardAgent(metadata.AppendToOutgoingContext(ctx, keySSHID, id))
	if err == nil {
		return &agentConn{s: s, ctx: ctx, cancel: cancel, stream: stream, id: id}, nil
	}
	defer cancel()
	if c := status.Code(err); c == codes.NotFound || c == codes.Unimplemented {
		return nil, &session.NotFoundError{Kind: "ssh", ID: id}
	}
	return nil, s.fail(ctx, fmt.Sprintf("connecting to the SSH agent %q", printable(id, maxID)), err)
}

// An agentConn is one connection to an agent: messages each way, whose limits mean nothing.
type agentConn struct {
	s      *Session
	ctx    context.Context //nolint:containedctx // of the stream, for what its end means
	cancel context.CancelFunc
	stream sshforward.SSH_ForwardAgentClient
	id     string
	left   []byte // received, not read yet

	sending sync.Mutex // held while a message is sent: guards done, and the order of messages
	done    bool
}

func (c *agentConn) what() string {
	return fmt.Sprintf("talking to the SSH agent %q", printable(c.id, maxID))
}

// Read implements io.Reader.
func (c *agentConn) Read(b []byte) (int, error) {
	for len(c.left) == 0 {
		m, err := c.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, c.s.fail(c.ctx, c.what(), err)
		}
		c.left = m.Data
	}
	n := copy(b, c.left)
	c.left = c.left[n:]
	return n, nil
}

// Write implements io.Writer.
func (c *agentConn) Write(b []byte) (int, error) {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.done {
		return 0, io.ErrClosedPipe
	}
	n := 0
	for n < len(b) {
		part := b[n:min(len(b), n+agentChunk)]
		if err := c.stream.Send(&sshforward.BytesMessage{Data: part}); err != nil {
			return n, c.s.fail(c.ctx, c.what(), err)
		}
		n += len(part)
	}
	return n, nil
}

// agentChunk is how much of what is written to an agent is one message.
const agentChunk = 32 << 10

// CloseWrite implements solver/session.Conn.
func (c *agentConn) CloseWrite() error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.done {
		return nil
	}
	c.done = true
	return c.stream.CloseSend()
}

// Close implements io.Closer. It is idempotent.
func (c *agentConn) Close() error {
	c.cancel()
	return nil
}
