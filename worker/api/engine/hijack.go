package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types"

	"github.com/boxbuild/boxbuild/executor"
)

// A takeover is a connection that is no longer HTTP's: what comes and goes is the streams of a process.
type takeover struct {
	net.Conn
	r      io.Reader // what HTTP had read already, and then the connection
	disown func()
}

// writeTimeout bounds the first line: after that a client may take its time.
const writeTimeout = 30 * time.Second

// takeOver makes the connection of a request one of streams. framed says that the streams come in frames.
func (s *Server) takeOver(c *call, framed bool) (*takeover, error) {
	upgrade := c.r.Header.Get("Upgrade") != ""
	conn, rw, err := c.w.Hijack()
	if err != nil {
		return nil, fmt.Errorf("taking the connection over: %w", err)
	}
	// The reader of HTTP is not read beyond what it has: for it the end of what the client sends is the end of the request.
	had := io.LimitReader(rw.Reader, int64(rw.Reader.Buffered()))
	t := &takeover{Conn: conn, r: io.MultiReader(had, conn), disown: s.own(conn)}
	kind := types.MediaTypeRawStream
	if framed && upgrade && !c.before(42) {
		kind = types.MediaTypeMultiplexedStream
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + kind + "\r\n"
	if upgrade {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + kind + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	for _, key := range []string{"Api-Version", "Ostype", "Server"} {
		head += key + ": " + c.w.Header().Get(key) + "\r\n"
	}
	err = conn.SetDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		_, err = io.WriteString(conn, head+"\r\n")
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = t.Close() // it is of no use
		return nil, fmt.Errorf("taking the connection over: %w", err)
	}
	return t, nil
}

// Read reads what the client sends.
func (t *takeover) Read(p []byte) (int, error) { return t.r.Read(p) }

// Close closes the connection. What was written is delivered.
func (t *takeover) Close() error {
	t.disown()
	return t.Conn.Close()
}

// lingering is how long a client may take to notice that all has been said, and to close the connection.
const lingering = 10 * time.Second

// finish says to the client that all has been said. The connection is not closed yet: what the client has sent and nobody
// has read would make it an error.
func (t *takeover) finish() {
	half, ok := t.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || t.SetReadDeadline(time.Now().Add(lingering)) != nil {
		_ = t.Conn.Close() // it may be gone
	}
}

// A leave is how a user at a terminal leaves a process to itself.
type leave struct {
	keys []byte // typed in a row; nil where there is no terminal to type them at
	left func() // called when they have been
}

// join copies between a client and the process that it is attached to, until the process has ended or the client has left:
// by closing the connection, or with the keys for that. It closes both. What a client has sent before it closed the
// connection still arrives, as soon as the process reads it.
func (s *Server) join(ctx context.Context, client io.ReadWriteCloser, att executor.Attachment, keys leave) {
	defer client.Close()
	finish := sync.OnceFunc(func() {
		_ = att.Close()
		if t, ok := client.(*takeover); ok {
			t.finish()
		} else {
			_ = client.Close() // it may be gone
		}
	})
	defer context.AfterFunc(ctx, func() {
		finish()
		_ = client.Close() // likewise
	})()
	var left atomic.Int32
	part := func() {
		if left.Add(1) == 2 {
			finish() // the client has gone, and has been heard
		}
	}
	gone := sync.OnceFunc(part)
	if t, ok := client.(*takeover); ok {
		defer s.hangups.watch(t.Conn, gone)()
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		var in io.Reader = client
		if keys.keys != nil {
			in = &keyReader{r: client, keys: keys.keys}
		}
		_, err := io.Copy(att, in)
		switch {
		case errors.Is(err, errDetached):
			keys.left()
			finish()
		case err == nil && keys.keys == nil:
			_ = att.CloseWrite() // the process may have ended
		}
		part()
		// At a terminal nobody's leaving ends the input of the process: the next one types on.
		// The client has closed its side, and still reads, or has gone. Or the process takes no more: what the client sends
		// is dropped, so that it is not held up.
		_, _ = io.Copy(io.Discard, client)
	})
	if _, err := io.Copy(client, att); err != nil {
		gone()
		_, _ = io.Copy(io.Discard, att) // until it has been heard, or the process has ended
	}
	finish() // whichever side has ended it, it is over
	reading.Wait()
}
