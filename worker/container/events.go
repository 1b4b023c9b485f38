package container

import (
	"maps"

	"github.com/moby/moby/api/types/events"
)

// publish reports what happens to a container, with its labels as docker does.
func (c *ctr) publish(action events.Action, attrs map[string]string) {
	if c.m.deps.Events == nil {
		return
	}
	rec := c.get()
	all := maps.Clone(rec.Config.Labels)
	if all == nil {
		all = make(map[string]string, 2+len(attrs))
	}
	maps.Copy(all, attrs)
	if rec.Config.Image != "" {
		all["image"] = rec.Config.Image
	}
	all["name"] = rec.Name
	c.m.deps.Events.Publish(events.Message{
		Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: rec.ID, Attributes: all},
	})
}
