package buildkit

import (
	"context"
	"maps"
	"net/netip"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A Worker is what the daemon says of itself. There is exactly one.
type Worker struct {
	ID     string
	Labels map[string]string // by BuildKit's names
	GC     []GCRule
	// HostGateway is the address by which builds reach the host, the zero Addr if there is none: what clients put in place of
	// host-gateway. It may be nil.
	HostGateway func() netip.Addr
	// Devices are those that builds can name; it may be nil.
	Devices func() []*apitypes.CDIDevice
	// Package, Version and Revision are the program's; Dockerfile is the version of the language that it builds.
	Package, Version, Revision, Dockerfile string
}

// A GCRule is a rule by which the daemon frees space. Sizes are bytes.
type GCRule struct {
	All                                       bool
	Filter                                    []string
	KeepDuration                              time.Duration
	ReservedSpace, MaxUsedSpace, MinFreeSpace int64
}

// hostGatewayLabel is where docker's clients look for the address of host-gateway.
const hostGatewayLabel = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

// labels are all labels, with those that are found out.
func (w *Worker) labels() map[string]string {
	if w.HostGateway == nil {
		return w.Labels
	}
	a := w.HostGateway()
	if _, given := w.Labels[hostGatewayLabel]; given || !a.IsValid() {
		return w.Labels
	}
	out := maps.Clone(w.Labels)
	if out == nil {
		out = make(map[string]string)
	}
	out[hostGatewayLabel] = a.String()
	return out
}

func (w *Worker) version() *apitypes.BuildkitVersion {
	return &apitypes.BuildkitVersion{
		Package: w.Package, Version: w.Version, Revision: w.Revision, DockerfileVersion: w.Dockerfile,
	}
}

// Info implements the service.
func (s *Server) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: s.opt.Worker.version()}, nil
}

// ListWorkers implements the service.
func (s *Server) ListWorkers(ctx context.Context, req *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	resp := &controlapi.ListWorkersResponse{}
	err := s.perform(ctx, "ListWorkers", func(ctx context.Context) error {
		filter, err := filters.ParseAll(req.GetFilter()...)
		if err != nil {
			return &frontend.UsageError{Message: "failed to parse filter: " + err.Error()}
		}
		w := &s.opt.Worker
		if !filter.Match(filters.AdapterFunc(w.field)) {
			return nil
		}
		rec := &apitypes.WorkerRecord{ID: w.ID, Labels: w.labels(), BuildkitVersion: w.version()}
		for _, p := range s.platforms(ctx) {
			rec.Platforms = append(rec.Platforms, &pb.Platform{
				OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
			})
		}
		for _, g := range w.GC {
			rec.GCPolicy = append(rec.GCPolicy, &apitypes.GCPolicy{
				All: g.All, Filters: g.Filter, KeepDuration: int64(g.KeepDuration),
				ReservedSpace: g.ReservedSpace, MaxUsedSpace: g.MaxUsedSpace, MinFreeSpace: g.MinFreeSpace,
			})
		}
		if w.Devices != nil {
			rec.CDIDevices = w.Devices()
		}
		resp.Record = append(resp.Record, rec)
		return nil
	})
	return resp, err
}

// field is what filters of workers may ask for.
func (w *Worker) field(path []string) (string, bool) {
	switch {
	case len(path) == 1 && path[0] == "id":
		return w.ID, w.ID != ""
	case len(path) > 1 && path[0] == "labels":
		v, ok := w.Labels[joined(path[1:])]
		return v, ok
	}
	return "", false
}

// joined puts a path together again that a filter took apart at its dots.
func joined(path []string) string {
	out := ""
	for i, p := range path {
		if i > 0 {
			out += "."
		}
		out += p
	}
	return out
}

// platforms are those that the daemon builds for, its own first.
func (s *Server) platforms(ctx context.Context) []op.Platform {
	if s.opt.Platforms != nil {
		if list := s.opt.Platforms(ctx); len(list) > 0 {
			return list
		}
	}
	return []op.Platform{s.opt.Platform}
}
