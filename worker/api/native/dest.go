package native

import (
	"context"
	"errors"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A channelWriter is an output that the client receives. The channel is opened with the first byte, so that a build
// that fails before leaves nothing behind at the client. It is not safe for concurrent use.
type channelWriter struct {
	open    func() (*channel, error)
	ch      *channel
	verdict chan error // has what the client says of the output, once it does
	closed  bool
	err     error // of the first Close, or what the client said before it
}

func newChannelWriter(ctx context.Context, a *asker, c *channels, number int) *channelWriter {
	return &channelWriter{verdict: make(chan error, 1), open: func() (*channel, error) {
		ch, err := openChannel(ctx, a, c, &boxbuildv1.ChannelQuestion{
			What: &boxbuildv1.ChannelQuestion_Output{Output: uint32(number)},
		})
		if err == nil {
			// A client that takes nothing would hold a build up that was cancelled.
			context.AfterFunc(ctx, func() { _ = ch.Close() }) // it only ends the call
		}
		return ch, err
	}}
}

// Write implements io.Writer. It fails as soon as the client has said that it cannot store the output.
func (w *channelWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.ch == nil {
		if w.ch, w.err = w.open(); w.err != nil {
			w.ch = nil
			return 0, w.err
		}
		// It ends with the channel at the latest.
		go func() { w.verdict <- w.ch.verdict() }()
	}
	n, err := w.ch.Write(p)
	select {
	case said := <-w.verdict:
		if said == nil {
			said = errors.New("the client ended the output early")
		}
		w.err = said
		return n, w.err
	default:
	}
	if err != nil {
		// Why the channel broke is what the client said last, if it did.
		if said := <-w.verdict; said != nil {
			err = said
		}
		w.err = err
	}
	return n, err
}

// Close says that all is written, and waits until the client has stored it. It is idempotent.
func (w *channelWriter) Close() error {
	if !w.closed {
		_, err := w.Write(nil)
		w.closed = true
		if err == nil {
			defer w.ch.Close()
			if err = w.ch.end(); err == nil {
				err = <-w.verdict
			}
			w.err = err
		}
	}
	return w.err
}

// abort ends a channel that was not closed: the client then keeps nothing of it.
func (w *channelWriter) abort() {
	if w.ch != nil {
		_ = w.ch.Close() // it only ends the call
	}
}
