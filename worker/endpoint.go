package worker

import (
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/executor"
)

// A NetworkRequest is what a container wants of its network. The fields but Endpoints are not changed by anybody.
type NetworkRequest struct {
	ID, Name   string // the name without a slash
	Config     *container.Config
	HostConfig *container.HostConfig
	// Endpoints are by the names of networks, as the user gave them.
	Endpoints map[string]*network.EndpointSettings
	// Joined is, for the mode container:…, the ID of the one whose namespace it shares.
	Joined string
	// LinkNames are the names, without a slash, of the containers that HostConfig.Links has by ID.
	LinkNames map[string]string
	// Dir is the directory of the container. What Setup returns for /etc/hosts and /etc/resolv.conf is written there, to
	// "hosts" and "resolv.conf", which the container sees: to change them while it runs they are written in place.
	Dir string
}

// A NetworkSetup is the network of a container that runs.
type NetworkSetup struct {
	Network executor.Network
	// Hosts and ResolvConf are what /etc/hosts and /etc/resolv.conf hold; nil for those of the container that is joined,
	// or the host's.
	Hosts, ResolvConf []byte
	// Env are variables that describe linked containers, which come before the container's own.
	Env []string
}
