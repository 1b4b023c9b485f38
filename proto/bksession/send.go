package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A Part is a tree of an output of files; exporter/local.Part has the same fields.
type Part struct {
	Dir  string // where in the output it goes: "" for the root, or one name such as "linux_amd64"
	Tree treehash.Tree
	// Name is what messages call it: a platform. Parts of several names may have the same Dir if they have no file in
	// common; of parts of one name the later one's files count.
	Name  string
	Epoch *time.Time // the modification time that everything gets, if set
}

// sendWorkers is how many files are read at once for a client.
const sendWorkers = 4

// SendFiles sends the output of that number as files, all parts in one transfer, so that a client that mirrors them
// (mode=delete) knows what is not among them. The client asks for the files that it lacks. Sockets and devices are left
// out: a directory of a user's is no place for device nodes.
func (s *Session) SendFiles(ctx context.Context, exporter int, parts []Part) error {
	if err := s.need(methodSend); err != nil {
		return err
	}
	what := fmt.Sprintf("sending output %d to the client", exporter)
	bound, cancel := s.Bind(ctx)
	defer cancel()
	md := metadata.Pairs(keyExporter, strconv.Itoa(exporter), keyManyPlatforms, "1")
	stream, err := s.cc.NewStream(metadata.NewOutgoingContext(bound, md), &diffCopyDesc, methodSend)
	if err != nil {
		return s.fail(ctx, what, err)
	}
	snd := &sender{stream: stream, count: filesync.Counter(ctx), work: make(chan uint32, sendWorkers)}
	err = snd.run(bound, cancel, parts)
	var remote *streamError
	if errors.As(err, &remote) {
		return s.fail(ctx, what, remote.error)
	}
	if err != nil {
		return fmt.Errorf("%s (session %s): %w", what, s.id, err)
	}
	return nil
}

// A sender is the sending side of one transfer in fsutil's protocol.
type sender struct {
	stream grpc.ClientStream
	work   chan uint32 // files that are asked for

	sending sync.Mutex        // held while a message is sent; guards sent
	sent    int64             // bytes
	count   func(total int64) // told of them; may be nil

	mu     sync.Mutex // guards the fields below
	files  []outgoing // by ID
	queued []uint32   // asked for, and not in work yet
	wake   chan struct{}
}

// An outgoing file is one that has been listed. Its tree is nil for what is no regular file, and once it has been asked
// for.
type outgoing struct {
	tree treehash.Tree
	path string
	to   string
}

// run makes the transfer. Four parties: one walks, one reads what is asked for, one hands that to those who read files.
// The first error ends all; cancel ends the stream, on which they may wait.
func (s *sender) run(ctx context.Context, cancel context.CancelFunc, parts []Part) error {
	s.wake = make(chan struct{}, 1)
	g, gctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(gctx, cancel)()
	end := make(chan struct{})
	g.Go(func() error {
		err := s.list(gctx, parts)
		if errors.Is(err, errEnded) {
			return nil
		}
		if err != nil {
			_ = s.send(newPacket(packetErr, 0, []byte(err.Error())))
		}
		return err
	})
	g.Go(func() error {
		defer close(end)
		return s.answer()
	})
	g.Go(func() error { return s.schedule(gctx, end) })
	for range sendWorkers {
		g.Go(func() error {
			for id := range s.work {
				if err := s.file(gctx, id); err != nil && !errors.Is(err, errEnded) {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// errEnded says that the client has ended the stream. Why it has is what answer reads, so nobody else reports it.
var errEnded = errors.New("the client has ended the stream")

// send sends one message, which is gRPC's from then on.
func (s *sender) send(m raw) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.sent += int64(len(m)); s.count != nil {
		s.count(s.sent)
	}
	err := s.stream.SendMsg(&m)
	switch {
	case errors.Is(err, io.EOF):
		return errEnded
	case err != nil:
		return &streamError{err}
	}
	return nil
}

// list sends what there is.
func (s *sender) list(ctx context.Context, parts []Part) error {
	w := &outWalk{first: map[hardName]string{}, emit: func(e *treehash.Entry, to, link string, p *Part) error {
		o := outgoing{to: to}
		if e.IsRegular() {
			o.tree, o.path = p.Tree, e.Path
		}
		s.mu.Lock()
		s.files = append(s.files, o)
		s.mu.Unlock()
		return s.send(statPacket(e, to, link, p.Epoch))
	}}
	if err := w.parts(ctx, parts); err != nil {
		return err
	}
	return s.send(raw{}) // a stat is what a message without a type is, and this one has none
}

// answer reads what the client wants until it has all, and then waits for it to be done.
func (s *sender) answer() error {
	var m raw
	for {
		if err := s.stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the client has ended the transfer before it had everything")
			}
			return &streamError{err}
		}
		p, err := parsePacket(m)
		if err != nil {
			return err
		}
		switch p.kind {
		case packetReq:
			if err := s.queue(p.id); err != nil {
				return err
			}
		case packetFin:
			return s.finish()
		case packetErr:
			return fmt.Errorf("the client says: %s", printable(string(p.data), maxErrorText))
		default:
			return fmt.Errorf("the client has sent a message of kind %d, which is not its to send", p.kind)
		}
	}
}

// finish ends the transfer from our side, and waits until the client has.
func (s *sender) finish() error {
	if err := s.send(newPacket(packetFin, 0, nil)); err != nil && !errors.Is(err, errEnded) {
		return err
	}
	s.sending.Lock()
	err := s.stream.CloseSend()
	s.sending.Unlock()
	var m raw
	if err == nil {
		err = s.stream.RecvMsg(&m)
	}
	switch {
	case err == nil:
		return errors.New("the client goes on after the end")
	case !errors.Is(err, io.EOF):
		return &streamError{err}
	}
	return nil
}

func (s *sender) queue(id uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(id) >= int64(len(s.files)) || s.files[id].tree == nil || s.files[id].path == "" {
		return fmt.Errorf("the client asks for file %d, which is not one that it can ask for", id)
	}
	s.queued = append(s.queued, id)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// schedule hands out what is asked for, until end.
func (s *sender) schedule(ctx context.Context, end <-chan struct{}) error {
	defer close(s.work)
	for {
		s.mu.Lock()
		queued := s.queued
		s.queued = nil
		s.mu.Unlock()
		for _, id := range queued {
			select {
			case s.work <- id:
			case <-ctx.Done():
				return nil // whoever failed says why
			}
		}
		select {
		case <-s.wake:
		case <-end:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// file sends the content of a file. Each can be had once.
func (s *sender) file(ctx context.Context, id uint32) error {
	s.mu.Lock()
	f := s.files[id]
	s.files[id].path = ""
	s.mu.Unlock()
	if f.path == "" {
		return fmt.Errorf("the client asks for %q twice", f.to)
	}
	r, err := f.tree.Open(ctx, f.path)
	if err != nil {
		return fmt.Errorf("reading %q: %w", f.to, err)
	}
	defer r.Close()
	for {
		m, err := dataPacket(id, r)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading %q: %w", f.to, err)
		}
		if m != nil {
			if err := s.send(m); err != nil {
				return err
			}
		}
		if err != nil {
			return s.send(newPacket(packetData, id, nil))
		}
	}
}
