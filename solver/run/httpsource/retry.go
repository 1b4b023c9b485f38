package httpsource

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

// A transient is a failure of the connection, which may go away by itself.
type transient struct{ err error }

func (e *transient) Error() string { return e.err.Error() }
func (e *transient) Unwrap() error { return e.err }

// backOff waits before another attempt after failures of them, the last with err. It returns the error to end with if
// there must not be another one.
func (c *Client) backOff(ctx context.Context, err error, failures int) error {
	if !retryable(err) {
		return err
	}
	if failures >= c.opt.Attempts {
		return fmt.Errorf("giving up after %d attempts: %w", failures, err)
	}
	ceiling := c.opt.Max
	if shift := failures - 1; shift < 30 && c.opt.Base<<shift < ceiling {
		ceiling = c.opt.Base << shift
	}
	wait := time.Duration(rand.Int64N(int64(ceiling) + 1))
	var status *StatusError
	if errors.As(err, &status) && status.RetryAfter > 0 {
		if status.RetryAfter > c.opt.MaxRetryAfter {
			return fmt.Errorf("giving up, since the server asks to wait %s: %w", status.RetryAfter, err)
		}
		// A little more than was asked for, so that all who were told the same do not come back together.
		wait = status.RetryAfter + time.Duration(rand.Int64N(int64(c.opt.Base)))
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retryable says whether an error may go away by itself.
func retryable(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusRequestTimeout, http.StatusTooManyRequests:
			return true
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
			return false
		}
		return status.Status >= 500
	}
	var (
		broken *transient
		cert   *tls.CertificateVerificationError
		alert  tls.AlertError
		head   tls.RecordHeaderError
		dns    *net.DNSError
	)
	switch {
	case !errors.As(err, &broken), errors.Is(err, errRedirect), errors.Is(err, http.ErrSchemeMismatch):
		return false
	case errors.As(err, &cert), errors.As(err, &alert), errors.As(err, &head):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	return true
}

// retryAfter reads Retry-After, RFC 9110 section 10.2.3: seconds or a date. It returns 0 if there is none, or none in the
// future.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		const year = 365 * 24 * 60 * 60 // more would overflow at some point, and means the same
		return time.Duration(min(max(n, 0), year)) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}
