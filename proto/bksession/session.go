package bksession

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/solver/session"
)

// A Session is one client that has opened a session. It is safe for concurrent use.
type Session struct {
	headers
	opt    Options
	conn   *watchedConn
	cc     *grpc.ClientConn
	ctx    context.Context //nolint:containedctx // the life of the session is what a Session stands for
	cancel context.CancelCauseFunc
	ready  chan struct{} // closed when the client has answered once, or has had the time to
}

var _ session.Session = (*Session)(nil)

// headers are what a client says of itself when it opens a session.
type headers struct {
	id, name  string
	sharedKey string
	methods   map[string]bool // in lower case
	health    time.Duration   // what it asks for; 0 for the daemon's
}

// Bounds on headers. Names are bounded since they are in errors.
const (
	maxID      = 256
	maxMethods = 10_000
)

func parseHeaders(md map[string][]string) (headers, error) {
	h := headers{methods: map[string]bool{}}
	for k, vs := range md {
		if len(vs) == 0 {
			continue
		}
		switch strings.ToLower(k) {
		case headerID:
			h.id = vs[0]
		case headerName:
			h.name = printable(vs[0], maxID)
		case headerSharedKey:
			h.sharedKey = vs[0]
		case headerMethod:
			if len(vs) > maxMethods {
				return h, errors.New("opening a session: the client offers too many methods")
			}
			for _, m := range vs {
				h.methods[strings.ToLower(m)] = true
			}
		case headerHealth:
			if ms, err := strconv.Atoi(vs[0]); err == nil && ms > 0 && ms < 1e9 {
				h.health = max(time.Duration(ms)*time.Millisecond, time.Second)
			}
		}
	}
	if h.id == "" || len(h.id) > maxID || printable(h.id, maxID) != h.id || strings.Contains(h.id, ":") {
		return h, errors.New("opening a session: the client has given it no ID that can be one")
	}
	return h, nil
}

// ID returns the session's ID, which the client has chosen.
func (s *Session) ID() string { return s.id }

// Name returns what the client calls the session; it may be empty.
func (s *Session) Name() string { return s.name }

// SharedKey returns what names the client's directories from one build to the next. It works like a password for what the
// daemon remembers of them, so it must not be shown.
func (s *Session) SharedKey() string { return s.sharedKey }

// Context returns a context that ends when the session does, with a *LostError as its cause.
func (s *Session) Context() context.Context { return s.ctx }

// Bind returns ctx, ended by the end of the session too, with the *LostError as its cause. The caller calls cancel.
func (s *Session) Bind(ctx context.Context) (bound context.Context, cancel context.CancelFunc) {
	bound, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { end(context.Cause(s.ctx)) })
	return bound, func() {
		stop()
		end(context.Canceled)
	}
}

// Has says whether the client offers a method, such as "/moby.filesync.v1.FileSync/DiffCopy".
func (s *Session) Has(method string) bool { return s.methods[strings.ToLower(method)] }

// need returns an *UnsupportedError unless the client offers the method.
func (s *Session) need(method string) error {
	if !s.Has(method) {
		return &UnsupportedError{ID: s.id, Method: method}
	}
	return nil
}

// Conn returns the gRPC connection, for services of the client's that this package does not know.
func (s *Session) Conn() grpc.ClientConnInterface { return s.cc }

// newSession makes the session and starts nothing: run does.
func newSession(ctx context.Context, conn net.Conn, h headers, opt Options) (*Session, error) {
	s := &Session{headers: h, opt: opt, ready: make(chan struct{})}
	if h.health > 0 {
		s.opt.Health = Health{Every: h.health, Timeout: h.health, Failures: 1}
	}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx)) // follow ends it with ctx
	s.conn = &watchedConn{Conn: conn, ended: func() { s.end(nil) }}
	var err error
	s.cc, err = dial(s.conn)
	return s, err
}

// end ends the session, if it has not ended, for the given reason; nil if the client has gone.
func (s *Session) end(why error) { s.cancel(&LostError{ID: s.id, Name: s.name, Why: why}) }

// follow ends the session when ctx ends, until stop is called. A call that ends without a reason has ended with its client.
func (s *Session) follow(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		why := context.Cause(ctx)
		if why == context.Canceled { //nolint:errorlint // bare, it is no reason
			why = nil
		}
		s.end(why)
	})
}

// run watches the session until it ends, and returns why. Everything that it started has ended then.
func (s *Session) run() error {
	var wg sync.WaitGroup
	wg.Go(s.greet)
	wg.Go(s.checkHealth)
	stop := context.AfterFunc(s.ctx, func() { // a client that takes no bytes must not hold up what ends the session
		_ = s.conn.Close()
	})
	s.cc.Connect()
	<-s.ctx.Done()
	stop()
	_ = s.conn.Close()
	_ = s.cc.Close()
	wg.Wait()
	return context.Cause(s.ctx)
}
