package httpsource

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// A memSink is a Sink in memory that may fail.
type memSink struct {
	bytes.Buffer
	resets int
	err    error
}

func (s *memSink) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	return s.Buffer.Write(p)
}

func (s *memSink) Reset() error {
	s.resets++
	s.Buffer.Reset()
	return nil
}

// quick is a Client that does not wait long between attempts.
func quick(opt Options) *Client {
	opt.Base, opt.Max = time.Nanosecond, time.Nanosecond
	return New(opt)
}

// get fetches with c into memory.
func get(t *testing.T, c *Client, req *Request) (*Answer, *memSink, error) {
	t.Helper()
	sink := &memSink{}
	a, err := c.Fetch(t.Context(), req, func(*Answer) (Sink, error) { return sink, nil })
	return a, sink, err
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// What a server has is what the Sink gets, whichever way it is framed.
func TestFetch(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(big)
	_ = z.Close()
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want []byte
	}{
		"empty": {func(http.ResponseWriter, *http.Request) {}, nil},
		"sized": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }, []byte("hello")},
		"chunked": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(big[:5])
			w.(http.Flusher).Flush()
			_, _ = w.Write(big[5:])
		}, big},
		"encoded": {func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				http.Error(w, "no", http.StatusNotAcceptable)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped.Bytes())
		}, big},
		"redirected": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/there" {
				http.Redirect(w, r, "/there", http.StatusFound)
				return
			}
			_, _ = w.Write(big)
		}, big},
	} {
		a, sink, err := get(t, quick(Options{}), &Request{URL: serve(t, c.h).URL})
		if err != nil || a.Match != -1 || !bytes.Equal(sink.Bytes(), c.want) {
			t.Errorf("%s: got %d bytes, %v", name, sink.Len(), err)
		}
	}
}

// What the server's state is to blame for is tried again, nothing else is, and the error says what it was.
func TestRetry(t *testing.T) {
	for status, attempts := range map[int]int{
		200: 1, 204: 1, 206: 1, 301: 1, 304: 1, 400: 1, 401: 1, 403: 1, 404: 1, 408: 3, 410: 1, 429: 3, 500: 3, 501: 1, 502: 3, 503: 3, 504: 3,
	} {
		n := 0
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { n++; w.WriteHeader(status) })
		_, _, err := get(t, quick(Options{Attempts: 3}), &Request{URL: s.URL})
		if ok := status == 200 || status == 204; ok != (err == nil) || n != attempts {
			t.Errorf("status %d: %d attempts, want %d; %v", status, n, attempts, err)
		}
		if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("invalid response status %d", status)) {
			t.Errorf("status %d: %v", status, err)
		}
	}
	n := 0
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 5 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("at last"))
	})
	if _, sink, err := get(t, quick(Options{}), &Request{URL: s.URL}); err != nil || sink.String() != "at last" {
		t.Errorf("got %q, %v", sink, err)
	}
}

// roundTripper is a server without a network, so that time can be made up.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, body string, header ...string) *http.Response {
	r := &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}, ContentLength: int64(len(body))}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// Retry-After is waited for, in both forms, unless it is too long; the end of the context ends the wait.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			value    func() string
			min, max time.Duration
			fails    bool
		}{
			{func() string { return "7" }, 7 * time.Second, 8 * time.Second, false},
			{func() string { return time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat) }, 19 * time.Second, 21 * time.Second, false},
			{func() string { return "-5" }, 0, time.Second, false},
			{func() string { return "soon" }, 0, time.Second, false},
			{func() string { return "99999999999999" }, 0, 0, true},
		} {
			n := 0
			cl := New(Options{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				if n++; n == 1 {
					return answer(429, "", "Retry-After", c.value()), nil
				}
				return answer(200, "x"), nil
			})})
			start := time.Now()
			_, _, err := get(t, cl, &Request{URL: "http://host/"})
			if took := time.Since(start); took < c.min || took > c.max || (err != nil) != c.fails {
				t.Errorf("%s: %v after %s", c.value(), err, took)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("why")
		time.AfterFunc(time.Second, func() { cancel(why) })
		cl := New(Options{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return answer(503, "", "Retry-After", "60"), nil
		})})
		if _, err := cl.Fetch(ctx, &Request{URL: "http://host/"}, nil); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
	})
}

// A server that falls silent is given up, before its answer and in the middle of it, and asked again.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		cl := New(Options{Stall: time.Minute, Attempts: 3, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			switch n++; n {
			case 1:
				<-r.Context().Done()
				return nil, r.Context().Err()
			case 2:
				resp := answer(200, "", "ETag", `"a"`)
				resp.ContentLength = 4
				resp.Body = io.NopCloser(&stalling{data: "ha", ctx: r.Context()})
				return resp, nil
			}
			if got := r.Header.Get("Range"); got != "bytes=2-" {
				t.Errorf("Range is %q", got)
			}
			return answer(206, "lf", "Content-Range", "bytes 2-3/4"), nil
		})})
		_, sink, err := get(t, cl, &Request{URL: "http://host/"})
		if err != nil || sink.String() != "half" || n != 3 {
			t.Errorf("got %q after %d, %v", sink, n, err)
		}
		dead := New(Options{Attempts: 2, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		if _, _, err := get(t, dead, &Request{URL: "http://host/"}); !errors.Is(err, errStalled) {
			t.Errorf("got %v", err)
		}
	})
}

// A body that breaks off when all of it has come, which only its end would have told, begins anew: there is no rest to ask for.
func TestBrokenEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		cl := New(Options{Attempts: 3, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			n++
			switch {
			case n == 1:
				resp := answer(200, "", "ETag", `"a"`)
				resp.ContentLength = -1
				resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)))
				return resp, nil
			case r.Header.Get("Range") == "bytes=4-":
				return answer(416, "", "Content-Range", "bytes */4"), nil
			}
			return answer(200, "half", "ETag", `"a"`), nil
		})})
		if _, sink, err := get(t, cl, &Request{URL: "http://host/"}); err != nil || sink.String() != "half" || n != 3 {
			t.Errorf("got %q after %d, %v", sink, n, err)
		}
	})
}

// stalling is a body that gives data and then nothing.
type stalling struct {
	data string
	ctx  context.Context //nolint:containedctx // a body has that of its request
}

func (s *stalling) Read(p []byte) (int, error) {
	if s.data == "" {
		<-s.ctx.Done()
		return 0, s.ctx.Err()
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

// A body that breaks off goes on where it stopped if the server can do that, and else begins anew; in no case are parts of
// two versions mixed, or is a short body taken for a whole one.
func TestBrokenBody(t *testing.T) {
	const old, changed = "the old content", "the new content, longer"
	for name, c := range map[string]struct {
		etag, accept string
		version      string // of the second answer
		partial      string // Content-Range of a partial one
		want         string
		resets       int
	}{
		"resumes":             {`"1"`, "bytes", old, "bytes 3-14/15", old, 0},
		"another version":     {`"1"`, "bytes", changed, "", changed, 1},
		"no validator":        {"", "bytes", old, "", old, 1},
		"weak validator":      {`W/"1"`, "bytes", old, "", old, 1},
		"no ranges":           {`"1"`, "none", old, "", old, 1},
		"ignores the range":   {`"1"`, "bytes", old, "", old, 1},
		"sends another range": {`"1"`, "bytes", old, "bytes 5-14/15", old, 1},
	} {
		var mu sync.Mutex
		n := 0
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			n++
			if c.etag != "" {
				w.Header().Set("ETag", c.etag)
			}
			w.Header().Set("Accept-Ranges", c.accept)
			switch {
			case n == 1:
				w.Header().Set("Content-Length", "15")
				_, _ = io.WriteString(w, old[:3])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			case c.partial != "" && r.Header.Get("Range") == "bytes=3-" && r.Header.Get("If-Range") == c.etag:
				w.Header().Set("Content-Range", c.partial)
				w.WriteHeader(http.StatusPartialContent)
				_, _ = io.WriteString(w, old[3:])
			default:
				_, _ = io.WriteString(w, c.version)
			}
		})
		_, sink, err := get(t, quick(Options{}), &Request{URL: s.URL})
		if err != nil || sink.String() != c.want || sink.resets != c.resets {
			t.Errorf("%s: got %q after %d resets, %v", name, sink, sink.resets, err)
		}
	}
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "15")
		_, _ = io.WriteString(w, old[:3])
	})
	if _, _, err := get(t, quick(Options{Attempts: 2}), &Request{URL: s.URL}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a body that is short: %v", err)
	}
}

// A body that is too large ends the call, whether the server says how large it is or not, and however it is compressed.
// So does a disk that is full. Neither is tried again.
func TestLimits(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 10<<20))
	_ = z.Close()
	for name, h := range map[string]http.HandlerFunc{
		"sized": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1001")
			_, _ = w.Write(make([]byte, 1001))
		},
		"unsized": func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(make([]byte, 1001))
		},
		"bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		},
	} {
		n := 0
		s := serve(t, func(w http.ResponseWriter, r *http.Request) { n++; h(w, r) })
		_, sink, err := get(t, quick(Options{MaxSize: 1000}), &Request{URL: s.URL})
		if !errors.Is(err, ErrTooLarge) || sink.Len() > 1000 || n != 1 {
			t.Errorf("%s: %d bytes, %d requests, %v", name, sink.Len(), n, err)
		}
	}
	n := 0
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { n++; _, _ = io.WriteString(w, "x") })
	if _, _, err := get(t, quick(Options{MaxSize: 1}), &Request{URL: s.URL}); err != nil {
		t.Errorf("just the limit: %v", err)
	}
	n = 0
	_, err := quick(Options{}).Fetch(t.Context(), &Request{URL: s.URL}, func(*Answer) (Sink, error) {
		return &memSink{err: syscall.ENOSPC}, nil
	})
	if !errors.Is(err, syscall.ENOSPC) || n != 1 {
		t.Errorf("full disk: %d requests, %v", n, err)
	}
	_, err = quick(Options{}).Fetch(t.Context(), &Request{URL: s.URL}, func(*Answer) (Sink, error) { return nil, syscall.EROFS })
	if !errors.Is(err, syscall.EROFS) {
		t.Errorf("no sink: %v", err)
	}
}

// Only http and https are spoken, by name and by redirect: never a file of the daemon's machine, nor another service.
func TestSchemes(t *testing.T) {
	for _, u := range []string{
		"file:///etc/passwd", "/etc/passwd", "etc/passwd", "ftp://host/x", "unix:///run/x.sock", "http:///x", "http:x", "", "HTTP:", "data:,x", "gopher://host/1",
	} {
		if _, _, err := get(t, quick(Options{}), &Request{URL: u}); err == nil {
			t.Errorf("%q is fetched", u)
		}
	}
	for _, to := range []string{"file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "unix:/run/x", "javascript:1"} {
		n := 0
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { n++; w.Header().Set("Location", to); w.WriteHeader(302) })
		if _, sink, err := get(t, quick(Options{}), &Request{URL: s.URL}); !errors.Is(err, errRedirect) || sink.Len() > 0 || n != 1 {
			t.Errorf("redirect to %q: %d requests, %v", to, n, err)
		}
	}
	n := 0
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		http.Redirect(w, r, "/again", http.StatusMovedPermanently)
	})
	if _, _, err := get(t, quick(Options{}), &Request{URL: s.URL}); !errors.Is(err, errRedirect) || n > 12 {
		t.Errorf("an endless redirect: %d requests, %v", n, err)
	}
}

// TLS that fails is an error at once: nothing is asked again, or in the clear.
func TestNoFallback(t *testing.T) {
	asked := 0
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ })
	secure := httptest.NewUnstartedServer(h)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	plain := serve(t, h)
	for name, u := range map[string]string{
		"a certificate that nobody trusts": secure.URL,
		"no TLS at all":                    strings.Replace(plain.URL, "http://", "https://", 1),
		"a redirect to no TLS at all": serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, strings.Replace(plain.URL, "http://", "https://", 1), http.StatusFound)
		}).URL,
	} {
		_, _, err := get(t, quick(Options{}), &Request{URL: u, Authorization: "secret"})
		if err == nil || asked != 0 || strings.Contains(err.Error(), "attempts") {
			t.Errorf("%s: %d requests, %v", name, asked, err)
		}
	}
}

// A password in a URL is used and is in no error, whatever goes wrong.
func TestPasswordInURL(t *testing.T) {
	status := 200
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "user" || p != "hunter2" {
			t.Errorf("got %q, %q", u, p)
		}
		w.WriteHeader(status)
	})
	u := strings.Replace(s.URL, "://", "://user:hunter2@", 1) + "/x"
	if _, _, err := get(t, quick(Options{}), &Request{URL: u}); err != nil {
		t.Error(err)
	}
	status = 404
	var errs []error
	for _, raw := range []string{u, "http://user:hunter2@host:port/", "http://user:hunter2@[::1", "ftp://user:hunter2@host/", "http://user:hunter2@/x", "http://hunter2@127.0.0.1:1/", "ftp://hunter2@host/"} {
		_, _, err := get(t, quick(Options{}), &Request{URL: raw})
		errs = append(errs, err)
	}
	s.Close()
	_, _, err := get(t, quick(Options{Attempts: 1}), &Request{URL: u})
	for _, err := range append(errs, err) {
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	}
}

// The Authorization header is for the origin of the URL: no other host, port or scheme gets it by a redirect, nor does
// who was redirected back from elsewhere.
func TestAuthorizationStays(t *testing.T) {
	auth := map[string][]string{}
	note := func(name string, next func() string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			auth[name] = append(auth[name], r.Header.Get("Authorization"))
			if to := next(); to != "" && r.URL.Path != "/end" {
				http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			}
		}
	}
	var a, b *httptest.Server
	b = serve(t, note("b", func() string { return a.URL + "/end" }))
	a = serve(t, note("a", func() string { return b.URL + "/x" }))
	if _, _, err := get(t, quick(Options{}), &Request{URL: a.URL, Authorization: "Bearer secret"}); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(auth), "map[a:[Bearer secret ] b:[]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	auth = map[string][]string{}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		auth["c"] = append(auth["c"], r.Header.Get("Authorization"))
		if r.URL.Path != "/end" {
			http.Redirect(w, r, "/end", http.StatusFound)
		}
	})
	if _, _, err := get(t, quick(Options{}), &Request{URL: c.URL, Authorization: "x"}); err != nil || fmt.Sprint(auth) != "map[c:[x x]]" {
		t.Errorf("got %v, %v", auth, err)
	}
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"https://h/a", "https://h/b", true},
		{"https://h/a", "https://h:443/b", true},
		{"http://h/a", "https://h/b", true},
		{"https://h/a", "http://h/b", false},
		{"http://h:8080/a", "https://h/b", false},
		{"http://h/", "http://h:8080/", false},
		{"http://h/", "http://sub.h/", false},
		{"http://sub.h/", "http://h/", false},
	} {
		from, _ := url.Parse(c.from)
		to, _ := url.Parse(c.to)
		if got := sameOrigin(from, to); got != c.want {
			t.Errorf("sameOrigin(%s, %s) = %v", from, to, got)
		}
	}
}
