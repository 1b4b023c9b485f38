package httpsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/proto/registry"
)

// A Sink takes a body. Reset throws away what has been written, since the body begins anew.
type Sink interface {
	io.Writer
	Reset() error
}

// Errors of Fetch, found with errors.Is.
var (
	ErrTooLarge = errors.New("the body is larger than allowed")
	errStalled  = errors.New("the server sent nothing for too long")
)

// A StatusError is an answer that is no content.
type StatusError struct {
	Status     int
	RetryAfter time.Duration // that the server asks for; 0 if it does not
}

// Error has BuildKit's words.
func (e *StatusError) Error() string { return fmt.Sprintf("invalid response status %d", e.Status) }

// A sinkError is a failure of the Sink: the disk is full. It is nothing that another attempt would help.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }

// Fetch asks for req. Unless the answer is one of req.Known, it calls open with the answer's header, once, and writes the
// body to the Sink that this returns. If Fetch fails, what the Sink has is of no use.
func (c *Client) Fetch(ctx context.Context, req *Request, open func(*Answer) (Sink, error)) (*Answer, error) {
	u, err := url.Parse(req.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parsing the URL: %w", errors.Unwrap(err)) // without the URL, which may hold a password
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("fetching %s: the URL is neither http nor https", redacted(u))
	case u.Host == "":
		return nil, fmt.Errorf("fetching %s: the URL names no host", redacted(u))
	}
	f := &fetch{c: c, req: req, url: u, open: open}
	if err := f.run(ctx); err != nil {
		return nil, fmt.Errorf("fetching %s: %w", redacted(u), err)
	}
	return f.answer, nil
}

// redacted is u as it may be shown: without a password, and without a user who has none, and is a token then.
func redacted(u *url.URL) string {
	if _, has := u.User.Password(); u.User != nil && !has {
		shown := *u
		shown.User = url.User("xxxxx")
		return shown.String()
	}
	return u.Redacted()
}

// A fetch is one call of Fetch.
type fetch struct {
	c    *Client
	req  *Request
	url  *url.URL
	open func(*Answer) (Sink, error)

	answer *Answer
	sink   Sink
	n      int64 // bytes in sink
	// resume says how to go on after n bytes: the value of If-Range. It is empty if there is no way.
	resume string
}

// run attempts until it is done. Failures count in a row: a slow connection that breaks now and then gets there.
func (f *fetch) run(ctx context.Context) error {
	const progress = 1 << 20 // bytes that make up for a failure
	for failures := 0; ; {
		before := f.n
		err := f.attempt(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if f.n-before >= progress {
			failures = 0
		}
		failures++
		if err := f.c.backOff(ctx, err, failures); err != nil {
			return err
		}
	}
}

// attempt makes one request and takes what comes.
func (f *fetch) attempt(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(f.c.opt.Stall, func() { cancel(errStalled) })
	defer watch.Stop()
	resp, err := f.send(ctx)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	resumes := f.resume != "" && f.n > 0
	switch {
	case resumes && resp.StatusCode == http.StatusPartialContent && goesOnAt(resp.Header, f.n):
	case resumes && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable):
		f.resume = "" // from the beginning, the next time
		return &transient{errors.New("the server did not send the part that was asked for")}
	default:
		if done, err := f.begin(resp); done || err != nil {
			return err
		}
	}
	body := &watched{r: resp.Body, watch: watch, stall: f.c.opt.Stall}
	if err := f.copy(body); err != nil {
		return because(ctx, err)
	}
	return nil
}

// because says why an operation with ctx failed, if it was ended on purpose.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return &transient{cause}
	}
	return err
}

// send sends the request, with conditions or for the rest of the body.
func (f *fetch) send(ctx context.Context) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", f.c.opt.UserAgent)
	for k, v := range f.req.Header {
		r.Header[k] = v
	}
	if f.req.Authorization != "" {
		r.Header.Set("Authorization", f.req.Authorization)
	}
	switch {
	case f.resume != "" && f.n > 0:
		r.Header.Set("Range", "bytes="+strconv.FormatInt(f.n, 10)+"-")
		r.Header.Set("If-Range", f.resume)
	case f.sink == nil:
		conditions(r.Header, f.req.Known)
	}
	resp, err := f.c.http.Do(r)
	if err != nil {
		// net/http puts the URL before the error, which says it already; after a redirect it is another one.
		var u *url.Error
		if errors.As(err, &u) {
			if to, perr := url.Parse(u.URL); perr == nil && to.Host != f.url.Host {
				return nil, &transient{fmt.Errorf("at %s: %w", to.Host, u.Err)}
			}
			return nil, &transient{u.Err}
		}
		return nil, &transient{err}
	}
	return resp, nil
}

// begin takes the head of an answer. done says that there is no body to take.
func (f *fetch) begin(resp *http.Response) (done bool, err error) {
	if resp.StatusCode == http.StatusNotModified || resp.StatusCode == http.StatusOK {
		// A server that has no idea of conditions still names the version, which is not taken again.
		if m := matchKnown(resp, f.req.Known); m >= 0 && f.sink == nil {
			f.answer = &Answer{Match: m, Header: resp.Header}
			return true, nil
		}
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 || resp.StatusCode == http.StatusPartialContent {
		return false, &StatusError{Status: resp.StatusCode, RetryAfter: registry.RetryAfter(resp.Header, time.Now())}
	}
	if resp.ContentLength > f.c.opt.MaxSize {
		return false, &sinkError{fmt.Errorf("%w: %d bytes", ErrTooLarge, resp.ContentLength)}
	}
	f.answer = &Answer{Match: -1, Header: resp.Header, Size: max(resp.ContentLength, 0)}
	f.n, f.resume = 0, resumable(resp)
	if f.sink != nil {
		return false, sinkFailed(f.sink.Reset())
	}
	f.sink, err = f.open(f.answer)
	return false, sinkFailed(err)
}

func sinkFailed(err error) error {
	if err == nil {
		return nil
	}
	return &sinkError{err}
}

// copyBuffers are for copy.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// copy writes the body to the sink.
func (f *fetch) copy(body io.Reader) error {
	b := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(b)
	buf := b[:]
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if f.n+int64(n) > f.c.opt.MaxSize {
				return &sinkError{ErrTooLarge}
			}
			if _, err := f.sink.Write(buf[:n]); err != nil {
				return sinkFailed(err)
			}
			f.n += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return &transient{fmt.Errorf("after %d bytes: %w", f.n, err)}
		}
	}
}

// resumable returns the validator with which the rest of a body can be asked for, RFC 9110 section 13.1.5: a strong one.
func resumable(resp *http.Response) string {
	if resp.Uncompressed || strings.EqualFold(resp.Header.Get("Accept-Ranges"), "none") {
		return ""
	}
	if etag := resp.Header.Get("ETag"); etag != "" && !strings.HasPrefix(etag, "W/") {
		return etag
	}
	return strongDate(resp.Header)
}

// goesOnAt says whether a partial answer begins at byte n, RFC 9110 section 14.4.
func goesOnAt(h http.Header, n int64) bool {
	rest, ok := strings.CutPrefix(h.Get("Content-Range"), "bytes ")
	first, _, dash := strings.Cut(rest, "-")
	at, err := strconv.ParseInt(first, 10, 64)
	return ok && dash && err == nil && at == n
}

// watched reads a body, with patience for each part of it but none while the part is written.
type watched struct {
	r     io.Reader
	watch *time.Timer
	stall time.Duration
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	w.watch.Reset(w.stall)
	n, err := w.r.Read(p)
	w.watch.Stop()
	return n, err
}
