package native

import (
	"context"
	"time"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/worker"
)

// List implements the service.
func (s *Server) List(ctx context.Context, _ *boxbuildv1.ListRequest) (*boxbuildv1.ListResponse, error) {
	list, err := s.opt.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &boxbuildv1.ListResponse{
		Images: make([]*boxbuildv1.ImageSummary, len(list)), Platform: wirePlatform(s.opt.Platform),
	}
	for i := range list {
		out.Images[i] = wireSummary(&list[i])
	}
	return out, nil
}

func wireSummary(img *worker.ImageSummary) *boxbuildv1.ImageSummary {
	digests := make(map[string]string, len(img.NameDigests))
	for n, d := range img.NameDigests {
		digests[n] = string(d)
	}
	return &boxbuildv1.ImageSummary{
		Id: img.ID.String(), Names: img.Names, RepoDigests: img.RepoDigests, Created: timestamp(img.Created),
		Size: img.Size, SharedSize: img.SharedSize, ContentSize: img.ContentSize, Labels: img.Labels,
		Platform: wirePlatform(img.Platform), NameDigests: digests,
	}
}

// Inspect implements the service.
func (s *Server) Inspect(ctx context.Context, req *boxbuildv1.InspectRequest) (*boxbuildv1.InspectResponse, error) {
	img, err := s.opt.Images.Inspect(ctx, req.GetRef(), optionalPlatform(req.GetPlatform()))
	if err != nil {
		return nil, err
	}
	out := &boxbuildv1.InspectResponse{
		Summary: wireSummary(&img.ImageSummary), Config: img.Raw, LastTagged: timestamp(img.LastTagged),
	}
	for _, l := range img.Layers {
		out.Layers = append(out.Layers, l.String())
	}
	return out, nil
}

// History implements the service.
func (s *Server) History(ctx context.Context, req *boxbuildv1.HistoryRequest) (*boxbuildv1.HistoryResponse, error) {
	entries, err := s.opt.Images.History(ctx, req.GetRef(), optionalPlatform(req.GetPlatform()))
	if err != nil {
		return nil, err
	}
	out := &boxbuildv1.HistoryResponse{}
	for _, e := range entries {
		out.Entries = append(out.Entries, &boxbuildv1.HistoryEntry{
			Id: e.ID, Created: timestamp(e.Created), CreatedBy: e.CreatedBy, Size: e.Size,
			Comment: e.Comment, Tags: e.Tags,
		})
	}
	return out, nil
}

// Tag implements the service.
func (s *Server) Tag(ctx context.Context, req *boxbuildv1.TagRequest) (*boxbuildv1.TagResponse, error) {
	return &boxbuildv1.TagResponse{}, s.opt.Images.Tag(ctx, req.GetSource(), req.GetTarget())
}

// Remove implements the service.
func (s *Server) Remove(ctx context.Context, req *boxbuildv1.RemoveRequest) (*boxbuildv1.RemoveResponse, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	removed, err := s.opt.Images.Remove(ctx, req.GetRef(), worker.RemoveOptions{
		Force: req.GetForce(), NoPrune: req.GetNoPrune(), Platforms: platforms(req.GetPlatforms()),
	})
	if err != nil {
		return nil, err
	}
	return &boxbuildv1.RemoveResponse{Removed: wireRemoved(removed)}, nil
}

func wireRemoved(in []worker.Removed) []*boxbuildv1.Removed {
	out := make([]*boxbuildv1.Removed, len(in))
	for i, r := range in {
		out[i] = &boxbuildv1.Removed{Untagged: r.Untagged, Deleted: r.Deleted}
	}
	return out
}

// DiskUsage implements the service.
func (s *Server) DiskUsage(ctx context.Context, _ *boxbuildv1.DiskUsageRequest) (*boxbuildv1.DiskUsageResponse, error) {
	du, err := s.opt.Images.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	out := &boxbuildv1.DiskUsageResponse{Images: wireUsage(du.Images), BuildCache: wireUsage(du.BuildCache), Total: du.Total}
	if s.opt.History != nil {
		u := s.opt.History.Usage()
		out.History = &boxbuildv1.UsageClass{
			Total: int32(u.Builds), Active: int32(u.Running), Size: u.Size, Reclaimable: u.Reclaimable,
		}
		out.Total += u.Size
	}
	for _, r := range du.Records {
		out.Records = append(out.Records, &boxbuildv1.UsageRecord{
			Id: r.ID, Parent: r.Parent, Type: r.Type, Description: r.Description, Size: r.Size,
			Created: timestamp(r.Created), LastUsed: timestamp(r.LastUsed), Uses: int32(r.Uses),
			InUse: r.InUse, Shared: r.Shared,
		})
	}
	return out, nil
}

func wireUsage(c worker.UsageClass) *boxbuildv1.UsageClass {
	return &boxbuildv1.UsageClass{
		Total: int32(c.Total), Active: int32(c.Active), Size: c.Size, Reclaimable: c.Reclaimable,
	}
}

// Prune implements the service.
func (s *Server) Prune(ctx context.Context, req *boxbuildv1.PruneRequest) (*boxbuildv1.PruneResponse, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	rep, err := s.opt.Images.Prune(ctx, worker.PruneOptions{
		All: req.GetAll(), Images: req.GetImages(), Cache: req.GetCache(), KeepBytes: req.GetKeepBytes(),
		KeepFor: time.Duration(req.GetKeepForSeconds()) * time.Second, Labels: req.GetLabels(),
	})
	if err != nil {
		return nil, err
	}
	return &boxbuildv1.PruneResponse{Images: wireRemoved(rep.Images), Cache: rep.Cache, Freed: rep.Freed}, nil
}

// Login implements the service.
func (s *Server) Login(ctx context.Context, req *boxbuildv1.LoginRequest) (*boxbuildv1.LoginResponse, error) {
	if s.opt.Login == nil {
		return nil, usage("this daemon cannot verify credentials")
	}
	token, err := s.opt.Login(ctx, req.GetRegistry(), authConfig(req.GetCredentials()))
	if err != nil {
		return nil, err
	}
	return &boxbuildv1.LoginResponse{IdentityToken: token}, nil
}
