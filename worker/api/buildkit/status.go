package buildkit

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/progress"
)

// registerWait is how long Status waits for a build to begin: clients ask for it at the same time as for the build.
const registerWait = 6 * time.Second

// timestampHeader has the daemon's time, from which a client knows how its clock differs.
const timestampHeader = "buildkit-current-timestamp"

func sendTimestamp(stream grpc.ServerStream) error {
	return stream.SendHeader(metadata.Pairs(timestampHeader, time.Now().Format(time.RFC3339Nano)))
}

// Status implements the service: all that has happened in a build and all that will, up to its end.
func (s *Server) Status(req *controlapi.StatusRequest, stream controlapi.Control_StatusServer) error {
	return s.perform(stream.Context(), "Status", func(ctx context.Context) error {
		if err := sendTimestamp(stream); err != nil {
			return err
		}
		b := newBundler(stream.Send)
		err := s.opt.Watch(ctx, req.GetRef(), registerWait, b.event)
		if err = errors.Join(err, b.close(err == nil)); err == nil {
			return nil
		}
		if errors.Is(err, worker.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return errdefs.NewUnknownJobError(req.GetRef())
		}
		return err
	})
}

// maxBundle is how many bytes of output are sent in one message. Clients take 16 MiB.
const maxBundle = 1 << 20

// bundleTime is how long an event waits for others to share a message with. A client draws a few times a second.
const bundleTime = 20 * time.Millisecond

// A bundler puts events that come at the same time into one message. Its goroutine sends, so that who reports events waits
// for the client only when a message's worth is waiting.
type bundler struct {
	send  func(*controlapi.StatusResponse) error
	last  chan struct{} // closed when there will be no more events
	ended chan struct{} // closed when pump has returned

	mu      sync.Mutex // guards what follows
	more    *sync.Cond // pending has become less, or err set
	teller  *progress.Teller
	pending *controlapi.StatusResponse
	size    int
	wake    chan struct{} // has a token while there is something to send
	err     error         // of send
}

func newBundler(send func(*controlapi.StatusResponse) error) *bundler {
	b := &bundler{
		send: send, last: make(chan struct{}), ended: make(chan struct{}), teller: progress.New(), pending: &controlapi.StatusResponse{},
		wake: make(chan struct{}, 1),
	}
	b.more = sync.NewCond(&b.mu)
	go b.pump()
	return b
}

// event takes an event. The error is the client's.
func (b *bundler) event(ev solver.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.size >= maxBundle && b.err == nil {
		b.more.Wait()
	}
	if b.err != nil {
		return b.err
	}
	b.teller.Tell(b.pending, &ev)
	b.size += len(ev.Data) + len(ev.Warning.Text) + 64
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return nil
}

// pump sends until close.
func (b *bundler) pump() {
	defer close(b.ended)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for over := false; !over; {
		select {
		case <-b.wake:
		case <-b.last:
			over = true
		}
		b.mu.Lock()
		m := b.pending
		b.pending, b.size = &controlapi.StatusResponse{}, 0
		b.more.Broadcast()
		b.mu.Unlock()
		if err := b.flush(m); err != nil {
			b.mu.Lock()
			b.err = err
			b.more.Broadcast()
			b.mu.Unlock()
			return
		}
		pause.Reset(bundleTime)
		select {
		case <-pause.C:
		case <-b.last:
		}
	}
}

func (b *bundler) flush(m *controlapi.StatusResponse) error {
	if len(m.GetVertexes())+len(m.GetStatuses())+len(m.GetLogs())+len(m.GetWarnings()) == 0 {
		return nil
	}
	return b.send(m)
}

// close sends what is left, and, after the end of the build, what that means for vertices that have had none.
func (b *bundler) close(whole bool) error {
	b.mu.Lock()
	if whole {
		rest := b.teller.Rest(time.Now())
		b.pending.Vertexes = append(b.pending.Vertexes, rest.GetVertexes()...)
		b.pending.Statuses = append(b.pending.Statuses, rest.GetStatuses()...)
	}
	b.mu.Unlock()
	close(b.last)
	<-b.ended
	return b.err
}
