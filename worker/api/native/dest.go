package native

import (
	"context"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A channelWriter is an output that the client receives. The channel is opened with the first byte, so that a build
// that fails before leaves nothing behind at the client. It is not safe for concurrent use.
type channelWriter struct {
	open   func() (*channel, error)
	ch     *channel
	closed bool
	err    error // of the first Close
}

func newChannelWriter(ctx context.Context, a *asker, c *channels, number int) *channelWriter {
	return &channelWriter{open: func() (*channel, error) {
		return openChannel(ctx, a, c, &boxbuildv1.ChannelQuestion{
			What: &boxbuildv1.ChannelQuestion_Output{Output: uint32(number)},
		})
	}}
}

// Write implements io.Writer.
func (w *channelWriter) Write(p []byte) (int, error) {
	if w.ch == nil {
		ch, err := w.open()
		if err != nil {
			return 0, err
		}
		w.ch = ch
	}
	return w.ch.Write(p)
}

// Close says that all is written, and waits until the client has stored it. It is idempotent.
func (w *channelWriter) Close() error {
	if !w.closed {
		w.closed = true
		w.err = w.finish()
	}
	return w.err
}

func (w *channelWriter) finish() error {
	if _, err := w.Write(nil); err != nil {
		return err
	}
	defer w.ch.Close()
	return w.ch.finish()
}

// abort ends a channel that was not closed: the client then keeps nothing of it.
func (w *channelWriter) abort() {
	if w.ch != nil {
		_ = w.ch.Close() // it only ends the call
	}
}
