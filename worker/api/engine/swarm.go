package engine

import (
	"context"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/plugin"

	"github.com/boxbuild/boxbuild/worker"
)

// What a node answers that is in no swarm.
var (
	errNoManager = worker.Errorf(errdefs.ErrUnavailable, "This node is not a swarm manager. "+
		`Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	errNoSwarm = worker.Errorf(errdefs.ErrUnavailable, "This node is not part of a swarm")
	// errAlone is the answer to who would make it part of one.
	errAlone = missing("this daemon cannot be part of a swarm")
	// errNoPlugins is the answer to who would install some.
	errNoPlugins = missing("this daemon does not run plugins")
)

// answering is an endpoint with one answer.
func answering(err error) endpoint {
	return func(*Server, context.Context, *call) error { return err }
}

// swarmRoutes are the paths of what a daemon has that is part of a swarm, and of plugins. They answer as docker does on a
// node that is in no swarm and has no plugins: clients ask, and go on.
func swarmRoutes() []route {
	const get, post, del = http.MethodGet, http.MethodPost, http.MethodDelete
	list := []route{
		{post, "/swarm/init", answering(errAlone)},
		{post, "/swarm/join", answering(errAlone)},
		{post, "/swarm/leave", answering(errNoSwarm)},
		{post, "/swarm/update", answering(errNoManager)},
		{post, "/swarm/unlock", answering(errNoSwarm)},
		{get, "/swarm/unlockkey", answering(errNoManager)},
		{get, "/swarm", answering(errNoManager)},
		{get, "/services/{id}/logs", answering(errNoManager)},
		{get, "/tasks/{id}/logs", answering(errNoManager)},
		{get, "/tasks", answering(errNoManager)},
		{get, "/tasks/{id}", answering(errNoManager)},

		{get, "/plugins", (*Server).listPlugins},
		{get, "/plugins/privileges", answering(errNoPlugins)},
		{post, "/plugins/pull", answering(errNoPlugins)},
		{post, "/plugins/create", answering(errNoPlugins)},
		{get, "/plugins/{name...}/json", (*Server).plugin},
		{del, "/plugins/{name...}", (*Server).plugin},
	}
	for _, action := range []string{"enable", "disable", "upgrade", "push", "set"} {
		list = append(list, route{post, "/plugins/{name...}/" + action, (*Server).plugin})
	}
	for _, kind := range []string{"nodes", "services", "secrets", "configs"} {
		list = append(list,
			route{get, "/" + kind, answering(errNoManager)},
			route{get, "/" + kind + "/{id}", answering(errNoManager)},
			route{del, "/" + kind + "/{id}", answering(errNoManager)},
			route{post, "/" + kind + "/{id}/update", answering(errNoManager)},
		)
		if kind != "nodes" {
			list = append(list, route{post, "/" + kind + "/create", answering(errNoManager)})
		}
	}
	return list
}

func (s *Server) listPlugins(_ context.Context, c *call) error {
	return c.send(http.StatusOK, plugin.ListResponse{})
}

func (s *Server) plugin(_ context.Context, c *call) error {
	return worker.NotFoundf("plugin %q not found", c.vars[0])
}
