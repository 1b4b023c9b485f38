package telemetry

import (
	"context"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// forwardBytes bounds, in bytes as they came, what waits to be sent on. A client sends its spans once a build.
const forwardBytes = 8 << 20

// A forwarder sends on what clients send of their own part of a trace, without which the collector would not have the
// parents of the daemon's spans. A client is never held up by a collector that is slow, or gone: what is too much is dropped.
//
// Life cycle: newForwarder, add, close, which sends what waits.
type forwarder struct {
	client otlptrace.Client
	log    *slog.Logger
	cancel context.CancelFunc // of the sending
	more   chan struct{}      // has a token when something waits, or closed was set
	done   chan struct{}      // closed when nothing is sent any more

	mu      sync.Mutex // guards what follows
	waiting []*tracepb.ResourceSpans
	bytes   int // of them
	closed  bool
}

func newForwarder(ctx context.Context, client otlptrace.Client, log *slog.Logger) *forwarder {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // what waits at the daemon's end is for close to end
	f := &forwarder{client: client, log: log, cancel: cancel, more: make(chan struct{}, 1), done: make(chan struct{})}
	go f.run(ctx)
	return f
}

// add has the spans of a client sent on, which are not changed any more.
func (f *forwarder) add(req *tracev1.ExportTraceServiceRequest) {
	size := proto.Size(req)
	f.mu.Lock()
	fits := !f.closed && f.bytes+size <= forwardBytes
	if fits {
		f.waiting = append(f.waiting, req.GetResourceSpans()...)
		f.bytes += size
	}
	f.mu.Unlock()
	if !fits {
		f.log.Warn("dropping spans of a client: too many wait to be sent", "bytes", size)
		return
	}
	f.wake()
}

func (f *forwarder) wake() {
	select {
	case f.more <- struct{}{}:
	default: // it will look anyway
	}
}

func (f *forwarder) run(ctx context.Context) {
	defer close(f.done)
	for range f.more {
		f.mu.Lock()
		spans, closed := f.waiting, f.closed
		f.waiting, f.bytes = nil, 0
		f.mu.Unlock()
		if len(spans) > 0 {
			if err := f.client.UploadTraces(ctx, spans); err != nil {
				f.log.Warn("sending traces of clients", "error", err)
			}
		}
		if closed {
			return
		}
	}
}

// close sends what waits, for as long as ctx lasts. The client is usable until it is back.
func (f *forwarder) close(ctx context.Context) {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.wake()
	stop := context.AfterFunc(ctx, f.cancel)
	<-f.done
	stop()
	f.cancel()
}
