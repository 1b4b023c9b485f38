package engine

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"github.com/boxbuild/boxbuild/worker"
)

// volumeUsage is what Volumes have that can count the bytes of their volumes.
type volumeUsage interface {
	Usage(ctx context.Context) ([]volume.Volume, error)
}

// diskUsage sums up what the daemon keeps, of all kinds or of those asked for.
func (s *Server) diskUsage(ctx context.Context, c *call) error {
	kinds := c.form["type"]
	if c.before(42) {
		kinds = nil
	}
	for _, k := range kinds {
		switch system.DiskUsageObject(k) {
		case system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject:
		default:
			return worker.Invalidf("unknown object type: %s", k)
		}
	}
	want := func(k system.DiskUsageObject) bool { return len(kinds) == 0 || slices.Contains(kinds, string(k)) }
	var du system.DiskUsage
	var err error
	if want(system.ContainerObject) {
		if du.ContainerUsage, err = s.containerUsage(ctx); err != nil {
			return err
		}
	}
	if want(system.ImageObject) {
		if du.ImageUsage, err = s.imageUsage(ctx); err != nil {
			return err
		}
	}
	if want(system.VolumeObject) {
		if du.VolumeUsage, err = s.volumeUsage(ctx); err != nil {
			return err
		}
	}
	if want(system.BuildCacheObject) {
		if du.BuildCacheUsage, err = s.cacheUsage(ctx); err != nil {
			return err
		}
	}
	if c.before(52) {
		return c.send(http.StatusOK, legacyUsage(&du, c.version))
	}
	if c.is("verbose") {
		return c.send(http.StatusOK, &du)
	}
	if !c.before(53) {
		dropItems(&du)
		return c.send(http.StatusOK, &du)
	}
	both := bothUsages{oldUsage: legacyUsage(&du, c.version)} // which has the items
	dropItems(&du)
	both.DiskUsage = &du
	return c.send(http.StatusOK, both)
}

// bothUsages is the answer of 1.52, which is for clients of either form.
type bothUsages struct {
	*system.DiskUsage
	*oldUsage
}

// dropItems leaves the sums.
func dropItems(du *system.DiskUsage) {
	if u := du.ContainerUsage; u != nil {
		u.Items = nil
	}
	if u := du.ImageUsage; u != nil {
		u.Items = nil
	}
	if u := du.VolumeUsage; u != nil {
		u.Items = nil
	}
	if u := du.BuildCacheUsage; u != nil {
		u.Items = nil
	}
}

func (s *Server) containerUsage(ctx context.Context) (*container.DiskUsage, error) {
	u := &container.DiskUsage{Items: []container.Summary{}}
	if s.opt.Containers == nil {
		return u, nil
	}
	list, err := s.opt.Containers.List(ctx, worker.ListContainersOptions{All: true, Size: true})
	if err != nil {
		return nil, err
	}
	u.Items, u.TotalCount = list, int64(len(list))
	for i := range list {
		u.TotalSize += list[i].SizeRw
		if active(list[i].State) {
			u.ActiveCount++
		} else {
			u.Reclaimable += list[i].SizeRw
		}
	}
	return u, nil
}

// active says whether a container in a state is in use.
func active(st container.ContainerState) bool {
	return st == container.StateRunning || st == container.StatePaused || st == container.StateRestarting
}

func (s *Server) imageUsage(ctx context.Context) (*image.DiskUsage, error) {
	du, err := s.opt.Images.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.imageList(ctx, nil, listOptions{all: true, shared: true})
	if err != nil {
		return nil, err
	}
	return &image.DiskUsage{
		Items: list, TotalCount: int64(len(list)), ActiveCount: int64(du.Images.Active),
		TotalSize: du.Images.Size, Reclaimable: du.Images.Reclaimable,
	}, nil
}

func (s *Server) volumeUsage(ctx context.Context) (*volume.DiskUsage, error) {
	u := &volume.DiskUsage{Items: []volume.Volume{}}
	if s.opt.Volumes == nil {
		return u, nil
	}
	if counting, ok := s.opt.Volumes.(volumeUsage); ok {
		list, err := counting.Usage(ctx)
		if err != nil {
			return nil, err
		}
		u.Items = append(u.Items, list...)
	} else {
		list, err := s.opt.Volumes.List(ctx, nil)
		if err != nil {
			return nil, err
		}
		u.Items = append(u.Items, list.Volumes...)
	}
	u.TotalCount = int64(len(u.Items))
	for _, v := range u.Items {
		switch d := v.UsageData; {
		case d == nil:
		case d.RefCount > 0:
			u.ActiveCount++
			u.TotalSize += max(d.Size, 0)
		default:
			u.TotalSize += max(d.Size, 0)
			u.Reclaimable += max(d.Size, 0)
		}
	}
	return u, nil
}

func (s *Server) cacheUsage(ctx context.Context) (*build.DiskUsage, error) {
	du, err := s.opt.Images.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	u := &build.DiskUsage{
		Items: []build.CacheRecord{}, TotalCount: int64(du.BuildCache.Total), ActiveCount: int64(du.BuildCache.Active),
		TotalSize: du.BuildCache.Size, Reclaimable: du.BuildCache.Reclaimable,
	}
	for i := range du.Records {
		u.Items = append(u.Items, cacheRecord(&du.Records[i]))
	}
	return u, nil
}

func cacheRecord(r *worker.UsageRecord) build.CacheRecord {
	out := build.CacheRecord{
		ID: r.ID, Parents: r.Parents, Type: r.Type, Description: r.Description, InUse: r.InUse, Shared: r.Shared,
		Size: r.Size, CreatedAt: r.Created, UsageCount: r.Uses,
	}
	if !r.LastUsed.IsZero() {
		used := r.LastUsed.In(time.UTC)
		out.LastUsedAt = &used
	}
	return out
}

// oldUsage is the answer before 1.52.
type oldUsage struct {
	LayersSize  int64
	Images      any
	Containers  any
	Volumes     any
	BuildCache  any
	BuilderSize int64 `json:",omitempty"`
}

// legacyUsage is the answer as clients of a version before 1.52 expect it.
func legacyUsage(du *system.DiskUsage, v version) *oldUsage {
	out := &oldUsage{}
	if u := du.ImageUsage; u != nil {
		out.LayersSize, out.Images = u.TotalSize, imagesFor(u.Items, v)
	}
	if u := du.ContainerUsage; u != nil {
		out.Containers = containersFor(u.Items, v)
	}
	if u := du.VolumeUsage; u != nil {
		out.Volumes = u.Items
	}
	if u := du.BuildCacheUsage; u != nil {
		records := make([]oldRecord, len(u.Items))
		for i := range u.Items {
			records[i].CacheRecord = u.Items[i]
			if v.less(version{1, 42}) && len(u.Items[i].Parents) > 0 {
				records[i].Parent, records[i].Parents = u.Items[i].Parents[0], nil
			}
		}
		out.BuildCache = records
		if v.less(version{1, 42}) {
			out.BuilderSize = u.TotalSize
		}
	}
	return out
}

// oldRecord is a record that has one parent.
type oldRecord struct {
	build.CacheRecord
	Parent string `json:",omitempty"`
}
