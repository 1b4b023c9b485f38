package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// retry calls f until it succeeds, fails for good, or has been called Attempts times.
func (c *Client) retry(ctx context.Context, f func() error) error {
	for failures := 1; ; failures++ {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if again, giveUp := c.backOff(ctx, err, failures); !again {
			return giveUp
		}
	}
}

// backOff waits before another attempt after failures of them, the last with err. If there must not be another one it
// says so, and with which error to end.
func (c *Client) backOff(ctx context.Context, err error, failures int) (again bool, giveUp error) {
	p := &c.opts.Retry
	if !retryable(err) {
		return false, err
	}
	if failures >= p.Attempts {
		return false, fmt.Errorf("giving up after %d attempts: %w", failures, err)
	}
	wait := p.Jitter(failures)
	var status *StatusError
	if errors.As(err, &status) && status.RetryAfter > 0 {
		if status.RetryAfter > p.MaxRetryAfter {
			return false, fmt.Errorf("giving up, since %s asks to wait %s: %w", status.Host, status.RetryAfter, err)
		}
		// A little more than was asked for, so that all who were told the same do not come back together.
		wait = status.RetryAfter + time.Duration(rand.Int64N(int64(p.Base)))
	}
	traceOf(ctx).retry(err, failures, wait)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// Jitter returns a random wait after so many failures: exponential back-off with full jitter, from Base to Max.
func (p *RetryPolicy) Jitter(failures int) time.Duration {
	ceiling := p.Max
	if shift := failures - 1; shift < 30 && p.Base<<shift < p.Max {
		ceiling = p.Base << shift
	}
	return time.Duration(rand.Int64N(int64(ceiling) + 1))
}

// retryable says whether an error may go away by itself.
func retryable(err error) bool {
	if serverFault(err) {
		return true
	}
	var broken *transportError
	if !errors.As(err, &broken) {
		return false
	}
	return MayMend(err)
}

// MayMend says whether a failure of a connection may go away by itself: not one of TLS, nor a host that does not exist.
func MayMend(err error) bool {
	var (
		cert  *tls.CertificateVerificationError
		alert tls.AlertError
		head  tls.RecordHeaderError
		dns   *net.DNSError
	)
	switch {
	case errors.As(err, &cert), errors.As(err, &alert), errors.As(err, &head):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	return true
}

// serverFault says whether err is an answer that blames the server's state, not the request.
func serverFault(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && FaultOf(status.Status)
}

// FaultOf says whether an HTTP status blames the server's state, not the request: another attempt may have another one.
func FaultOf(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}

// RetryAfter reads Retry-After, RFC 9110 10.2.3: seconds or a date. It returns 0 if there is none, or none in the future.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		const year = 365 * 24 * 60 * 60 // more would overflow at some point, and means the same
		return time.Duration(min(max(n, 0), year)) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}
