package container

import (
	"context"
	"iter"

	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// Source returns the source of leases: what containers stand on is kept.
func (m *Manager) Source() lease.Source {
	return lease.Source{Kind: lease.Container, Class: lease.Pinned, List: m.listItems}
}

func (m *Manager) listItems(context.Context) iter.Seq2[lease.Info, error] {
	return func(yield func(lease.Info, error) bool) {
		for _, c := range m.all() {
			rec := c.get()
			info := lease.Info{Item: lease.Item{Kind: lease.Container, Name: rec.ID}, Created: rec.Created, Used: rec.Status.StartedAt}
			if id := rec.lower(); id != "" {
				info.Refs = append(info.Refs, lease.ID(id))
			}
			for _, p := range rec.Mounts {
				if p.Type == mount.TypeImage {
					info.Refs = append(info.Refs, lease.ID(p.Snapshot))
				}
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Users returns the containers of an image, those that run first.
func (m *Manager) Users(id digest.Digest) []worker.ImageUser {
	var running, others []worker.ImageUser
	for _, c := range m.all() {
		rec := c.get()
		if rec.Image != id {
			continue
		}
		if u := (worker.ImageUser{Container: rec.ID, Running: rec.Status.Up()}); u.Running {
			running = append(running, u)
		} else {
			others = append(others, u)
		}
	}
	return append(running, others...)
}
