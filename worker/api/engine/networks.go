package engine

import (
	"context"
	"net/http"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// networks returns the networks, or the error of a daemon that has none.
func (s *Server) networks() (worker.Networks, error) {
	if s.opt.Networks == nil {
		return nil, errNoContainers
	}
	return s.opt.Networks, nil
}

func (s *Server) listNetworks(ctx context.Context, c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	list := []network.Summary{}
	if s.opt.Networks != nil {
		got, err := s.opt.Networks.List(ctx, filters)
		if err != nil {
			return err
		}
		list = append(list, got...)
	}
	return c.send(http.StatusOK, list)
}

func (s *Server) inspectNetwork(ctx context.Context, c *call) error {
	ns, err := s.networks()
	if err != nil {
		return err
	}
	if v := c.get("verbose"); v != "" {
		if _, err := strconv.ParseBool(v); err != nil {
			return worker.Invalidf("invalid value for verbose: %s", v)
		}
	}
	n, err := ns.Inspect(ctx, c.vars[0])
	switch {
	case err != nil:
		return err
	case c.get("scope") != "" && c.get("scope") != n.Scope:
		return worker.NotFoundf("network %s not found", c.vars[0])
	}
	if c.before(52) {
		n.Status = nil
	}
	return c.send(http.StatusOK, n)
}

func (s *Server) createNetwork(ctx context.Context, c *call) error {
	ns, err := s.networks()
	if err != nil {
		return err
	}
	var req network.CreateRequest
	if err := c.read(&req); err != nil {
		return err
	}
	if c.before(48) {
		req.EnableIPv4 = nil
	}
	if req.Scope == "swarm" || req.Ingress {
		return errNoManager
	}
	res, err := ns.Create(ctx, &req)
	if err != nil {
		return err
	}
	return c.send(http.StatusCreated, res)
}

func (s *Server) connectNetwork(ctx context.Context, c *call) error {
	ns, err := s.networks()
	if err != nil {
		return err
	}
	var req network.ConnectRequest
	if err := c.read(&req); err != nil {
		return err
	}
	if c.before(54) && req.EndpointConfig != nil {
		req.EndpointConfig.MacAddress = nil // was not looked at
	}
	return ns.Connect(ctx, c.vars[0], &req)
}

func (s *Server) disconnectNetwork(ctx context.Context, c *call) error {
	ns, err := s.networks()
	if err != nil {
		return err
	}
	var req network.DisconnectRequest
	if err := c.read(&req); err != nil {
		return err
	}
	return ns.Disconnect(ctx, c.vars[0], &req)
}

func (s *Server) removeNetwork(ctx context.Context, c *call) error {
	ns, err := s.networks()
	if err == nil {
		err = ns.Remove(ctx, c.vars[0])
	}
	if err != nil {
		return err
	}
	return c.sendEmpty()
}

func (s *Server) pruneNetworks(ctx context.Context, c *call) error {
	ns, err := s.networks()
	if err != nil {
		return err
	}
	filters, err := c.filters()
	if err != nil {
		return err
	}
	rep, err := ns.Prune(ctx, filters)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, rep)
}
