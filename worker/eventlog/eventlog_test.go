package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/worker"
)

func message(typ events.Type, action, id string, attrs ...string) events.Message {
	m := events.Message{Type: typ, Action: events.Action(action), Actor: events.Actor{ID: id, Attributes: map[string]string{}}}
	for i := 0; i < len(attrs); i += 2 {
		m.Actor.Attributes[attrs[i]] = attrs[i+1]
	}
	return m
}

// A watcher gets what comes, and before that what is remembered from the time that it asks for; each once, in order.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Log
		l.Publish(message(events.ContainerEventType, "create", "old"))
		time.Sleep(time.Minute)
		start := time.Now()
		l.Publish(message(events.ContainerEventType, "create", "c1"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var fresh, all []string
		add := func(to *[]string) func(events.Message) error {
			return func(m events.Message) error {
				*to = append(*to, m.Actor.ID)
				return nil
			}
		}
		done := make(chan error, 2)
		go func() { done <- l.Watch(ctx, time.Time{}, time.Time{}, nil, add(&fresh)) }()
		go func() { done <- l.Watch(ctx, start, start.Add(time.Hour), nil, add(&all)) }()
		synctest.Wait()
		l.Publish(message(events.ContainerEventType, "start", "c2"))
		synctest.Wait()
		time.Sleep(2 * time.Hour)
		l.Publish(message(events.ContainerEventType, "die", "c3"))
		synctest.Wait()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if want := []string{"c2", "c3"}; !slices.Equal(fresh, want) {
			t.Errorf("what came: %q, want %q", fresh, want)
		}
		if want := []string{"c1", "c2"}; !slices.Equal(all, want) {
			t.Errorf("what was asked for: %q, want %q", all, want)
		}
	})
}

// Only so many are remembered, and a watcher that does not read is ended, not waited for.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Log
		for i := range kept + 10 {
			l.Publish(message(events.ImageEventType, "pull", strconv.Itoa(i)))
		}
		var got []string
		err := l.Watch(t.Context(), time.Unix(1, 0), time.Now(), nil, func(m events.Message) error {
			got = append(got, m.Actor.ID)
			return nil
		})
		if err != nil || len(got) != kept || got[0] != "10" {
			t.Errorf("%d remembered, from %q on: %v", len(got), got[:1], err)
		}
		gate, done := make(chan struct{}), make(chan error, 1)
		go func() {
			done <- l.Watch(t.Context(), time.Time{}, time.Time{}, nil, func(events.Message) error { <-gate; return nil })
		}()
		synctest.Wait()
		for range maxQueue + 2 {
			l.Publish(message(events.ImageEventType, "pull", "x"))
			synctest.Wait()
		}
		close(gate)
		if err := <-done; !errors.Is(err, ErrSlow) {
			t.Errorf("a slow watcher: %v", err)
		}
	})
}

func TestFilters(t *testing.T) {
	start := message(events.ContainerEventType, "start", "abcdef", "name", "web", "image", "nginx:1", "tier", "front")
	health := message(events.ContainerEventType, "health_status: healthy", "abcdef", "name", "web")
	pull := message(events.ImageEventType, "pull", "nginx:1", "name", "nginx")
	connect := message(events.NetworkEventType, "connect", "n1", "name", "bridge", "container", "abcdef")
	for _, tt := range []struct {
		m    events.Message
		f    worker.Filters
		want bool
	}{
		{start, nil, true},
		{start, worker.Filters{"type": {"image", "container"}}, true},
		{start, worker.Filters{"type": {"image"}}, false},
		{start, worker.Filters{"event": {"start"}, "container": {"web"}}, true},
		{start, worker.Filters{"container": {"abc"}}, true},
		{start, worker.Filters{"container": {"bcd"}}, false},
		{start, worker.Filters{"container": {""}}, false},
		{start, worker.Filters{"label": {"tier=front"}}, true},
		{start, worker.Filters{"label": {"tier=back"}}, false},
		{start, worker.Filters{"image": {"nginx"}}, true},
		{start, worker.Filters{"image": {"nginx:1"}}, true},
		{start, worker.Filters{"image": {"nginx:2"}}, false},
		{start, worker.Filters{"scope": {"swarm"}}, false},
		{health, worker.Filters{"event": {"health_status"}}, true},
		{health, worker.Filters{"event": {"health_status: healthy"}}, true},
		{health, worker.Filters{"event": {"health"}}, false},
		{pull, worker.Filters{"image": {"nginx"}}, true},
		{connect, worker.Filters{"container": {"abcdef"}}, true},
		{connect, worker.Filters{"network": {"bridge"}}, true},
		{connect, worker.Filters{"volume": {"bridge"}}, false},
	} {
		t.Run(fmt.Sprint(tt.m.Action, tt.f), func(t *testing.T) {
			var l Log
			l.Publish(tt.m)
			got := false
			err := l.Watch(t.Context(), time.Unix(1, 0), time.Now(), tt.f, func(events.Message) error { got = true; return nil })
			if err != nil || got != tt.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	if err := new(Log).Watch(t.Context(), time.Time{}, time.Time{}, worker.Filters{"color": {"red"}}, nil); err == nil {
		t.Error("an unknown filter passes")
	}
}
