package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// A Stream joins streams of the user to a connection to a process.
type Stream struct {
	In       io.Reader // nil for none
	Out, Err io.Writer // nil for none
	TTY      bool      // what comes is as it is, and not in frames; the user's terminal is made raw
	Keys     []byte    // that detach, with a terminal
}

// Run copies until the output has ended, which is nil, the user has detached, which is ErrDetached, or ctx has ended.
// It closes conn.
func (s *Stream) Run(ctx context.Context, conn client.HijackedResponse) error {
	defer conn.Close()
	restore := func() {}
	in := s.In
	if in != nil && s.TTY {
		var err error
		if restore, err = makeRaw(in); err != nil {
			return fmt.Errorf("making the terminal raw: %w", err)
		}
	}
	restore = sync.OnceFunc(restore)
	defer restore()

	received := make(chan error, 1)
	go func() {
		err := s.receive(conn.Reader)
		restore() // what is printed from now on is this program's
		received <- err
	}()
	sent, stop := s.send(conn)
	defer func() {
		conn.Close() // which ends a write that nobody reads
		stop()
	}()
	for {
		select {
		case err := <-received:
			return err
		case err := <-sent:
			sent = nil
			switch {
			case errors.Is(err, ErrDetached):
				conn.Close()
				<-received
				return err
			case s.Out == nil && s.Err == nil:
				return nil
			}
			// Otherwise the process may have more to say; what was wrong with writing to it shows there.
		case <-ctx.Done():
			conn.Close()
			<-received
			return context.Cause(ctx)
		}
	}
}

// receive copies what the process says.
func (s *Stream) receive(r io.Reader) error {
	discard := func(w io.Writer) io.Writer {
		if w == nil {
			return io.Discard
		}
		return w
	}
	var err error
	if s.TTY {
		_, err = io.Copy(discard(s.Out), r)
	} else {
		_, err = stdcopy.StdCopy(discard(s.Out), discard(s.Err), r)
	}
	return err
}

// send copies the user's input in a goroutine, and then ends the process's. The channel has how that ended. stop ends it
// and waits, if the input can be waited for.
func (s *Stream) send(conn client.HijackedResponse) (sent <-chan error, stop func()) {
	done := make(chan error, 1)
	if s.In == nil {
		_ = conn.CloseWrite() // the process reads nothing; if it is gone that shows in its output
		return nil, func() {}
	}
	r, stop := s.In, func() {}
	if f, ok := s.In.(*os.File); ok {
		if in, err := newInput(f); err == nil {
			ended := make(chan struct{})
			r = &closing{in, func() { in.close(); close(ended) }}
			stop = func() { in.stop(); <-ended }
		}
	}
	src := r
	if s.TTY && len(s.Keys) > 0 {
		src = &escape{r: r, keys: s.Keys}
	}
	go func() {
		_, err := io.Copy(conn.Conn, src)
		if c, ok := r.(*closing); ok {
			c.end()
		}
		if !errors.Is(err, ErrDetached) {
			if cerr := conn.CloseWrite(); err == nil {
				err = cerr
			}
		}
		done <- err
	}()
	return done, stop
}

// A closing reader says when it is not read any more.
type closing struct {
	io.Reader
	end func()
}
