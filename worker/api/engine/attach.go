package engine

import (
	"context"
	"net/http"

	"golang.org/x/net/websocket"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// attachOptions reads those of attach.
func attachOptions(c *call) worker.AttachOptions {
	return worker.AttachOptions{
		Streams: executor.Streams{Stdin: c.is("stdin"), Stdout: c.is("stdout"), Stderr: c.is("stderr")},
		Logs:    c.is("logs"), Stream: c.is("stream"),
	}
}

// An attaching is an attachment to a container with what is known of its streams.
type attaching struct {
	executor.Attachment
	tty  bool
	keys leave
}

// attachTo attaches to the container of the path.
func (s *Server) attachTo(ctx context.Context, c *call, opt worker.AttachOptions) (*attaching, error) {
	cs, err := s.containers()
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(c.get("detachKeys"))
	if err != nil {
		return nil, err
	}
	info, err := cs.Inspect(ctx, c.vars[0], false)
	if err != nil {
		return nil, err
	}
	a := &attaching{tty: info.Config.Tty}
	if a.tty {
		a.keys = leave{keys, func() { cs.Detached(info.ID, "") }}
	}
	// A container whose input is not open has none to attach to.
	opt.Stdin = opt.Stdin && info.Config.OpenStdin
	// By its ID, so that it is the one that was looked at.
	a.Attachment, err = cs.Attach(ctx, info.ID, opt)
	return a, err
}

// attach connects the client to a container over the connection itself.
func (s *Server) attach(ctx context.Context, c *call) error {
	a, err := s.attachTo(ctx, c, attachOptions(c))
	if err != nil {
		return err
	}
	conn, err := s.takeOver(c, !a.tty)
	if err != nil {
		_ = a.Close()
		return err
	}
	s.join(ctx, conn, a.Attachment, a.keys)
	return nil
}

// attachWebSocket does so over a WebSocket. What comes has no frames: who wants to tell the streams apart asks for one.
func (s *Server) attachWebSocket(ctx context.Context, c *call) error {
	opt := attachOptions(c)
	if c.before(42) {
		opt.Streams = executor.Streams{Stdin: true, Stdout: true, Stderr: true}
	}
	if c.r.Header.Get("Upgrade") == "" {
		return worker.Invalidf("the request does not ask for a WebSocket")
	}
	a, err := s.attachTo(ctx, c, opt)
	if err != nil {
		return err
	}
	att := a.Attachment
	if !a.tty {
		att = &unframed{Attachment: att}
	}
	websocket.Server{
		// Who the client is has been settled before: browsers with a page of somebody else's do not get here.
		Handshake: func(*websocket.Config, *http.Request) error { return nil },
		Handler: func(ws *websocket.Conn) {
			if !c.before(28) {
				ws.PayloadType = websocket.BinaryFrame
			}
			conn := &webStream{Conn: ws, disown: s.own(ws)}
			s.join(ctx, conn, att, a.keys)
		},
	}.ServeHTTP(c.w, c.r)
	return a.Close() // once more, if the handshake was not one
}

// A webStream is a WebSocket as a stream.
type webStream struct {
	*websocket.Conn
	disown func()
}

// Close implements io.Closer.
func (w *webStream) Close() error {
	w.disown()
	return w.Conn.Close()
}
