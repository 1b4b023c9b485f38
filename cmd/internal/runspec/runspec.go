// Package runspec makes requests of the Docker Engine API for containers out of the flags of `docker run`, `docker create`
// and `docker update`: the same flags give the same request that docker's own client sends.
//
// A Create is used once: Register its flags, parse the command line, ask for the Request. Nothing here talks to a daemon;
// only files that flags name are read. Flags are grouped by what they are about, a file each; each group knows its flags and
// what they add to the request.
package runspec

import (
	"fmt"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"
)

// A Create has the flags that run and create share. The zero value is ready for Register.
type Create struct {
	process  process
	identity identity
	network  networking
	storage  storage
	security security
	health   health
	limits   limits
	devices  devices
	foreign  foreign
}

// A group is flags that belong together.
type group interface {
	register(fs *pflag.FlagSet)
	// apply adds what the flags say to req.
	apply(req *container.CreateRequest, fs *pflag.FlagSet) error
}

// groups are in the order in which errors are reported: what cannot be done here comes first.
func (c *Create) groups() []group {
	return []group{&c.foreign, &c.process, &c.identity, &c.network, &c.storage, &c.security, &c.health, &c.limits, &c.devices}
}

// Register adds the flags to fs.
func (c *Create) Register(fs *pflag.FlagSet) {
	for _, g := range c.groups() {
		g.register(fs)
	}
}

// Request returns the request for a container of image that runs args, once fs has been parsed. proxies are variables
// that the user's configuration gives every container, unless a flag does.
func (c *Create) Request(fs *pflag.FlagSet, image string, args []string) (*container.CreateRequest, error) {
	req := &container.CreateRequest{
		Config: &container.Config{Image: image}, HostConfig: &container.HostConfig{},
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}},
	}
	if len(args) > 0 {
		req.Config.Cmd = args
	}
	for _, g := range c.groups() {
		if err := g.apply(req, fs); err != nil {
			return nil, err
		}
	}
	if req.HostConfig.AutoRemove && !req.HostConfig.RestartPolicy.IsNone() {
		return nil, fmt.Errorf("conflicting options: cannot specify both --restart and --rm")
	}
	return req, nil
}

// Attached says whether the user has chosen streams with --attach.
func (c *Create) Attached() bool { return c.process.attach.Len() > 0 }

// Env are the variables of --env, by name; nil for one that is to be taken away.
func (c *Create) Env() map[string]*string {
	return opts.ConvertKVStringsToMapWithNil(c.process.env.GetSlice())
}

// hide hides flags that exist under another name, or that no help should propose.
func hide(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		_ = fs.MarkHidden(name) // it exists
	}
}
