package engine

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"

	"github.com/containerd/errdefs"

	"github.com/boxbuild/boxbuild/worker"
)

// A call is one request.
type call struct {
	w       *answer
	r       *http.Request
	version version
	vars    []string // what stands in the path, in order
	form    url.Values
}

// before says whether the client speaks an older version than 1.minor.
func (c *call) before(minor int) bool { return c.version.less(version{1, minor}) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Server", "boxbuild/"+s.opt.Version+" ("+s.opt.Platform.OS+")")
	h.Set("Api-Version", current.String())
	h.Set("Ostype", s.opt.Platform.OS)
	c := &call{w: &answer{ResponseWriter: w}, r: r}
	ctx, end, ok := s.begin(r.Context())
	if !ok {
		c.fail(worker.ErrDraining)
		return
	}
	defer end()
	defer s.recovered(c)
	if err := s.answer(ctx, c); err != nil {
		s.opt.Log.Debug("answering", "method", r.Method, "path", r.URL.Path, "error", err)
		c.fail(err)
	}
}

// answer finds the endpoint and calls it.
func (s *Server) answer(ctx context.Context, c *call) error {
	v, path, ok := splitVersion(c.r.URL.Path)
	if !ok {
		return errNoPage
	}
	if c.r.Method == http.MethodOptions {
		return nil
	}
	do, vars := find(c.r.Method, path)
	if do == nil {
		return errNoPage
	}
	if err := s.check(v); err != nil {
		return err
	}
	if s.opt.Authorize != nil {
		if err := s.opt.Authorize(c.r); err != nil {
			return err
		}
	}
	c.version, c.vars = v, vars
	if err := c.parseForm(); err != nil {
		return err
	}
	return do(s, ctx, c)
}

// errNoPage is docker's answer at paths, and to methods, that there are not.
var errNoPage = worker.NotFoundf("page not found")

// fail answers with an error, unless the answer has begun: then the connection is cut, so that nobody takes what has come
// for all there is.
func (c *call) fail(err error) {
	switch {
	case c.w.hijacked:
	case c.w.begun:
		panic(http.ErrAbortHandler)
	default:
		writeError(c.w, err, c.r.Method != http.MethodHead)
	}
}

// recovered makes a panic the error of one request.
func (s *Server) recovered(c *call) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // it is a value of recover
		panic(p)
	}
	s.opt.Log.Error("panic", "method", c.r.Method, "path", c.r.URL.Path, "reason", p, "stack", string(debug.Stack()))
	c.fail(worker.Errorf(errdefs.ErrInternal, "the daemon has met an error of its own, which its log describes"))
}

// An answer is an http.ResponseWriter that knows what has become of it.
type answer struct {
	http.ResponseWriter
	begun, hijacked bool
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(p)
}

// Flush implements http.Flusher. It begins the answer.
func (a *answer) Flush() {
	a.begun = true
	_ = http.NewResponseController(a.ResponseWriter).Flush() // a writer that cannot has nothing to flush
}

// Hijack implements http.Hijacker.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if a.begun {
		return nil, nil, errors.New("the answer has begun")
	}
	conn, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	a.hijacked = err == nil
	return conn, rw, err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
