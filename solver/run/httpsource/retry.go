package httpsource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/boxbuild/boxbuild/proto/registry"
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
	wait := (&registry.RetryPolicy{Base: c.opt.Base, Max: c.opt.Max}).Jitter(failures)
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
		return registry.FaultOf(status.Status)
	}
	var broken *transient
	if !errors.As(err, &broken) || errors.Is(err, errRedirect) || errors.Is(err, http.ErrSchemeMismatch) {
		return false
	}
	return registry.MayMend(err)
}
