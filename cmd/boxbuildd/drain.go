package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

var (
	errImpatient = errors.New("asked to stop again")
	errDrainLate = errors.New("the drain timeout has passed")
)

// drain lets no more calls in and waits for the builds and transfers that run. It waits no longer than the configuration
// says, nor after another signal. Clients can still ask how things are, and follow their builds. It returns how many signals
// it has taken.
func (s *server) drain(p process) (signals int) {
	limit := s.cfg.Drain()
	builds := s.daemon.Gate.shut()
	s.native.Refuse()
	s.health.Shutdown()
	if limit == 0 {
		return 0
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
		signals++
		cancel(errImpatient)
		err = <-done
	}
	if err != nil {
		s.log.Warn("cancelling what still runs", "reason", err)
	}
	return signals
}

// patience is how many signals end the process whatever it does: the first asks for a drain, the second ends that, the
// third finds a daemon that does not come to its end.
const patience = 3

// insist ends the process at once when it is asked to stop for the third time, asked times already. The second signal does
// not: it is meant for the drain, which may have ended just before it came, and then what it asks for is under way.
func insist(p process, asked int, log *slog.Logger) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-p.signals:
			case <-ended:
				return
			}
			if asked++; asked >= patience {
				log.Warn("stopping at once, without cleaning up")
				p.abort()
				return
			}
			log.Info("stopping already; a third signal does not wait for the end")
		}
	}()
	return func() { close(ended); <-done }
}
