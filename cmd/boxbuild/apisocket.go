package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// Where a container with --use-api-socket finds the daemon and what its user may do with registries.
const (
	socketInside = "/var/run/docker.sock"
	configInside = "/run/secrets/docker"
)

// shareSocket gives the container the daemon's socket, if the user wants that, and returns a tar with the user's
// credentials for it; nil if there is nothing to copy.
func (a *app) shareSocket(opt *createOptions, req *container.CreateRequest) ([]byte, error) {
	if !opt.useSocket {
		return nil, nil
	}
	addr, err := config.ParseAddress(a.cfg.Addr)
	if err != nil {
		return nil, usageError{message: err.Error()}
	}
	if addr.Network != "unix" {
		return nil, errors.New("--use-api-socket is not supported: the daemon at " + a.cfg.Addr + " is not known by a socket")
	}
	req.HostConfig.Mounts = append(req.HostConfig.Mounts, mount.Mount{
		Type: mount.TypeBind, Source: addr.Name, Target: socketInside, BindOptions: &mount.BindOptions{},
	})
	for _, kv := range req.Env {
		if strings.HasPrefix(kv, "DOCKER_CONFIG=") {
			return nil, nil // who says where the configuration is has one
		}
	}
	file, err := loadDockerConfig()
	if err != nil {
		return nil, err
	}
	all, err := file.GetAllCredentials()
	if err != nil {
		return nil, fmt.Errorf("resolving credentials failed: %w", err)
	}
	if len(all) == 0 {
		return nil, nil
	}
	req.Env = append(req.Env, "DOCKER_CONFIG="+configInside)
	var text, out bytes.Buffer
	if err := (&configfile.ConfigFile{AuthConfigs: all}).SaveToWriter(&text); err != nil {
		return nil, fmt.Errorf("saving creds: %w", err)
	}
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: configInside + "/config.json", Size: int64(text.Len()), Mode: 0o600}); err != nil {
		return nil, err
	}
	if _, err := w.Write(text.Bytes()); err != nil {
		return nil, err
	}
	return out.Bytes(), w.Close()
}
