package engine

import (
	"context"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"github.com/boxbuild/boxbuild/worker"
)

// volumes returns the volumes, or the error of a daemon that has none.
func (s *Server) volumes() (worker.Volumes, error) {
	if s.opt.Volumes == nil {
		return nil, errNoContainers
	}
	return s.opt.Volumes, nil
}

func (s *Server) listVolumes(ctx context.Context, c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	out := &volume.ListResponse{}
	if s.opt.Volumes != nil {
		if out, err = s.opt.Volumes.List(ctx, filters); err != nil {
			return err
		}
	}
	if out.Volumes == nil {
		out.Volumes = []volume.Volume{}
	}
	return c.send(http.StatusOK, out)
}

func (s *Server) inspectVolume(ctx context.Context, c *call) error {
	vs, err := s.volumes()
	if err != nil {
		return err
	}
	v, err := vs.Inspect(ctx, c.vars[0])
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, v)
}

func (s *Server) createVolume(ctx context.Context, c *call) error {
	vs, err := s.volumes()
	if err != nil {
		return err
	}
	var req volume.CreateRequest
	if err := c.read(&req); err != nil {
		return err
	}
	if req.ClusterVolumeSpec != nil && !c.before(42) {
		return errNoManager
	}
	v, err := vs.Create(ctx, &req)
	if err != nil {
		return err
	}
	return c.send(http.StatusCreated, v)
}

func (s *Server) updateVolume(context.Context, *call) error {
	return worker.Errorf(errdefs.ErrUnavailable, "volume update only valid for cluster volumes, but swarm is unavailable")
}

func (s *Server) removeVolume(ctx context.Context, c *call) error {
	vs, err := s.volumes()
	if err == nil {
		err = vs.Remove(ctx, c.vars[0], c.is("force"))
	}
	if err != nil {
		return err
	}
	return c.sendEmpty()
}

func (s *Server) pruneVolumes(ctx context.Context, c *call) error {
	vs, err := s.volumes()
	if err != nil {
		return err
	}
	filters, err := c.filters()
	if err != nil {
		return err
	}
	if c.before(42) { // which knew of no difference
		if filters == nil {
			filters = worker.Filters{}
		}
		filters["all"] = []string{"true"}
	}
	rep, err := vs.Prune(ctx, filters)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, rep)
}
