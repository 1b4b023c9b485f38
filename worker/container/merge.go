package container

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/worker"
)

// merge completes what the user wants with what the image says, as docker does.
func merge(c *container.Config, img *image.Image) error {
	var of frontend.ImageConfig
	if err := json.Unmarshal(img.Config, &of); err != nil {
		return fmt.Errorf("reading the config of image %s: %w", img.ID, err)
	}
	i := &of.Config
	if c.User == "" {
		c.User = i.User
	}
	for spec := range i.ExposedPorts {
		port, err := network.ParsePort(spec)
		if err != nil {
			return worker.Invalidf("invalid port specification: %q", spec)
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = make(network.PortSet)
		}
		c.ExposedPorts[port] = struct{}{}
	}
	for _, kv := range i.Env {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(c.Env, func(own string) bool { n, _, _ := strings.Cut(own, "="); return n == name }) {
			c.Env = append(c.Env, kv)
		}
	}
	if c.Labels = under(c.Labels, i.Labels); c.Labels == nil {
		c.Labels = map[string]string{} // clients look into it
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd, c.ArgsEscaped = i.Cmd, i.ArgsEscaped //nolint:staticcheck // it is part of the API
		}
		if c.Entrypoint == nil {
			c.Entrypoint = i.Entrypoint
		}
	}
	mergeHealth(c, i.Healthcheck)
	if c.WorkingDir == "" {
		c.WorkingDir = i.WorkingDir
	}
	c.Volumes = under(c.Volumes, i.Volumes)
	if c.StopSignal == "" {
		c.StopSignal = i.StopSignal
	}
	if len(c.Shell) == 0 {
		c.Shell = i.Shell
	}
	return nil
}

// under returns own with what only image has.
func under[K comparable, V any](own, image map[K]V) map[K]V {
	if len(image) == 0 {
		return own
	}
	out := maps.Clone(image)
	maps.Copy(out, own)
	return out
}

func mergeHealth(c *container.Config, i *container.HealthConfig) {
	if i == nil {
		return
	}
	if c.Healthcheck == nil {
		c.Healthcheck = i
		return
	}
	h := *c.Healthcheck
	if len(h.Test) == 0 {
		h.Test = i.Test
	}
	orElse(&h.Interval, i.Interval)
	orElse(&h.Timeout, i.Timeout)
	orElse(&h.StartPeriod, i.StartPeriod)
	orElse(&h.StartInterval, i.StartInterval)
	orElse(&h.Retries, i.Retries)
	c.Healthcheck = &h
}

// orElse sets what is zero.
func orElse[T comparable](own *T, image T) {
	var zero T
	if *own == zero {
		*own = image
	}
}

// cloneConfig returns a copy that can be completed. What maps and slices hold is replaced, and never changed.
func cloneConfig(c *container.Config) *container.Config {
	out := *c
	out.Env = slices.Clone(c.Env)
	out.ExposedPorts = maps.Clone(c.ExposedPorts)
	out.Labels = maps.Clone(c.Labels)
	return &out
}

func cloneHostConfig(h *container.HostConfig) *container.HostConfig {
	if h == nil {
		return new(container.HostConfig)
	}
	out := *h
	return &out
}

func trimSlash(name string) string { return strings.TrimPrefix(name, "/") }
