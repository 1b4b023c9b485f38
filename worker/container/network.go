package container

import (
	"context"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/worker"
)

// A Network gives containers their networks. A container has at most one call of these at a time. All methods are
// idempotent. Errors have docker's texts and are of the classes that worker.Containers describes.
type Network interface {
	// Check is called when a container is made: it refuses what can never be set up, and may complete r.Endpoints, which
	// then are what the container keeps.
	Check(ctx context.Context, r *worker.NetworkRequest) error
	// Setup makes the network of a container that is about to run: its namespace, addresses and published ports. When it
	// fails nothing is left.
	Setup(ctx context.Context, r *worker.NetworkRequest) (*worker.NetworkSetup, error)
	// Restore takes over what Setup of an earlier daemon made for a container that runs on, and mends what is missing.
	Restore(ctx context.Context, r *worker.NetworkRequest) (*worker.NetworkSetup, error)
	// Teardown gives back what Setup made: when it returns the ports and addresses are free.
	Teardown(ctx context.Context, id string) error
	// Settle is called once, when Restore has been called for all that run: what others have is given back.
	Settle(ctx context.Context) error
	// Settings are what inspect shows of the container; nil if it has no network now.
	Settings(id string) *container.NetworkSettings
	// Stats are the counters of its interfaces by name; nil if it has none of its own.
	Stats(ctx context.Context, id string) (map[string]container.NetworkStats, error)
}

// networkRequest is what rec wants of its network.
func (m *Manager) networkRequest(rec *record) (*worker.NetworkRequest, error) {
	r := &worker.NetworkRequest{
		ID: rec.ID, Name: rec.Name, Config: rec.Config, HostConfig: rec.HostConfig, Endpoints: rec.Endpoints, Dir: m.dir(rec.ID),
	}
	if len(rec.HostConfig.Links) > 0 && !rec.HostConfig.NetworkMode.IsUserDefined() {
		host := *rec.HostConfig
		host.Links, r.LinkNames = m.links(rec)
		r.HostConfig = &host
	}
	if !rec.HostConfig.NetworkMode.IsContainer() {
		return r, nil
	}
	ref := rec.HostConfig.NetworkMode.ConnectedContainer()
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	if c.id == rec.ID {
		return nil, worker.Invalidf("cannot join own network")
	}
	r.Joined = c.id
	return r, nil
}
