package container

import (
	"context"
	"maps"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// Rename implements worker.Containers.
func (m *Manager) Rename(ctx context.Context, ref, name string) error {
	name = trimSlash(name)
	if name == "" {
		return worker.Invalidf("New name cannot be empty")
	}
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	old := c.get().Name
	if old == name {
		return worker.Invalidf("Renaming a container with the same name as its current name")
	}
	m.mu.Lock()
	err = m.nameFreeLocked(name)
	if err == nil && m.byID[c.id] == nil {
		err = noSuch(ref)
	}
	if err == nil {
		m.byName[name] = c
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	unused := old
	if err = c.save(func(rec *record) { rec.Name = name }); err != nil {
		unused = name
	}
	m.mu.Lock()
	delete(m.byName, unused)
	m.mu.Unlock()
	if err == nil {
		c.publish(events.ActionRename, map[string]string{"oldName": "/" + old})
	}
	return err
}

// Update implements worker.Containers.
func (m *Manager) Update(ctx context.Context, ref string, u *container.UpdateConfig) (*container.UpdateResponse, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	rec := c.get()
	if p := rec.Status.Phase; p == Removing || p == Dead || p == Gone {
		return nil, worker.Conflictf("container is marked for removal and cannot be \"update\"")
	}
	next := *rec.HostConfig
	asked := u.Resources
	warnings, err := m.discard(&asked)
	if err != nil {
		return nil, err
	}
	if err := updateResources(&next.Resources, &asked); err != nil {
		return nil, err
	}
	if u.RestartPolicy.Name != "" {
		if err := checkPolicy(u.RestartPolicy); err != nil {
			return nil, err
		}
		if next.AutoRemove && !u.RestartPolicy.IsNone() {
			return nil, worker.Conflictf("Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		next.RestartPolicy = u.RestartPolicy
	}
	if box, err := c.running(); err == nil {
		if err := box.Update(ctx, limits(&next.Resources)); err != nil {
			return nil, err
		}
	}
	if err := c.save(func(rec *record) { rec.HostConfig = &next }); err != nil {
		return nil, err
	}
	c.publish(events.ActionUpdate, nil)
	if warnings == nil {
		warnings = []string{}
	}
	return &container.UpdateResponse{Warnings: warnings}, nil
}

// updateResources replaces what an update sets.
func updateResources(r, u *container.Resources) error {
	set(&r.BlkioWeight, u.BlkioWeight)
	set(&r.CPUShares, u.CPUShares)
	set(&r.CpusetCpus, u.CpusetCpus)
	set(&r.CpusetMems, u.CpusetMems)
	set(&r.CPURealtimePeriod, u.CPURealtimePeriod)
	set(&r.CPURealtimeRuntime, u.CPURealtimeRuntime)
	if u.NanoCPUs != 0 {
		if r.CPUPeriod > 0 {
			return worker.Conflictf("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
		}
		if r.CPUQuota > 0 {
			return worker.Conflictf("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
		}
		r.NanoCPUs = u.NanoCPUs
	}
	if u.CPUPeriod != 0 || u.CPUQuota != 0 {
		if r.NanoCPUs > 0 {
			return worker.Conflictf("Conflicting options: CPU Period and CPU Quota cannot be updated as NanoCPUs has already been set")
		}
		set(&r.CPUPeriod, u.CPUPeriod)
		set(&r.CPUQuota, u.CPUQuota)
	}
	if u.Memory != 0 {
		// Without a limit for both memory and swap there is no room below it either, as docker sees it. One that is too low
		// for anything is refused below.
		if u.Memory >= minMemory && u.Memory > r.MemorySwap && u.MemorySwap == 0 {
			return worker.Conflictf("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
		}
		r.Memory = u.Memory
	}
	set(&r.MemorySwap, u.MemorySwap)
	set(&r.MemoryReservation, u.MemoryReservation)
	if u.PidsLimit != nil {
		limit := max(*u.PidsLimit, 0) // all below mean none; that it was taken away can be seen, as in docker
		r.PidsLimit = &limit
	}
	if err := checkMemory(r); err != nil {
		return err
	}
	return checkCPU(r)
}

// set replaces own unless there is nothing to replace it by.
func set[T comparable](own *T, by T) {
	var zero T
	if by != zero {
		*own = by
	}
}

// Prune implements worker.Containers.
func (m *Manager) Prune(ctx context.Context, filters worker.Filters) (*container.PruneReport, error) {
	if err := filters.Check("label", "label!", "until"); err != nil {
		return nil, err
	}
	until, err := m.until(filters["until"])
	if err != nil {
		return nil, err
	}
	report := &container.PruneReport{ContainersDeleted: []string{}}
	for _, c := range m.all() {
		if ctx.Err() != nil {
			return report, context.Cause(ctx)
		}
		rec := c.get()
		if rec.Status.Up() || !until.IsZero() && rec.Created.After(until) || !filters.Labels(rec.Config.Labels) {
			continue
		}
		size, _ := m.sizes(ctx, c)
		if err := m.Remove(ctx, c.id, worker.RemoveContainerOptions{}); err != nil {
			m.warn("pruning a container", err)
			continue
		}
		report.ContainersDeleted = append(report.ContainersDeleted, c.id)
		report.SpaceReclaimed += uint64(size)
	}
	if m.deps.Events != nil {
		m.deps.Events.Publish(events.Message{
			Type: events.ContainerEventType, Action: events.ActionPrune,
			Actor: events.Actor{Attributes: map[string]string{"reclaimed": itoa(int(report.SpaceReclaimed))}},
		})
	}
	return report, nil
}

// until reads a moment as docker's clients write it: a duration before now, a Unix time, or a date.
func (m *Manager) until(values []string) (time.Time, error) {
	switch len(values) {
	case 0:
		return time.Time{}, nil
	case 1:
	default:
		return time.Time{}, worker.Invalidf("more than one until filter specified")
	}
	v := values[0]
	if d, err := time.ParseDuration(v); err == nil {
		return m.now().Add(-d), nil
	}
	if d, err := time.ParseDuration(v + "s"); err == nil && d > 0 {
		return time.Unix(0, int64(d)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, worker.Invalidf("failed to parse value as time or duration: %q", v)
}

// EditEndpoint calls f with what a container wants of its networks, and stores what it returns for one of them: nil takes the
// container off that. Nobody else changes the container meanwhile, so f may change what is set up for it. With an error of f
// nothing is stored.
func (m *Manager) EditEndpoint(
	ctx context.Context, ref, name string, f func(*worker.NetworkRequest) (*network.EndpointSettings, error),
) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	return c.editEndpoint(ctx, name, f)
}

func (c *ctr) editEndpoint(
	ctx context.Context, name string, f func(*worker.NetworkRequest) (*network.EndpointSettings, error),
) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	switch c.status().Phase {
	case Gone:
		return noSuch(c.id)
	case Removing, Dead:
		return worker.Conflictf("container %s is marked for removal and cannot be connected or disconnected to the network", c.id)
	case Created, Running, Paused, Restarting, Exited:
	}
	r, err := c.m.networkRequest(c.get())
	if err != nil {
		return err
	}
	e, err := f(r)
	if err != nil {
		return err
	}
	return c.save(func(rec *record) {
		rec.Endpoints = maps.Clone(rec.Endpoints)
		delete(rec.Endpoints, name)
		if e == nil {
			return
		}
		if rec.Endpoints == nil {
			rec.Endpoints = make(map[string]*network.EndpointSettings)
		}
		rec.Endpoints[name] = e.Copy()
	})
}
