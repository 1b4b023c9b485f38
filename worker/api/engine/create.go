package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// createContainer makes a container.
func (s *Server) createContainer(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	var in createRequest
	if c.r.Body == nil || c.r.ContentLength == 0 {
		return worker.Invalidf("invalid JSON: got EOF while reading request body")
	}
	if err := c.read(&in); err != nil {
		return err
	}
	if in.now.Config == nil {
		return worker.Invalidf("config cannot be empty in order to create a container")
	}
	req := &worker.ContainerCreate{CreateRequest: in.now, Name: c.get("name")}
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	if req.NetworkingConfig == nil {
		req.NetworkingConfig = &network.NetworkingConfig{}
	}
	if req.NetworkingConfig.EndpointsConfig == nil {
		req.NetworkingConfig.EndpointsConfig = map[string]*network.EndpointSettings{}
	}
	defaultNetwork(req)
	if err := adapt(req, c.version); err != nil {
		return err
	}
	warnings, err := migrate(req, &in.old, c.version)
	if err != nil {
		return err
	}
	if p := c.get("platform"); p != "" && !c.before(41) {
		parsed, err := platforms.Parse(p)
		if err != nil {
			return worker.Invalidf("%v", err)
		}
		req.Platform = &parsed
	}
	res, err := cs.Create(ctx, req)
	switch {
	case errors.Is(err, worker.ErrNotFound):
		return noImage(req.Image, err)
	case err != nil:
		return err
	}
	res.Warnings = append(append([]string{}, res.Warnings...), warnings...)
	return c.send(http.StatusCreated, res)
}

// defaultNetwork gives the network that is asked for as "default" the name that it has here.
func defaultNetwork(req *worker.ContainerCreate) {
	mode := &req.HostConfig.NetworkMode
	if *mode != "" && *mode != network.NetworkDefault {
		return
	}
	*mode = network.NetworkBridge
	nets := req.NetworkingConfig.EndpointsConfig
	if ep, ok := nets[network.NetworkDefault]; ok {
		nets[network.NetworkBridge] = ep
		delete(nets, network.NetworkDefault)
	}
}

// adapt makes a request of a version what it would be in the current one.
func adapt(req *worker.ContainerCreate, v version) error {
	before := func(minor int) bool { return v.less(version{1, minor}) }
	host := req.HostConfig
	if before(25) {
		host.AutoRemove = false // the client does it
	}
	if before(40) && host.IpcMode.IsEmpty() {
		host.IpcMode = container.IPCModeShareable
	}
	if before(42) {
		host.ConsoleSize = [2]uint{}
	}
	if before(43) {
		host.Annotations = nil
	}
	if before(56) {
		host.Umask = nil
	}
	if before(44) && req.Healthcheck != nil {
		req.Healthcheck.StartInterval = 0
	}
	req.ReadOnlyTop = before(44)
	for i := range host.Mounts {
		if err := adaptMount(&host.Mounts[i], v); err != nil {
			return err
		}
	}
	if nets := req.NetworkingConfig.EndpointsConfig; before(44) && len(nets) > 1 {
		return worker.Invalidf("Container cannot be created with multiple network endpoints: %s",
			strings.Join(slices.Sorted(maps.Keys(nets)), ", "))
	}
	return nil
}

// adaptMount does so for a mount.
func adaptMount(m *mount.Mount, v version) error {
	before := func(minor int) bool { return v.less(version{1, minor}) }
	if b := m.BindOptions; b != nil {
		b.NonRecursive = b.NonRecursive && !before(40)
		b.CreateMountpoint = b.CreateMountpoint && !before(42)
		if before(44) && b.ReadOnlyForceRecursive && m.Type == mount.TypeBind {
			return worker.Invalidf("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
		}
	}
	if before(44) && m.Type == mount.TypeBind {
		if m.BindOptions == nil {
			m.BindOptions = &mount.BindOptions{}
		}
		m.BindOptions.ReadOnlyNonRecursive = m.ReadOnly // it was so by itself
	}
	if before(42) {
		if m.Type != mount.TypeVolume {
			m.VolumeOptions = nil
		}
		if m.Type != mount.TypeTmpfs {
			m.TmpfsOptions = nil
		}
		return nil
	}
	for _, bad := range []struct {
		name string
		is   bool
	}{
		{"VolumeOptions", m.VolumeOptions != nil && m.Type != mount.TypeVolume},
		{"BindOptions", m.BindOptions != nil && m.Type != mount.TypeBind},
		{"TmpfsOptions", m.TmpfsOptions != nil && m.Type != mount.TypeTmpfs},
	} {
		if bad.is {
			return worker.Invalidf("%s must not be specified on mount type %q", bad.name, m.Type)
		}
	}
	return nil
}

// update changes the limits of a container.
func (s *Server) update(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	var u container.UpdateConfig
	if err := c.read(&u); err != nil {
		return err
	}
	if p := u.PidsLimit; c.before(40) {
		u.PidsLimit = nil
	} else if p != nil && *p <= 0 {
		*p = 0 // any of these has meant no limit
	}
	if c.before(55) {
		u.BlkioWeightDevice, u.BlkioDeviceReadBps, u.BlkioDeviceWriteBps = nil, nil, nil
		u.BlkioDeviceReadIOps, u.BlkioDeviceWriteIOps = nil, nil
	}
	res, err := cs.Update(ctx, c.vars[0], &u)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, res)
}

// inspectContainer describes a container. What dockerd no longer says since 1.42 and 1.52 is said to every client: people
// and their templates go on to ask for it, and a client that does not know a field passes over it.
func (s *Server) inspectContainer(ctx context.Context, c *call) error {
	cs, err := s.containers()
	if err != nil {
		return err
	}
	info, err := cs.Inspect(ctx, c.vars[0], c.is("size"))
	if err != nil {
		return err
	}
	if c.before(48) {
		info.ImageManifestDescriptor = nil
	}
	old := oldContainer{InspectResponse: info}
	if info.HostConfig != nil {
		old.HostConfig = &oldHostConfig{HostConfig: info.HostConfig}
	}
	if n := info.NetworkSettings; n != nil {
		old.NetworkSettings = oldNetworks(n)
	}
	if info.Config != nil {
		old.Config = &oldContainerConfig{Config: info.Config, OnBuild: info.Config.OnBuild}
		if c.before(44) && old.NetworkSettings != nil {
			old.Config.MacAddress = old.NetworkSettings.MacAddress
		}
	}
	return c.send(http.StatusOK, old)
}

// oldContainer is a container with all that one has ever had.
type oldContainer struct {
	*container.InspectResponse
	HostConfig      *oldHostConfig
	Config          *oldContainerConfig
	NetworkSettings *oldNetworkSettings
}

// oldHostConfig has limits that there are no longer.
type oldHostConfig struct {
	*container.HostConfig
	KernelMemory, KernelMemoryTCP int64
}

type oldContainerConfig struct {
	*container.Config
	OnBuild    []string
	MacAddress string `json:",omitempty"`
}

// oldNetworkSettings has beside the networks what the container is on the default one, as if there were no others.
type oldNetworkSettings struct {
	*container.NetworkSettings
	Bridge                  string
	HairpinMode             bool
	LinkLocalIPv6Address    string
	LinkLocalIPv6PrefixLen  int
	SecondaryIPAddresses    []struct{}
	SecondaryIPv6Addresses  []struct{}
	EndpointID, Gateway     string
	GlobalIPv6Address       string
	GlobalIPv6PrefixLen     int
	IPAddress               string
	IPPrefixLen             int
	IPv6Gateway, MacAddress string
}

func oldNetworks(n *container.NetworkSettings) *oldNetworkSettings {
	old := &oldNetworkSettings{NetworkSettings: n}
	ep := n.Networks[network.NetworkBridge]
	if ep == nil {
		return old
	}
	text := func(a fmt.Stringer, valid bool) string {
		if !valid {
			return ""
		}
		return a.String()
	}
	old.EndpointID, old.IPPrefixLen, old.GlobalIPv6PrefixLen = ep.EndpointID, ep.IPPrefixLen, ep.GlobalIPv6PrefixLen
	old.Gateway, old.IPAddress = text(ep.Gateway, ep.Gateway.IsValid()), text(ep.IPAddress, ep.IPAddress.IsValid())
	old.IPv6Gateway = text(ep.IPv6Gateway, ep.IPv6Gateway.IsValid())
	old.GlobalIPv6Address = text(ep.GlobalIPv6Address, ep.GlobalIPv6Address.IsValid())
	old.MacAddress = ep.MacAddress.String()
	return old
}
