package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/proto/filesync"
)

// A receiver is the receiving side of one transfer in fsutil's protocol. One goroutine reads, whatever happens, so that a
// client that sends before it reads cannot block us both; another one sends what is to be asked for.
type receiver struct {
	stream  grpc.ClientStream
	in      *filesync.Intake
	pending map[uint32]*filesync.IncomingFile // asked for
	paths   []string                          // of the files, by ID
	listed  bool                              // there are no more stats
	fin     bool                              // we have all
	ended   bool                              // and the client knows it

	count func(total int64) // told of the bytes that have come; may be nil
	bytes int64

	wake chan struct{} // something is to be sent; buffered

	mu   sync.Mutex // guards the fields below
	ask  []uint32   // to be asked for
	done bool       // and then to say that we have all
}

// A streamError is one of the stream, whose meaning is the caller's to find out.
type streamError struct{ error }

func (e *streamError) Unwrap() error { return e.error }

// run makes the transfer. cancel ends the stream.
func (r *receiver) run(cancel context.CancelFunc) error {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { r.send(stop) })
	err := r.receive()
	if err != nil {
		cancel() // the client sees that nobody listens any more, and a send that waits for it returns
	}
	close(stop)
	wg.Wait()
	return err
}

// send sends what is to be asked for, until it has said that we have all. An error of the stream is one for the reader
// too, which reports it.
func (r *receiver) send(stop <-chan struct{}) {
	for {
		r.mu.Lock()
		ask, done := r.ask, r.done
		r.ask = nil
		r.mu.Unlock()
		for _, id := range ask {
			m := newPacket(packetReq, id, nil)
			if r.stream.SendMsg(&m) != nil {
				return
			}
		}
		if done {
			m := newPacket(packetFin, 0, nil)
			if r.stream.SendMsg(&m) == nil {
				_ = r.stream.CloseSend()
			}
			return
		}
		select {
		case <-r.wake:
		case <-stop:
			return
		}
	}
}

// tell hands the sending goroutine what is new.
func (r *receiver) tell(change func()) {
	r.mu.Lock()
	change()
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *receiver) receive() error {
	var m raw
	for {
		if err := r.stream.RecvMsg(&m); errors.Is(err, io.EOF) && r.fin {
			return nil
		} else if err != nil {
			return &streamError{err}
		}
		if r.bytes += int64(len(m)); r.count != nil {
			r.count(r.bytes)
		}
		p, err := parsePacket(m)
		if err == nil {
			err = r.packet(&p)
		}
		if err != nil {
			return err
		}
		if r.listed && !r.fin && len(r.pending) == 0 {
			r.fin = true
			r.tell(func() { r.done = true })
		}
	}
}

func (r *receiver) packet(p *packet) error {
	switch p.kind {
	case packetStat:
		if r.listed {
			return errors.New("the client lists files after the end of its list")
		}
		if !p.hasStat {
			r.listed = true
			r.doubt()
			return nil
		}
		return r.stat(p.stat)
	case packetData:
		return r.data(p)
	case packetFin:
		if !r.fin || r.ended {
			return errors.New("the client has ended the transfer before everything was there, or twice")
		}
		r.ended = true
		return nil
	case packetErr:
		return fmt.Errorf("the client says: %s", printable(string(p.data), maxErrorText))
	}
	return fmt.Errorf("the client has sent a message of kind %d, which is not its to send", p.kind)
}

func (r *receiver) stat(m []byte) error {
	e, hardlink, err := parseStat(m)
	if err != nil {
		return err
	}
	f, err := r.in.Add(&e, hardlink)
	if err != nil {
		return err
	}
	id := uint32(len(r.paths))
	r.paths = append(r.paths, e.Path)
	if f != nil {
		r.pending[id] = f
		r.tell(func() { r.ask = append(r.ask, id) })
	}
	return nil
}

// doubt asks for what may not be what it seems.
func (r *receiver) doubt() {
	files := r.in.Doubted()
	if len(files) == 0 {
		return
	}
	var ids []uint32
	for number, f := range files {
		id := uint32(number)
		r.pending[id] = f
		ids = append(ids, id)
	}
	slices.Sort(ids)
	r.tell(func() { r.ask = append(r.ask, ids...) })
}

func (r *receiver) data(p *packet) error {
	f := r.pending[p.id]
	if f == nil {
		if int64(p.id) < int64(len(r.paths)) {
			return fmt.Errorf("the client has sent data of %q, which has not been asked for", printable(r.paths[p.id], maxErrorText))
		}
		return fmt.Errorf("the client has sent data of file %d, which is not in its list", p.id)
	}
	if len(p.data) > 0 {
		_, err := f.Write(p.data)
		return err
	}
	delete(r.pending, p.id)
	return f.Close()
}
