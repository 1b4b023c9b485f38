// Package httpsource fetches single files by HTTP, for ADD of a URL and for build contexts.
//
// A Client asks for a URL, on condition that it is none of the contents that are known already, and writes what comes to a
// Sink. What is known is a Known of a Memory, a hint on disk: the validators that the server gave, and the digest of the
// content that they stood for. So a second build of the same URL costs one round trip and no download.
//
// # Failures
//
// Answers that blame the state of the server (5xx, 408, 429) and broken connections are tried again, after a growing
// random wait or the one that Retry-After asks for. A body that broke off goes on where it stopped if the server has
// named its version and takes ranges, and else begins anew: the Sink is told. A body that ends early is an error, so what
// has come when Fetch returns nil is whole.
//
// # Trust
//
// Nothing that the server says leads anywhere but to another http or https URL. The Authorization header goes to the
// origin of the URL that it is for, and no other, whatever redirects there are. A name from the server is one component
// without control characters. Passwords in URLs are not in errors.
//
// A Client and a Memory are safe for concurrent use; neither has a goroutine of its own.
package httpsource

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Options are those of a Client; zero fields mean the defaults.
type Options struct {
	// Transport sends single requests. By default it is one that heeds HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
	Transport http.RoundTripper
	UserAgent string
	MaxSize   int64 // of a body, in bytes, decompressed; 256 GiB
	// Attempts is how often in a row a request may fail before it is given up; 5. Base and Max bound the waits between
	// them; 500 ms and 30 s. A Retry-After that is longer than MaxRetryAfter, 2 minutes, is not waited for.
	Attempts                 int
	Base, Max, MaxRetryAfter time.Duration
	// Stall is how long a server may send nothing; 2 minutes.
	Stall time.Duration
}

// A Client fetches files.
type Client struct {
	opt  Options
	http *http.Client
}

// New returns a Client.
func New(opt Options) *Client {
	if opt.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.DialContext = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
		t.MaxResponseHeaderBytes = 1 << 20
		t.MaxIdleConnsPerHost = 4
		t.IdleConnTimeout = 30 * time.Second
		opt.Transport = t
	}
	if opt.UserAgent == "" {
		opt.UserAgent = "boxbuild"
	}
	if opt.MaxSize <= 0 {
		opt.MaxSize = 256 << 30
	}
	if opt.Attempts <= 0 {
		opt.Attempts = 5
	}
	for _, d := range []struct {
		at   *time.Duration
		unit time.Duration
	}{{&opt.Base, 500 * time.Millisecond}, {&opt.Max, 30 * time.Second}, {&opt.MaxRetryAfter, 2 * time.Minute}, {&opt.Stall, 2 * time.Minute}} {
		if *d.at <= 0 {
			*d.at = d.unit
		}
	}
	return &Client{opt: opt, http: &http.Client{Transport: opt.Transport, CheckRedirect: checkRedirect}}
}

// A Request is what is asked for.
type Request struct {
	URL           string
	Header        http.Header // more fields; may be nil
	Authorization string      // for the origin of URL alone
	// Known are contents of this URL that need not come again.
	Known []Known
}

// An Answer is what came.
type Answer struct {
	// Match is the index of the Known that the content still is, or -1 if it has been written to the Sink.
	Match int
	// Header has the fields of the answer.
	Header http.Header
	Size   int64 // of the body in bytes, as the server says; 0 if it does not
}

// Modified returns the time that the server says that the content changed last, zero if it does not.
func (a *Answer) Modified() time.Time {
	t, err := http.ParseTime(a.Header.Get("Last-Modified"))
	if err != nil {
		return time.Time{}
	}
	return t
}

// errRedirect is a redirect that is not followed.
var errRedirect = errors.New("refusing a redirect")

// maxRedirects is how many redirects in a row are followed, as in net/http.
const maxRedirects = 10

// checkRedirect decides on a redirect to req. The header of req is that of the first request, less what net/http would
// not send to another domain, which is too little: another port or an unencrypted connection is another server.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d in a row", errRedirect, maxRedirects)
	}
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return fmt.Errorf("%w: to a URL that is neither http nor https", errRedirect)
	}
	left := !sameOrigin(via[0].URL, req.URL)
	for _, r := range via {
		left = left || !sameOrigin(via[0].URL, r.URL) // who was elsewhere could have chosen where to
	}
	if left {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	return nil
}

// sameOrigin says whether what is for a may be sent to b: the same scheme, host and port, or the encrypted form of it.
func sameOrigin(a, b *url.URL) bool {
	if a.Hostname() != b.Hostname() {
		return false
	}
	if a.Scheme == "http" && b.Scheme == "https" {
		return port(a) == "80" && port(b) == "443"
	}
	return a.Scheme == b.Scheme && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}
