package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxRedirects is how many hops a request follows.
const maxRedirects = 5

// A request is one verb on one thing, before it is known which endpoint it goes to.
type request struct {
	method string
	repo   string   // the repository's path, empty for /v2/ itself
	rest   string   // after the repository: "manifests/latest"
	url    *url.URL // instead of repo and rest: a location that the registry gave
	query  url.Values
	header http.Header
	scopes []string // that a token must have
	expect []int    // statuses that are success
	body   func() (io.ReadCloser, error)
	size   int64  // of the body
	about  string // for errors: the reference
	// patience is how long the server may think once it has the whole request; at least StallTimeout.
	patience time.Duration
	// sending counts bodies that are not closed yet. A transport may do that after the answer has come; whoever owns what
	// a body reads from waits here.
	sending sync.WaitGroup
}

// location returns where rq goes if it goes to ep.
func (rq *request) location(ep *endpoint) *url.URL {
	if rq.url != nil {
		u := *rq.url
		if len(rq.query) > 0 {
			q := u.Query()
			for k, v := range rq.query {
				q[k] = v
			}
			u.RawQuery = q.Encode()
		}
		return &u
	}
	u := &url.URL{Scheme: ep.scheme, Host: ep.addr, Path: "/v2/"}
	if rq.repo != "" {
		u.Path += ep.prefix + rq.repo + "/" + rq.rest
	}
	q := url.Values{}
	for k, v := range rq.query {
		q[k] = v
	}
	if ep.mirror() && ep.ns != ep.name {
		q.Set("ns", ep.ns) // tells a mirror of several registries which one is meant
	}
	u.RawQuery = q.Encode()
	return u
}

// A reply is an answer and whether it came from the host that was asked. What another host says about authentication
// means nothing.
type reply struct {
	*http.Response
	elsewhere bool
}

// send sends rq once and follows redirects. authz is the Authorization header, and goes to ep's own server only.
// An answer of any status is no error. The caller closes the body.
func (c *Client) send(ctx context.Context, ep *endpoint, rq *request, authz string) (*reply, error) {
	u := rq.location(ep)
	elsewhere := !sameServer(u, ep)
	for hop := 0; ; hop++ {
		if elsewhere {
			authz = ""
		}
		resp, err := c.roundTrip(ctx, ep, rq, &hopTo{u, authz})
		if err != nil {
			return nil, err
		}
		to := resp.Header.Get("Location")
		if to == "" || !isRedirect(resp.StatusCode) || (rq.method != http.MethodGet && rq.method != http.MethodHead) {
			return &reply{resp, elsewhere}, nil
		}
		drain(resp.Body)
		if hop == maxRedirects {
			return nil, fmt.Errorf("%s redirects more than %d times", ep.addr, maxRedirects)
		}
		next, err := u.Parse(to)
		if err != nil {
			return nil, fmt.Errorf("%s redirects to an invalid location", ep.addr)
		}
		if err := followable(u, next); err != nil {
			return nil, fmt.Errorf("following the redirect of %s: %w", u.Host, err)
		}
		u = next
		// Once away, always away: another host must not be able to send an authenticated request back.
		elsewhere = elsewhere || !sameServer(u, ep)
	}
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect,
		http.StatusPermanentRedirect:
		return true
	}
	return false
}

// sameServer says whether u is on ep's own server.
func sameServer(u *url.URL, ep *endpoint) bool {
	return u.Scheme == ep.scheme && strings.EqualFold(u.Host, ep.addr)
}

// followable says whether a server at from may send us on to to. Nothing leads from TLS to plain HTTP.
func followable(from, to *url.URL) error {
	switch {
	case to.Scheme != "https" && to.Scheme != "http":
		return fmt.Errorf("scheme %q", to.Scheme)
	case to.Host == "":
		return errors.New("it names no host")
	case from.Scheme == "https" && to.Scheme == "http":
		return fmt.Errorf("%s is plain HTTP", to.Host)
	}
	return nil
}

// hopTo is where one round trip goes.
type hopTo struct {
	url   *url.URL
	authz string
}

// roundTrip makes one HTTP request. The answer's body reports a stall as an error, and must be closed.
func (c *Client) roundTrip(ctx context.Context, ep *endpoint, rq *request, to *hopTo) (*http.Response, error) {
	t, err := c.transport(ep, to.url.Host)
	if err != nil {
		return nil, err
	}
	watched, dog := watch(ctx, c.opts.StallTimeout)
	req, err := rq.build(watched, to, dog)
	if err != nil {
		dog.end()
		return nil, err
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	dog.within(max(c.opts.StallTimeout, rq.patience))
	resp, err := t.RoundTrip(req)
	if err != nil {
		stalled := dog.stalled.Load()
		dog.end()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case stalled:
			return nil, &transportError{fmt.Errorf("%s: %w", to.url.Host, errStalled)}
		case answersPlain(err) && ep.conf.Insecure && to.url.Host == ep.addr:
			c.markPlain(ep.name)
			return nil, &transportError{fmt.Errorf("%s does not speak TLS", to.url.Host)}
		case answersPlain(err):
			err = fmt.Errorf("%s speaks plain HTTP, which is used only with hosts that are configured so: %w", to.url.Host, err)
		}
		return nil, &transportError{err}
	}
	dog.pause()
	resp.Body = &receivedBody{resp.Body, dog}
	return resp, nil
}

// answersPlain says whether a server answered a TLS handshake in plain HTTP.
func answersPlain(err error) bool {
	var head tls.RecordHeaderError
	return errors.As(err, &head) && string(head.RecordHeader[:]) == "HTTP/"
}

// build makes the HTTP request of one hop.
func (rq *request) build(ctx context.Context, to *hopTo, dog *watchdog) (*http.Request, error) {
	u := *to.url
	u.User, u.Fragment = nil, "" // a location must not bring credentials of its own
	req := (&http.Request{
		Method: rq.method, URL: &u, Host: u.Host, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	for k, v := range rq.header {
		req.Header[k] = v
	}
	if to.authz != "" {
		req.Header.Set("Authorization", to.authz)
	}
	switch {
	case rq.body == nil:
	case rq.size == 0: // a body that is not nil, of length 0, would be sent in chunks
		req.Body = http.NoBody
	default:
		req.ContentLength = rq.size
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := rq.body()
			if err != nil {
				return nil, err
			}
			rq.sending.Add(1)
			return &sentBody{body, dog, rq.patience, sync.OnceFunc(rq.sending.Done)}, nil
		}
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		req.Body = body
	}
	return req, nil
}

// drain reads a small rest of body, so that the connection can be used again, and closes it.
func drain(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 16<<10) //nolint:errcheck // what fails here shows when the connection is used again
	body.Close()
}
