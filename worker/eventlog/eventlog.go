// Package eventlog remembers what happens in the daemon, as docker's events, and tells those who watch.
//
// A Log keeps the last events in memory, as docker does: they are news, not a record. A watcher that is slow is not
// waited for: it has a queue, and one that has let it grow too long is ended with an error.
//
// Locks: Log.mu guards the ring and the watchers' queues. Nothing is called while it is held.
package eventlog

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/worker"
)

const (
	// kept is how many events are remembered.
	kept = 256
	// maxQueue is how many events a watcher may be behind.
	maxQueue = 1 << 14
)

// ErrSlow is the end of a watcher that does not take what it watches.
var ErrSlow = errors.New("watching the events: too many have not been read")

// A Log keeps the last events. The zero value is ready. It is safe for concurrent use.
type Log struct {
	mu       sync.Mutex
	ring     []events.Message // oldest first
	watchers map[*watcher]bool
}

var _ worker.Events = (*Log)(nil)

// A watcher is one call of Watch.
type watcher struct {
	queue []events.Message // guarded by Log.mu
	slow  bool             // likewise
	wake  chan struct{}    // has room for one
}

// Publish implements worker.Events. It sets the time and the scope, unless they are set.
func (l *Log) Publish(m events.Message) {
	if m.TimeNano == 0 {
		m.TimeNano = time.Now().UnixNano()
	}
	m.Time = m.TimeNano / int64(time.Second)
	if m.Scope == "" {
		m.Scope = "local"
	}
	if m.Actor.Attributes == nil {
		m.Actor.Attributes = make(map[string]string)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) == kept {
		l.ring = slices.Delete(l.ring, 0, 1)
	}
	l.ring = append(l.ring, m)
	for w := range l.watchers {
		if len(w.queue) >= maxQueue {
			w.slow, w.queue = true, nil
		} else if !w.slow {
			w.queue = append(w.queue, m)
		}
		select {
		case w.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Watch implements worker.Events. What is remembered from since on comes first; with an until in the past that is all.
func (l *Log) Watch(ctx context.Context, since, until time.Time, filters worker.Filters, fn func(events.Message) error) error {
	if err := filters.Check(keys...); err != nil {
		return err
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	l.mu.Lock()
	if !since.IsZero() || !until.IsZero() {
		w.queue = slices.Clone(l.ring)
	}
	if l.watchers == nil {
		l.watchers = make(map[*watcher]bool)
	}
	l.watchers[w] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, w)
	}()

	var end <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		end = timer.C
	}
	for {
		l.mu.Lock()
		queue, slow := w.queue, w.slow
		w.queue = nil
		l.mu.Unlock()
		if slow {
			return ErrSlow
		}
		for _, m := range queue {
			at := time.Unix(0, m.TimeNano)
			if at.Before(since) || !until.IsZero() && at.After(until) || !matches(filters, &m) {
				continue
			}
			if err := fn(m); err != nil {
				return err
			}
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-end:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// keys are those of the filters, as docker has them.
var keys = []string{
	"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service",
	"type", "volume",
}

// matches says whether filters let m pass.
func matches(f worker.Filters, m *events.Message) bool {
	switch {
	case !f.Match("type", string(m.Type)), !f.Match("scope", m.Scope), !f.Labels(m.Actor.Attributes):
		return false
	case !event(f["event"], string(m.Action)):
		return false
	}
	for _, key := range []string{"config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"} {
		if len(f[key]) > 0 && !actor(f[key], key, m) {
			return false
		}
	}
	return len(f["image"]) == 0 || image(f["image"], m)
}

// event says whether an action is one of those asked for. "exec_create: ls" is an exec_create, "health_status: healthy" a
// health_status.
func event(want []string, action string) bool {
	name, _, _ := strings.Cut(action, ":")
	return len(want) == 0 || slices.Contains(want, action) || slices.Contains(want, name)
}

// actor says whether the object of an event is one of those asked for, by ID, by the beginning of it, or by name.
func actor(want []string, key string, m *events.Message) bool {
	if string(m.Type) != key {
		// What happens to a network or a volume may concern a container.
		return key == "container" && slices.ContainsFunc(want, func(w string) bool {
			return m.Actor.Attributes["container"] != "" && strings.HasPrefix(m.Actor.Attributes["container"], w)
		})
	}
	name := m.Actor.Attributes["name"]
	return slices.ContainsFunc(want, func(w string) bool {
		return w == name || w != "" && strings.HasPrefix(m.Actor.ID, w)
	})
}

// image says whether an event concerns one of the images asked for, with or without a tag.
func image(want []string, m *events.Message) bool {
	id, name := m.Actor.ID, m.Actor.Attributes["image"]
	if m.Type == events.ImageEventType {
		name = m.Actor.Attributes["name"]
	}
	return slices.ContainsFunc(want, func(w string) bool {
		return w == id || w == name || w == repository(name) || w == repository(id)
	})
}

// repository is a reference without its tag or digest.
func repository(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarName(named)
}
