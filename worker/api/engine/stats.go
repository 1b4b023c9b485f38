package engine

import (
	"context"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// statsInterval is how far two samples are apart: a client computes the use of the CPU from two.
const statsInterval = time.Second

// stats samples what a container uses, once or as long as the client likes.
func (s *Server) stats(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	now, err := cs.Stats(ctx, c.vars[0])
	if err != nil {
		return err
	}
	if !c.isOr("stream", true) {
		if !c.is("one-shot") || c.before(41) {
			if now, err = nextStats(ctx, cs, c.vars[0], now); err != nil {
				return err
			}
		}
		return c.send(http.StatusOK, statsFor(now, c.version))
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Flush()
	for {
		if err := c.sendBody(statsFor(now, c.version)); err != nil {
			return err
		}
		c.w.Flush()
		if now, err = nextStats(ctx, cs, c.vars[0], now); err != nil {
			// The container or its client has gone: there are no more.
			return nil //nolint:nilerr // the stream has ended
		}
	}
}

// nextStats takes a sample an interval after another one.
func nextStats(ctx context.Context, cs worker.Containers, ref string, last *container.StatsResponse) (*container.StatsResponse, error) {
	timer := time.NewTimer(statsInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	next, err := cs.Stats(ctx, ref)
	if err != nil {
		return nil, err
	}
	next.PreRead, next.PreCPUStats = last.Read, last.CPUStats
	return next, nil
}

// statsFor is a sample as clients of a version expect it.
func statsFor(st *container.StatsResponse, v version) *container.StatsResponse {
	if v.less(version{1, 52}) {
		st.OSType = ""
	}
	return st
}
