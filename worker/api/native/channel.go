package native

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// chunkSize is how many bytes of a stream go into one message.
const chunkSize = 256 << 10

// channels joins those who wait for a channel with the calls that open one.
type channels struct {
	mu      sync.Mutex // guards waiting
	waiting map[string]chan *channel
}

// expect returns a new token and where the channel that is opened with it arrives. The caller must forget the token.
func (c *channels) expect() (string, <-chan *channel) {
	token := rand.Text()
	arrived := make(chan *channel, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = map[string]chan *channel{}
	}
	c.waiting[token] = arrived
	return token, arrived
}

func (c *channels) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, token)
}

// deliver hands ch to who waits for token; false if nobody does.
func (c *channels) deliver(token string, ch *channel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	arrived := c.waiting[token]
	if arrived == nil {
		return false
	}
	delete(c.waiting, token)
	arrived <- ch
	return true
}

// Channel implements the service: it stays until who asked for the channel closes it.
func (s *Server) Channel(stream boxbuildv1.Builds_ChannelServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ch := &channel{stream: stream, closed: make(chan struct{})}
	if !s.channels.deliver(first.GetOpen(), ch) {
		return failure(boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND, "nobody waits for this channel")
	}
	select {
	case <-ch.closed:
		return nil
	case <-stream.Context().Done():
		return context.Cause(stream.Context())
	}
}

// A channel is a stream of bytes to the client, whose end the client confirms; or one of messages each way.
type channel struct {
	stream boxbuildv1.Builds_ChannelServer
	once   sync.Once
	closed chan struct{}
}

// Write implements io.Writer.
func (c *channel) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n := min(chunkSize, len(p)-written)
		chunk := &boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Data{Data: p[written : written+n]}}
		if err := c.stream.Send(chunk); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// end says that all is written.
func (c *channel) end() error {
	return c.stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Eof{Eof: true}})
}

// verdict waits until the client has stored all that was written, or says why it cannot.
func (c *channel) verdict() error {
	for {
		chunk, err := c.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		case chunk.GetError() != nil:
			return &boxbuildv1.Failure{Wire: chunk.GetError()}
		case chunk.GetDone():
			return nil
		}
	}
}

// Close ends the channel. It is idempotent.
func (c *channel) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}
