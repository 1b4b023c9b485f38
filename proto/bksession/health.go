package bksession

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// checkHealth asks the client now and then whether it is there, and ends the session when it is not. A connection whose
// other end has vanished without a word is noticed by nothing else. A client that is busy, or far away, may miss an
// answer, and gets more time the longer the last one took.
func (s *Session) checkHealth() {
	o := s.opt.Health
	client := grpc_health_v1.NewHealthClient(s.cc)
	ticker := time.NewTicker(o.Every)
	defer ticker.Stop()
	failures, took := 0, time.Duration(0)
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		begin := time.Now()
		limit := max(o.Timeout, took+took/2)
		ctx, cancel := context.WithTimeout(s.ctx, limit)
		_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		cancel()
		took = time.Since(begin)
		if err == nil || status.Code(err) == codes.Unimplemented { // an answer is an answer
			failures = 0
			continue
		}
		if failures++; failures >= o.Failures {
			s.end(lostBecause(err, limit))
			return
		}
	}
}

// greeting is how long a session that has come is waited for to be ready.
const greeting = time.Second

// greet has the client answer once. By then HTTP/2's settings have been exchanged: a build that fails before would have
// the client close the connection while the last of them are under way, and BuildKit's then complains to its user.
func (s *Session) greet() {
	defer close(s.ready)
	ctx, cancel := context.WithTimeout(s.ctx, greeting)
	defer cancel()
	_, _ = grpc_health_v1.NewHealthClient(s.cc).Check(ctx, &grpc_health_v1.HealthCheckRequest{}) // checkHealth judges
}

func lostBecause(err error, limit time.Duration) error {
	if status.Code(err) == codes.DeadlineExceeded {
		return fmt.Errorf("%w within %s", errNoAnswer, limit.Round(time.Millisecond))
	}
	return fmt.Errorf("%w: %s", errNoAnswer, printable(status.Convert(err).Message(), maxErrorText))
}
