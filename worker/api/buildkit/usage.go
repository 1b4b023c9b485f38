package buildkit

import (
	"context"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/gc"
)

// DiskUsage implements the service: the records of the build cache.
func (s *Server) DiskUsage(ctx context.Context, req *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	resp := &controlapi.DiskUsageResponse{}
	err := s.perform(ctx, "DiskUsage", func(ctx context.Context) error {
		match, err := gc.Filter(req.GetFilter())
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
		rule := gc.Rule{
			All: req.GetAll(), Filters: req.GetFilter(), KeepFor: time.Duration(req.GetKeepDuration()),
			Reserved: req.GetReservedSpace(), MaxUsed: req.GetMaxUsedSpace(), MinFree: req.GetMinFreeSpace(),
		}
		opt, wanted, err := rule.Prune(ctx, s.opt.Images, s.opt.FreeSpace)
		if err != nil || !wanted {
			return err
		}
		opt.Records = true
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
