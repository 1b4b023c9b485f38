package workertest

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/worker"
)

// Volumes implements worker.Volumes in memory. It is safe for concurrent use.
type Volumes struct {
	mu   sync.Mutex // guards list
	list []volume.Volume
}

var _ worker.Volumes = (*Volumes)(nil)

func (v *Volumes) indexLocked(name string) (int, error) {
	i := slices.IndexFunc(v.list, func(o volume.Volume) bool { return o.Name == name })
	if i < 0 {
		return 0, worker.NotFoundf("get %s: no such volume", name)
	}
	return i, nil
}

// Create implements worker.Volumes.
func (v *Volumes) Create(_ context.Context, req *volume.CreateRequest) (*volume.Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if req.Driver != "" && req.Driver != "local" {
		return nil, worker.NotFoundf("error looking up volume plugin %s: plugin %q not found", req.Driver, req.Driver)
	}
	if i, err := v.indexLocked(req.Name); err == nil {
		return &v.list[i], nil
	}
	one := volume.Volume{
		Name: req.Name, Driver: "local", Scope: "local", Mountpoint: "/volumes/" + req.Name, Labels: req.Labels, Options: req.DriverOpts,
		CreatedAt: "2026-01-02T03:04:05Z",
	}
	if one.Name == "" {
		one.Name = digest.FromString("volume").Encoded()
	}
	v.list = append(v.list, one)
	return &one, nil
}

// Inspect implements worker.Volumes.
func (v *Volumes) Inspect(_ context.Context, name string) (*volume.Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	i, err := v.indexLocked(name)
	if err != nil {
		return nil, err
	}
	one := v.list[i]
	return &one, nil
}

// List implements worker.Volumes.
func (v *Volumes) List(_ context.Context, filters worker.Filters) (*volume.ListResponse, error) {
	if err := filters.Check("dangling", "driver", "label", "name"); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	out := &volume.ListResponse{}
	for _, one := range v.list {
		if filters.Contains("name", one.Name) && filters.Labels(one.Labels) {
			out.Volumes = append(out.Volumes, one)
		}
	}
	slices.SortFunc(out.Volumes, func(a, b volume.Volume) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Usage returns all volumes with their sizes, which are alike.
func (v *Volumes) Usage(ctx context.Context) ([]volume.Volume, error) {
	list, err := v.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	for i := range list.Volumes {
		list.Volumes[i].UsageData = &volume.UsageData{Size: 100}
	}
	return list.Volumes, nil
}

// Remove implements worker.Volumes.
func (v *Volumes) Remove(_ context.Context, name string, force bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	i, err := v.indexLocked(name)
	switch {
	case err != nil && force:
		return nil
	case err != nil:
		return err
	}
	v.list = slices.Delete(v.list, i, i+1)
	return nil
}

// Prune implements worker.Volumes. Only what "all" is asked for goes: they all have names.
func (v *Volumes) Prune(_ context.Context, filters worker.Filters) (*volume.PruneReport, error) {
	all, err := filters.Bool("all", false)
	if err != nil {
		return nil, err
	}
	rep := &volume.PruneReport{VolumesDeleted: []string{}}
	if !all {
		return rep, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, one := range v.list {
		rep.VolumesDeleted = append(rep.VolumesDeleted, one.Name)
		rep.SpaceReclaimed += 100
	}
	v.list = nil
	return rep, nil
}

// Networks implements worker.Networks in memory. It is safe for concurrent use.
type Networks struct {
	mu   sync.Mutex // guards list
	list []*network.Inspect
}

var _ worker.Networks = (*Networks)(nil)

func (n *Networks) findLocked(ref string) (*network.Inspect, error) {
	for _, one := range n.list {
		if one.Name == ref || one.ID == ref {
			return one, nil
		}
	}
	return nil, worker.NotFoundf("network %s not found", ref)
}

// Create implements worker.Networks.
func (n *Networks) Create(_ context.Context, req *network.CreateRequest) (*network.CreateResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.findLocked(req.Name); err == nil {
		return nil, worker.Conflictf("network with name %s already exists", req.Name)
	}
	one := &network.Inspect{
		Network: network.Network{
			Name: req.Name, ID: digest.FromString(req.Name).Encoded(), Scope: "local", Driver: cmp.Or(req.Driver, "bridge"),
			Labels: req.Labels, Options: req.Options, Internal: req.Internal, EnableIPv4: true,
		},
		Containers: map[string]network.EndpointResource{}, Status: &network.Status{},
	}
	n.list = append(n.list, one)
	return &network.CreateResponse{ID: one.ID}, nil
}

// Inspect implements worker.Networks.
func (n *Networks) Inspect(_ context.Context, ref string) (*network.Inspect, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	one, err := n.findLocked(ref)
	if err != nil {
		return nil, err
	}
	out := *one
	return &out, nil
}

// List implements worker.Networks.
func (n *Networks) List(_ context.Context, filters worker.Filters) ([]network.Summary, error) {
	if err := filters.Check("dangling", "driver", "id", "label", "name", "scope", "type"); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []network.Summary
	for _, one := range n.list {
		if filters.Contains("name", one.Name) && filters.Labels(one.Labels) {
			out = append(out, network.Summary{Network: one.Network})
		}
	}
	return out, nil
}

// Remove implements worker.Networks.
func (n *Networks) Remove(_ context.Context, ref string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	one, err := n.findLocked(ref)
	switch {
	case err != nil:
		return err
	case len(one.Containers) > 0:
		return worker.Conflictf("error while removing network: network %s has active endpoints", ref)
	}
	n.list = slices.DeleteFunc(n.list, func(o *network.Inspect) bool { return o == one })
	return nil
}

// Prune implements worker.Networks.
func (n *Networks) Prune(_ context.Context, filters worker.Filters) (*network.PruneReport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	rep := &network.PruneReport{}
	n.list = slices.DeleteFunc(n.list, func(o *network.Inspect) bool {
		if len(o.Containers) > 0 || !filters.Labels(o.Labels) {
			return false
		}
		rep.NetworksDeleted = append(rep.NetworksDeleted, o.Name)
		return true
	})
	return rep, nil
}

// Connect implements worker.Networks.
func (n *Networks) Connect(_ context.Context, ref string, req *network.ConnectRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	one, err := n.findLocked(ref)
	if err == nil {
		res := network.EndpointResource{Name: req.Container}
		if req.EndpointConfig != nil {
			res.MacAddress = req.EndpointConfig.MacAddress
		}
		one.Containers[req.Container] = res
	}
	return err
}

// Disconnect implements worker.Networks.
func (n *Networks) Disconnect(_ context.Context, ref string, req *network.DisconnectRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	one, err := n.findLocked(ref)
	if err == nil {
		delete(one.Containers, req.Container)
	}
	return err
}
