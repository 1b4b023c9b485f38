package engine

import (
	"cmp"
	"context"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"github.com/boxbuild/boxbuild/worker"
)

// ping answers whether a builder is here, and of what kind, before a client has said which version it speaks.
func (s *Server) ping(_ context.Context, c *call) error {
	h := c.w.Header()
	h.Set("Builder-Version", "2") // BuildKit's protocol
	h.Set("Docker-Experimental", "false")
	h.Set("Swarm", string(swarm.LocalNodeStateInactive))
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	_, _ = c.w.Write([]byte("OK")) // the client may be gone
	return nil
}

func (s *Server) version(ctx context.Context, c *call) error {
	defer s.hostInfo("system_version")()
	info := s.opt.Info(ctx)
	v := system.VersionResponse{
		Platform: system.PlatformInfo{Name: "boxbuild"},
		Version:  s.opt.Version, APIVersion: current.String(), MinAPIVersion: s.min.String(),
		GitCommit: s.opt.Commit, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
		KernelVersion: info.KernelVersion, BuildTime: s.opt.BuildTime,
	}
	v.Components = append([]system.ComponentVersion{{
		Name: "Engine", Version: v.Version,
		Details: map[string]string{
			"ApiVersion": v.APIVersion, "Arch": v.Arch, "BuildTime": v.BuildTime, "Experimental": "false", "GitCommit": v.GitCommit,
			"GoVersion": v.GoVersion, "KernelVersion": v.KernelVersion, "MinAPIVersion": v.MinAPIVersion, "Os": v.Os,
		},
	}}, s.opt.Components...)
	return c.send(http.StatusOK, v)
}

// hostInfo begins to measure an answer; the function that it returns has it counted.
func (s *Server) hostInfo(function string) func() {
	begin := time.Now()
	return func() {
		if s.opt.HostInfo != nil {
			s.opt.HostInfo(function, time.Since(begin))
		}
	}
}

func (s *Server) info(ctx context.Context, c *call) error {
	defer s.hostInfo("system_info")()
	info := *s.opt.Info(ctx)
	info.ID = cmp.Or(info.ID, s.opt.ID)
	info.ServerVersion = cmp.Or(info.ServerVersion, s.opt.Version)
	info.SystemTime = time.Now().Format(time.RFC3339Nano)
	info.NGoroutines = runtime.NumGoroutine()
	info.OSType, info.NCPU = cmp.Or(info.OSType, runtime.GOOS), cmp.Or(info.NCPU, runtime.NumCPU())
	info.Swarm.LocalNodeState = swarm.LocalNodeStateInactive
	images, err := s.opt.Images.List(ctx)
	if err != nil {
		return err
	}
	info.Images = len(group(images, s.opt.Platform))
	if s.opt.Containers != nil {
		list, err := s.opt.Containers.List(ctx, worker.ListContainersOptions{All: true})
		if err != nil {
			return err
		}
		info.Containers = len(list)
		for i := range list {
			switch list[i].State {
			case container.StateRunning:
				info.ContainersRunning++
			case container.StatePaused:
				info.ContainersPaused++
			case container.StateCreated, container.StateRestarting, container.StateRemoving, container.StateExited, container.StateDead:
				info.ContainersStopped++
			}
		}
	}
	return c.send(http.StatusOK, infoFor(&info, c.version))
}

// infoFor is info as clients of a version expect it.
func infoFor(info *system.Info, v version) any {
	before := func(minor int) bool { return v.less(version{1, minor}) }
	if before(44) {
		runtimes := make(map[string]system.RuntimeWithStatus, len(info.Runtimes))
		for name, r := range info.Runtimes {
			runtimes[name] = system.RuntimeWithStatus{Runtime: r.Runtime}
		}
		info.Runtimes = runtimes
	}
	if before(46) {
		info.Containerd = nil
	}
	if before(49) {
		info.FirewallBackend = nil
	}
	if before(50) {
		info.DiscoveredDevices = nil
	}
	if before(53) {
		info.NRI = nil
	}
	if !before(50) {
		return info
	}
	old := legacyInfo{Info: info, ContainerdCommit: info.ContainerdCommit, RuncCommit: info.RuncCommit, InitCommit: info.InitCommit}
	if before(49) {
		expect := func(c system.Commit) any { return map[string]string{"ID": c.ID, "Expected": c.ID} }
		old.ContainerdCommit, old.RuncCommit, old.InitCommit = expect(info.ContainerdCommit), expect(info.RuncCommit), expect(info.InitCommit)
	}
	if before(42) {
		old.KernelMemory = new(bool)
		if !before(40) {
			old.KernelMemoryTCP = new(bool)
		}
	}
	return old
}

// legacyInfo has what older versions had besides.
type legacyInfo struct {
	*system.Info
	ContainerdCommit, RuncCommit, InitCommit any
	BridgeNfIptables, BridgeNfIp6tables      bool
	KernelMemory, KernelMemoryTCP            *bool `json:",omitempty"`
}

// auth checks credentials with the registry that they are for.
func (s *Server) auth(ctx context.Context, c *call) error {
	var conf *registry.AuthConfig
	if err := c.read(&conf); err != nil {
		return err
	}
	if conf == nil { // nobody is asked at a registry that nobody has named
		return worker.Invalidf("invalid JSON: got EOF while reading request body")
	}
	if s.opt.Login == nil {
		return missing("this daemon cannot verify credentials")
	}
	host := registryHost(conf.ServerAddress)
	token, err := s.opt.Login(ctx, host, credentials(conf))
	if err != nil {
		return worker.Errorf(unauthorizedClass(err), "%s", loginRefused(host, err))
	}
	return c.send(http.StatusOK, registry.AuthResponse{Status: "Login Succeeded", IdentityToken: token})
}

// unauthorizedClass is the class of an error of a login: the registry has refused, or did not answer.
func unauthorizedClass(err error) error {
	if status(err) == http.StatusUnauthorized {
		return errdefs.ErrUnauthenticated
	}
	return errdefs.ErrUnknown
}

// registryHost is the registry at an address that credentials are kept under.
func registryHost(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	switch strings.ToLower(host) {
	case "", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}

func credentials(a *registry.AuthConfig) authn.AuthConfig {
	return authn.AuthConfig{
		Username: a.Username, Password: a.Password, Auth: a.Auth,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	}
}
