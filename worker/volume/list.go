package volume

import (
	"context"
	"slices"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"github.com/boxbuild/boxbuild/worker"
)

// List implements worker.Volumes.
func (s *Service) List(_ context.Context, filters worker.Filters) (*volume.ListResponse, error) {
	if err := filters.Check("dangling", "driver", "label", "name"); err != nil {
		return nil, err
	}
	dangling, err := filters.Bool("dangling", false)
	if err != nil {
		return nil, err
	}
	byUse := len(filters["dangling"]) > 0
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &volume.ListResponse{Volumes: []volume.Volume{}}
	for name, v := range s.volumes {
		if v.gone || !filters.Match("driver", driver) || !filters.Contains("name", name) || !filters.Labels(v.Labels) {
			continue
		}
		if byUse && dangling != (len(v.holders) == 0) {
			continue
		}
		out.Volumes = append(out.Volumes, *s.describeLocked(name, v))
	}
	slices.SortFunc(out.Volumes, byName)
	return out, nil
}

// Usage returns all volumes with their sizes, which it counts.
func (s *Service) Usage(ctx context.Context) ([]volume.Volume, error) {
	list, err := s.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	for i := range list.Volumes {
		v := &list.Volumes[i]
		n, err := size(v.Mountpoint)
		if err != nil {
			return nil, err
		}
		v.UsageData = &volume.UsageData{Size: n, RefCount: int64(len(s.Holders(v.Name)))}
	}
	return list.Volumes, nil
}

// Prune implements worker.Volumes: it removes what no container names, and of that only what nobody has named unless the
// filter "all" is true.
func (s *Service) Prune(ctx context.Context, filters worker.Filters) (*volume.PruneReport, error) {
	if err := filters.Check("all", "label", "label!"); err != nil {
		return nil, err
	}
	all, err := filters.Bool("all", false)
	if err != nil {
		return nil, err
	}
	list, err := s.List(ctx, worker.Filters{"dangling": {"true"}, "label": filters["label"]})
	if err != nil {
		return nil, err
	}
	report := &volume.PruneReport{VolumesDeleted: []string{}}
	for _, v := range list.Volumes {
		if _, anonymous := v.Labels[AnonymousLabel]; !anonymous && !all || !filters.Labels(v.Labels) {
			continue
		}
		n, err := size(v.Mountpoint)
		if err != nil {
			return nil, err
		}
		if s.Remove(ctx, v.Name, false) != nil {
			continue // a container has come to name it, or somebody else has removed it
		}
		report.VolumesDeleted = append(report.VolumesDeleted, v.Name)
		report.SpaceReclaimed += uint64(n)
	}
	s.publish("", events.ActionPrune, map[string]string{"reclaimed": formatBytes(report.SpaceReclaimed)})
	return report, nil
}
