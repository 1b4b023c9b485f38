package native

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/worker"
)

var _ worker.Uploads = (*sources)(nil)

// Upload implements worker.Uploads: it asks the client for a channel with the bytes.
func (s *sources) Upload(ctx context.Context, id string) (io.ReadCloser, error) {
	ch, err := openChannel(ctx, s.asker, &s.server.channels, &boxbuildv1.ChannelQuestion{
		What: &boxbuildv1.ChannelQuestion_Upload{Upload: id},
	})
	if err != nil {
		return nil, fmt.Errorf("asking the client for %s: %w", id, err)
	}
	if err := s.adopt(ch); err != nil {
		return nil, err
	}
	return &upload{channel: ch}, nil
}

// adopt has the channel closed when the build ends, which it may have already.
func (s *sources) adopt(ch *channel) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hungUp {
		_ = ch.Close() // it only ends the call
		return context.Canceled
	}
	s.channels = append(s.channels, ch)
	return nil
}

// An upload is what a client sends on a channel. It is whole only if the client says so at its end.
type upload struct {
	*channel
	rest  []byte
	ended bool
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		if u.ended {
			return 0, io.EOF
		}
		chunk, err := u.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case chunk.GetError() != nil:
			return 0, &boxbuildv1.Failure{Wire: chunk.GetError()}
		}
		u.ended = chunk.GetEof()
		u.rest = chunk.GetData()
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}
