package container

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// counted is a Meter that writes down what it is told.
type counted struct {
	mu    sync.Mutex
	said  []string
	check chan bool
}

func (c *counted) add(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, s)
}

func (c *counted) ContainerAction(action string, _ time.Duration) { c.add(action) }
func (c *counted) NetworkAction(action string, _ time.Duration)   { c.add(action) }
func (c *counted) HealthCheck(_ time.Duration, failed bool)       { c.check <- failed }

// What is done with a container is counted once each, what fails is not, and each health check with its outcome.
func TestMeter(t *testing.T) {
	f := newFixture(t)
	c := &counted{check: make(chan bool, 10)}
	f.deps.Meter = c
	ctx := t.Context()
	req := request("sleep")
	req.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "exit", "1"}, Interval: time.Millisecond}
	id := f.run(req)
	if failed := <-c.check; !failed {
		t.Error("a check that fails counts as one that succeeds")
	}
	if _, err := f.Changes(ctx, "nobody"); err == nil {
		t.Error("no error")
	}
	if _, err := f.Create(ctx, &worker.ContainerCreate{}); err == nil {
		t.Error("no error")
	}
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{Force: true}))
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := strings.Join(c.said, " "); got != "create allocate start release delete" {
		t.Errorf("counted: %s", got)
	}
}
