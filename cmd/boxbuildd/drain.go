package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	errImpatient = errors.New("asked to stop again")
	errDrainLate = errors.New("the drain timeout has passed")
)

// drain lets no more calls in and waits for the builds and transfers that run. It waits no longer than the configuration
// says, nor after another signal. Clients can still ask how things are, and follow their builds.
func (s *server) drain(p process) {
	limit := s.cfg.Drain()
	builds := s.daemon.Gate.shut()
	s.native.Refuse()
	s.health.Shutdown()
	if limit == 0 {
		return
	}
	if builds > 0 {
		s.log.Info("finishing builds before the end; another signal cancels them", "builds", builds, "timeout", limit)
	}
	// systemd waits as long as it is told to.
	notify(p.env, fmt.Sprintf("STOPPING=1\nSTATUS=finishing %d builds\nEXTEND_TIMEOUT_USEC=%d",
		builds, (limit+stopTimeout).Microseconds()))
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	late := time.AfterFunc(limit, func() { cancel(errDrainLate) })
	defer late.Stop()
	done := make(chan error, 1)
	go func() {
		err := s.native.Wait(ctx)
		if err == nil {
			err = s.daemon.Gate.wait(ctx)
		}
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-p.signals:
		cancel(errImpatient)
		err = <-done
	}
	if err != nil {
		s.log.Warn("cancelling what still runs", "reason", err)
	}
}
