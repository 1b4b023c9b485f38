package container

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/executor"
)

// Docker's defaults for health checks.
const (
	healthInterval      = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthTimeout       = 30 * time.Second
	healthRetries       = 3
	healthKept          = 5    // results
	healthOutput        = 4096 // bytes of each
)

// probePrefix begins the IDs of checks among the processes of a container.
const probePrefix = "health-"

// A prober checks the health of a container while it runs. It owns a goroutine until stop.
type prober struct {
	c    *ctr
	box  executor.Container
	conf container.HealthConfig
	args []string
	end  context.CancelFunc
	done chan struct{}
}

// startHealth begins to check the health of a run, and returns what it is to begin with; nil if it is not checked. The turn
// is held.
func (c *ctr) startHealth(r *run) *container.Health {
	conf := c.get().Config.Healthcheck
	args := healthArgs(c.get().Config)
	if args == nil {
		return nil
	}
	p := &prober{c: c, box: r.box, conf: *conf, args: args, done: make(chan struct{})}
	orElse(&p.conf.Interval, healthInterval)
	orElse(&p.conf.StartInterval, healthStartInterval)
	orElse(&p.conf.Timeout, healthTimeout)
	orElse(&p.conf.Retries, healthRetries)
	ctx, end := context.WithCancel(c.m.life)
	p.end = end
	c.mu.Lock()
	c.health = p
	c.mu.Unlock()
	started := c.m.now()
	h := &container.Health{Status: container.Starting, Log: []*container.HealthcheckResult{}}
	if old := c.status().Health; old != nil && c.status().Alive() { // it was paused, or a daemon before this one has begun
		h = old
		started = c.status().StartedAt
	}
	c.m.goOn(func() {
		defer close(p.done)
		defer end()
		p.run(ctx, started)
	})
	return h
}

// resumeHealth goes on with checks that stopHealth has ended while the container was paused. The turn is held.
func (c *ctr) resumeHealth() {
	c.mu.Lock()
	r, on := c.run, c.health != nil
	c.mu.Unlock()
	if r != nil && !on {
		c.startHealth(r)
	}
}

// endProbes kills the check that was running when the daemon was killed: nobody waits for it any more, and one that hangs
// would stay for good. The turn is held.
func (c *ctr) endProbes(ctx context.Context, box executor.Container) {
	lister, ok := box.(executor.Lister)
	if !ok || healthArgs(c.get().Config) == nil {
		return
	}
	ids, err := lister.List(ctx)
	c.m.warn("looking for health checks that are left", err)
	for _, id := range ids {
		if !strings.HasPrefix(id, probePrefix) {
			continue
		}
		if err := box.Signal(ctx, id, syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			c.m.warn("ending a health check that is left", err)
		}
	}
}

// healthArgs is the command of the health check; nil for none.
func healthArgs(c *container.Config) []string {
	if c.Healthcheck == nil || len(c.Healthcheck.Test) == 0 {
		return nil
	}
	switch test := c.Healthcheck.Test; test[0] {
	case "CMD":
		return test[1:]
	case "CMD-SHELL":
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(slices.Clone(shell), test[1:]...)
	}
	return nil // NONE
}

// stopHealth ends the checks. The turn is held.
func (c *ctr) stopHealth() {
	c.mu.Lock()
	p := c.health
	c.health = nil
	c.mu.Unlock()
	if p != nil {
		p.end()
		<-p.done
	}
}

// run checks again and again; the wait begins when a check has ended.
func (p *prober) run(ctx context.Context, started time.Time) {
	for {
		wait := p.conf.Interval
		if h := p.c.status().Health; h == nil || h.Status == container.Starting {
			if p.conf.StartPeriod > 0 && p.c.m.now().Before(started.Add(p.conf.StartPeriod)) {
				wait = p.conf.StartInterval
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		result := p.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		p.record(result, started)
	}
}

// probe runs the command once.
func (p *prober) probe(ctx context.Context) *container.HealthcheckResult {
	res := &container.HealthcheckResult{Start: p.c.m.now()}
	tctx, cancel := context.WithTimeout(ctx, p.conf.Timeout)
	defer cancel()
	out := &capped{max: healthOutput}
	begun := res.Start
	exit, err := p.exec(tctx, out, &begun)
	res.End = p.c.m.now()
	res.ExitCode, res.Output = exit.Code, out.String()
	var se *executor.StartError
	switch {
	case err == nil:
	case errors.Is(tctx.Err(), context.DeadlineExceeded):
		res.ExitCode, res.Output = -1, "Health check exceeded timeout ("+p.conf.Timeout.String()+")"
		if said := out.String(); said != "" {
			res.Output += ": " + said
		}
	case errors.As(err, &se):
		res.ExitCode, res.Output = -1, "OCI runtime exec failed: exec failed: unable to start container process: exec: "+execText(p.args[0], se)
	default:
		res.ExitCode, res.Output = -1, err.Error()
	}
	if ctx.Err() == nil { // else the container ends, and there is no result
		p.c.m.deps.Meter.HealthCheck(begun.Sub(res.Start), res.ExitCode != 0)
	}
	return res
}

// exec runs the command in the container, and kills it when ctx is done. It sets begun to when the command runs.
func (p *prober) exec(ctx context.Context, out io.Writer, begun *time.Time) (executor.Exit, error) {
	rec := p.c.get()
	execID := newID()
	id := probePrefix + execID
	proc := execProcess(rec, &container.ExecCreateRequest{Cmd: p.args})
	if err := p.box.Add(ctx, id, proc, false); err != nil {
		return executor.Exit{}, err
	}
	conn, err := p.box.Attach(ctx, id, executor.Streams{Stdout: true, Stderr: true})
	if err != nil {
		return executor.Exit{}, err
	}
	var reading sync.WaitGroup
	reading.Go(func() { _ = demultiplex(conn, out) })
	defer reading.Wait()
	defer conn.Close()
	p.c.publish(execAction(events.ActionExecCreate, p.args), map[string]string{"execID": execID})
	// Not given up half way: nobody would know whether it runs, and end it.
	if err := p.box.Run(context.WithoutCancel(ctx), id); err != nil {
		return executor.Exit{}, err
	}
	*begun = p.c.m.now()
	p.c.publish(execAction(events.ActionExecStart, p.args), map[string]string{"execID": execID})
	exit, err := p.box.Wait(ctx, id)
	if err != nil {
		late := context.WithoutCancel(ctx)
		if kerr := p.box.Signal(late, id, syscall.SIGKILL); kerr == nil {
			_, _ = p.box.Wait(late, id)
		}
		return exit, err
	}
	reading.Wait() // all that it has said
	p.c.publish(events.ActionExecDie, map[string]string{"execID": execID, "exitCode": itoa(exit.Code)})
	return exit, nil
}

// record adds a result, and says what the container's health is now.
func (p *prober) record(res *container.HealthcheckResult, started time.Time) {
	before := p.c.status().Health
	if before == nil {
		before = &container.Health{Status: container.Starting}
	}
	next := healthAfter(before, res, p.conf, started)
	p.c.note(func(rec *record) { rec.Status.Health = next })
	if next.Status != before.Status {
		p.c.publish(events.Action(string(events.ActionHealthStatus)+": "+string(next.Status)), nil)
	}
}

// healthAfter is the health after one more result. Failures of the start period do not count, until a check has succeeded.
func healthAfter(h *container.Health, res *container.HealthcheckResult, conf container.HealthConfig, started time.Time) *container.Health {
	next := &container.Health{Status: h.Status, FailingStreak: h.FailingStreak}
	next.Log = append(slices.Clone(h.Log[max(0, len(h.Log)-healthKept+1):]), res)
	if res.ExitCode == 0 {
		next.FailingStreak, next.Status = 0, container.Healthy
		return next
	}
	if h.Status == container.Starting && res.Start.Before(started.Add(conf.StartPeriod)) {
		return next
	}
	if next.FailingStreak++; next.FailingStreak >= conf.Retries {
		next.Status = container.Unhealthy
	}
	return next
}

// A capped keeps the beginning of what is written to it.
type capped struct {
	mu  sync.Mutex
	b   bytes.Buffer
	max int
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.b.Write(p[:min(len(p), c.max-c.b.Len())])
	return len(p), nil
}

func (c *capped) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ToValidUTF8(c.b.String(), "\ufffd")
}

// demultiplex writes what is in Docker's frames to w.
func demultiplex(r io.Reader, w io.Writer) error {
	var head [8]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		if _, err := io.CopyN(w, r, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return err
		}
	}
}
