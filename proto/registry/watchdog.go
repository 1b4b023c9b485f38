package registry

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// errStalled is the cause of a request that was given up since nothing moved.
var errStalled = errors.New("the connection stalled")

// A watchdog cancels a request when the other side keeps it waiting for too long. Time that we take ourselves, between
// two reads of an answer or in making a request's body, does not count: a slow disk is no broken connection.
type watchdog struct {
	limit   time.Duration
	timer   *time.Timer
	stalled atomic.Bool
	cancel  context.CancelFunc
}

// watch returns the context to make the request with, and its watchdog, which waits for the first call of within.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	inner, cancel := context.WithCancel(ctx)
	w := &watchdog{limit: limit, cancel: cancel}
	w.timer = time.AfterFunc(limit, func() {
		w.stalled.Store(true)
		cancel()
	})
	w.timer.Stop()
	return inner, w
}

// within gives the other side this long from now.
func (w *watchdog) within(d time.Duration) { w.timer.Reset(d) }

// pause stops the clock.
func (w *watchdog) pause() { w.timer.Stop() }

// end releases what the watchdog holds. It ends the request, too.
func (w *watchdog) end() {
	w.timer.Stop()
	w.cancel()
}

// A receivedBody is the body of an answer: the clock runs during each Read. Close ends the watchdog.
type receivedBody struct {
	io.ReadCloser
	dog *watchdog
}

func (b *receivedBody) Read(p []byte) (int, error) {
	b.dog.within(b.dog.limit)
	n, err := b.ReadCloser.Read(p)
	b.dog.pause()
	if err != nil && !errors.Is(err, io.EOF) && b.dog.stalled.Load() {
		err = errStalled
	}
	return n, err
}

func (b *receivedBody) Close() error {
	err := b.ReadCloser.Close()
	b.dog.end()
	return err
}

// A sentBody is the body of a request: the clock runs between the Reads, while what was read goes out, and after the
// last one, when the server may take up to patience.
type sentBody struct {
	io.ReadCloser
	dog      *watchdog
	patience time.Duration
	closed   func() // idempotent
}

func (b *sentBody) Close() error {
	defer b.closed()
	return b.ReadCloser.Close()
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.dog.pause()
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.dog.within(max(b.dog.limit, b.patience))
	} else {
		b.dog.within(b.dog.limit)
	}
	return n, err
}
