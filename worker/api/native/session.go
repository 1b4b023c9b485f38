package native

import (
	"context"
	"fmt"
	"io"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver/session"
)

// A client is the session of one build: each question goes to the client of its stream. It is safe for concurrent use.
// Nothing of a secret is kept.
type client struct {
	asker    *asker
	channels *channels
}

var _ session.Session = (*client)(nil)

// Secret implements session.Session.
func (c *client) Secret(ctx context.Context, id string) ([]byte, error) {
	ans, err := c.asker.ask(ctx, &boxbuildv1.Ask{Question: &boxbuildv1.Ask_Secret{
		Secret: &boxbuildv1.SecretQuestion{Id: id},
	}})
	if err != nil {
		return nil, fmt.Errorf("asking the client for secret %s: %w", id, err)
	}
	secret := ans.GetSecret()
	if !secret.GetFound() {
		return nil, &session.NotFoundError{Kind: "secret", ID: id}
	}
	if n := len(secret.GetData()); n > session.MaxSecret {
		return nil, fmt.Errorf("secret %s: %d bytes are more than the %d allowed", id, n, session.MaxSecret)
	}
	return secret.GetData(), nil
}

// CheckSSH implements session.Session.
func (c *client) CheckSSH(ctx context.Context, id string) error {
	ans, err := c.asker.ask(ctx, &boxbuildv1.Ask{Question: &boxbuildv1.Ask_Ssh{Ssh: &boxbuildv1.SSHQuestion{Id: id}}})
	if err != nil {
		return fmt.Errorf("asking the client for the SSH agent %s: %w", id, err)
	}
	if !ans.GetSsh().GetFound() {
		return &session.NotFoundError{Kind: "ssh", ID: id}
	}
	return nil
}

// DialSSH implements session.Session.
func (c *client) DialSSH(ctx context.Context, id string) (session.Conn, error) {
	ch, err := openChannel(ctx, c.asker, c.channels, &boxbuildv1.ChannelQuestion{
		What: &boxbuildv1.ChannelQuestion_Ssh{Ssh: id},
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to the SSH agent %s of the client: %w", id, err)
	}
	return &conn{channel: ch}, nil
}

// A conn is a channel as a connection. One goroutine may read while another one writes.
type conn struct {
	*channel
	rest  []byte
	ended bool
}

// Read implements io.Reader.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.ended {
			return 0, io.EOF
		}
		chunk, err := c.stream.Recv()
		switch {
		case err != nil:
			return 0, err
		case chunk.GetError() != nil:
			return 0, &boxbuildv1.Failure{Wire: chunk.GetError()}
		}
		c.ended = chunk.GetEof()
		c.rest = chunk.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// CloseWrite implements session.Conn.
func (c *conn) CloseWrite() error { return c.end() }
