package buildkit

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/worker"
)

// DiskUsage implements the service: the records of the build cache.
func (s *Server) DiskUsage(ctx context.Context, req *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	resp := &controlapi.DiskUsageResponse{}
	err := s.perform(ctx, "DiskUsage", func(ctx context.Context) error {
		match, err := recordFilter(req.GetFilter())
		if err != nil {
			return err
		}
		du, err := s.opt.Images.DiskUsage(ctx)
		if err != nil {
			return err
		}
		limit := time.Duration(req.GetAgeLimit())
		for i := range du.Records {
			r := &du.Records[i]
			if limit > 0 && time.Since(lastUsed(r)) < limit {
				continue
			}
			if match == nil || match(r) {
				resp.Record = append(resp.Record, wireRecord(r))
			}
		}
		return nil
	})
	return resp, err
}

func lastUsed(r *worker.UsageRecord) time.Time {
	if r.LastUsed.IsZero() {
		return r.Created
	}
	return r.LastUsed
}

// Prune implements the service. What was removed is sent when all is.
func (s *Server) Prune(req *controlapi.PruneRequest, stream controlapi.Control_PruneServer) error {
	return s.perform(stream.Context(), "Prune", func(ctx context.Context) error {
		match, err := recordFilter(req.GetFilter())
		if err != nil {
			return err
		}
		opt := worker.PruneOptions{
			Cache: true, All: req.GetAll(), KeepFor: time.Duration(req.GetKeepDuration()), Match: match, Records: true,
		}
		keep, any, err := s.keepBytes(ctx, req)
		if err != nil {
			return err
		}
		if !any {
			return nil
		}
		opt.KeepBytes = keep
		rep, err := s.opt.Images.Prune(ctx, opt)
		if err != nil {
			return err
		}
		for i := range rep.Records {
			if err := stream.Send(wireRecord(&rep.Records[i])); err != nil {
				return err
			}
		}
		return nil
	})
}

// keepBytes returns how many bytes the cache may have afterwards, 0 for no limit, and whether anything has to go: as many as
// the most that it may have, fewer if the disk is to have more free, but never fewer than are reserved.
func (s *Server) keepBytes(ctx context.Context, req *controlapi.PruneRequest) (int64, bool, error) {
	reserved, most, free := req.GetReservedSpace(), req.GetMaxUsedSpace(), req.GetMinFreeSpace()
	if reserved == 0 && most == 0 && free == 0 {
		return 0, true, nil
	}
	du, err := s.opt.Images.DiskUsage(ctx)
	if err != nil {
		return 0, false, err
	}
	var total int64
	for i := range du.Records {
		if !du.Records[i].Shared {
			total += du.Records[i].Size
		}
	}
	keep := most
	if free != 0 {
		have, err := s.opt.FreeSpace()
		if err != nil {
			return 0, false, err
		}
		switch lack := free - have; {
		case lack <= 0 && keep == 0:
			keep = total
		case lack > 0 && keep == 0:
			keep = total - lack
		case lack > 0:
			keep = min(keep, total-lack)
		}
	}
	keep = max(keep, reserved, 1) // 0 would be no limit at all
	return keep, total >= keep, nil
}

// recordFilter reads filters of records, in containerd's syntax with BuildKit's names. A record passes that passes one of
// them; nil passes all.
func recordFilter(list []string) (func(*worker.UsageRecord) bool, error) {
	if len(list) == 0 {
		return nil, nil
	}
	f, err := filters.ParseAll(list...)
	if err != nil {
		return nil, &frontend.UsageError{Message: "failed to parse filters " + strings.Join(list, ", ") + ": " + err.Error()}
	}
	return func(r *worker.UsageRecord) bool {
		return f.Match(filters.AdapterFunc(func(path []string) (string, bool) { return recordField(r, path) }))
	}, nil
}

// recordField is what filters may ask for.
func recordField(r *worker.UsageRecord, path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	switch path[0] {
	case "id":
		return r.ID, r.ID != ""
	case "parents":
		return strings.Join(r.Parents, ";"), len(r.Parents) > 0
	case "description":
		return r.Description, r.Description != ""
	case "inuse":
		return "", r.InUse
	case "mutable":
		return "", r.Mutable
	case "immutable":
		return "", !r.Mutable
	case "type":
		return r.Type, r.Type != ""
	case "shared":
		return "", r.Shared
	case "private":
		return "", !r.Shared
	}
	return "", false
}

func wireRecord(r *worker.UsageRecord) *controlapi.UsageRecord {
	out := &controlapi.UsageRecord{
		ID: r.ID, Mutable: r.Mutable, InUse: r.InUse, Size: r.Size, Parents: r.Parents, UsageCount: int64(r.Uses),
		Description: r.Description, RecordType: r.Type, Shared: r.Shared, CreatedAt: timestamppb.New(r.Created),
	}
	if !r.LastUsed.IsZero() {
		out.LastUsedAt = timestamppb.New(r.LastUsed)
	}
	return out
}
