package native

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/filesync"
)

// sources implements worker.Sources for one build. It is safe for concurrent use.
type sources struct {
	server *Server
	asker  *asker
	// trust is nil if the daemon may read the client's directories itself.
	trust       error
	directories map[string]*boxbuildv1.Directory

	mu       sync.Mutex // guards all below
	open     []filesync.Source
	channels []*channel
	hungUp   bool
}

// Directory implements worker.Sources. What it returns is closed at the end of the build, if not before.
func (s *sources) Directory(ctx context.Context, name string) (filesync.Source, error) {
	d := s.directories[name]
	if d == nil {
		return nil, usage("the client has no directory %q", name)
	}
	src, err := s.openDirectory(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("opening directory %s of the client: %w", d.GetPath(), err)
	}
	src = &closeOnce{Source: src, close: sync.OnceValue(src.Close)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, src)
	return src, nil
}

func (s *sources) openDirectory(ctx context.Context, d *boxbuildv1.Directory) (filesync.Source, error) {
	local := s.trust
	if local == nil {
		local = sameDirectory(d)
	}
	if local == nil {
		return s.server.opt.OpenDirectory(d.GetPath())
	}
	if s.server.opt.ReceiveDirectory == nil || boxbuildv1.KindOf(local) != boxbuildv1.ErrorKind_ERROR_KIND_DENIED {
		return nil, local
	}
	ch, err := openChannel(ctx, s.asker, &s.server.channels, &boxbuildv1.ChannelQuestion{
		What: &boxbuildv1.ChannelQuestion_Directory{Directory: d.GetName()},
	})
	if err != nil {
		return nil, err
	}
	if err := s.adopt(ch); err != nil {
		return nil, err
	}
	return s.server.opt.ReceiveDirectory(ctx, messages{ch})
}

// hangUp ends the channels, and so whatever waits for the client.
func (s *sources) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hungUp = true
	for _, ch := range s.channels {
		_ = ch.Close() // it only ends the call
	}
}

// messages is a channel as a stream of messages, a chunk each.
type messages struct{ ch *channel }

// Send implements filesync.Stream.
func (m messages) Send(msg []byte) error {
	return m.ch.stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Data{Data: msg}})
}

// Recv implements filesync.Stream.
func (m messages) Recv() ([]byte, error) {
	chunk, err := m.ch.stream.Recv()
	switch {
	case err != nil:
		return nil, err
	case chunk.GetError() != nil:
		return nil, &boxbuildv1.Failure{Wire: chunk.GetError()}
	case chunk.GetEof():
		return nil, io.EOF
	}
	return chunk.GetData(), nil
}

// close closes what the build left open.
func (s *sources) close() {
	s.hangUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.open {
		if err := src.Close(); err != nil {
			s.server.opt.Log.Warn("closing a client's directory", "error", err)
		}
	}
	s.open = nil
}

// closeOnce makes Close of a source idempotent.
type closeOnce struct {
	filesync.Source
	close func() error
}

// Close implements filesync.Source.
func (c *closeOnce) Close() error { return c.close() }

// openChannel asks the client for the channel that q describes, whose token it sets, and waits for it.
func openChannel(ctx context.Context, a *asker, c *channels, q *boxbuildv1.ChannelQuestion) (*channel, error) {
	token, arrived := c.expect()
	defer c.forget(token)
	q.Token = token
	ask := &boxbuildv1.Ask{Question: &boxbuildv1.Ask_Channel{Channel: q}}
	refused, err := a.post(ask)
	if err != nil {
		return nil, err
	}
	defer a.forget(ask.GetId())
	select {
	case ch := <-arrived:
		return ch, nil
	case ans, ok := <-refused:
		if !ok {
			return nil, a.over()
		}
		return nil, &boxbuildv1.Failure{Wire: ans.GetError()}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
