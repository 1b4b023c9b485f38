package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"

	"github.com/boxbuild/boxbuild/executor/cdi"
	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit"
	"github.com/boxbuild/boxbuild/worker/api/engine"
	"github.com/boxbuild/boxbuild/worker/eventlog"
)

// engine sets what the Docker API stands on.
func (w *wiring) engine(d *daemon, id string, bk *buildkit.Server, sessions *bksession.Manager) {
	d.Engine = engine.Options{
		ID:     id,
		Events: w.events, Containers: w.containers, Volumes: w.volumes, Networks: w.networks,
		FreeSpace: w.freeSpace, Registry: w.client, Search: w.client.Search,
		Decompress: func(r io.Reader) (io.ReadCloser, error) {
			out, _, err := layer.Decompress(r)
			return out, err
		},
		Sessions: sessions, Solve: bk.Solve, Watch: w.history.Watch,
	}
}

// engineOptions are those of the Docker API, with what the server knows itself.
func (s *server) engineOptions(about *boxbuildv1.InfoResponse) engine.Options {
	opt := s.daemon.Engine
	opt.Builder, opt.Images, opt.Platform = s.daemon.Gate, s.daemon.Images, s.daemon.Platform
	opt.Version, opt.Commit, opt.Log = version, about.GetRevision(), s.log
	opt.Login = s.daemon.Login
	opt.Components = []system.ComponentVersion{{Name: worker.RuntimeProgram, Version: version, Details: map[string]string{"GitCommit": opt.Commit}}}
	opt.GRPC = s.split.upgrade
	opt.Authorize = s.authorize
	if s.daemon.Counters != nil {
		opt.HostInfo = s.daemon.Counters.HostInfo
	}
	if opt.Events == nil {
		opt.Events = new(eventlog.Log)
	}
	info := machineInfo(about)
	opt.Info = func(context.Context) *system.Info {
		now := *info
		if s.daemon.Devices != nil {
			addDevices(&now, s.daemon.Devices)
		}
		return &now
	}
	return opt
}

// addDevices adds the devices that containers can ask for now.
func addDevices(info *system.Info, devices *cdi.Devices) {
	info.CDISpecDirs = append([]string{}, devices.Dirs()...)
	list, problems, err := devices.Survey()
	if err != nil {
		problems = append(problems, fmt.Sprintf("CDI cache initialization failed: %v", err))
	}
	for i := range list {
		info.DiscoveredDevices = append(info.DiscoveredDevices, system.DeviceInfo{Source: "cdi", ID: list[i].Name})
	}
	info.Warnings = append(slices.Clone(info.Warnings), problems...)
}

// authorize refuses clients that nobody knows, if nobody has said that these are meant: a container can have any file of
// this machine. They are told that a daemon is here.
func (s *server) authorize(r *http.Request) error {
	if trustOf(r) != open || s.cfg.AnyoneOverTCP || strings.HasSuffix(r.URL.Path, "/_ping") {
		return nil
	}
	return worker.Errorf(errdefs.ErrPermissionDenied, "the Docker API can be used by anybody who reaches this address: "+
		"start the daemon with --tlscert, --tlskey and --tlscacert, or with --allow-unauthenticated-tcp if that is meant")
}

// machineInfo is what docker info shows of the machine.
func machineInfo(a *boxbuildv1.InfoResponse) *system.Info {
	has := func(feature string) bool { return slices.Contains(a.GetFeatures(), feature) }
	info := &system.Info{
		Name:   a.GetHostname(),
		Driver: worker.StorageDriver(a.GetSnapshotter()), DockerRootDir: a.GetRoot(),
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: []string{"json-file", "local", "none"},
		},
		MemoryLimit: has("memory"), SwapLimit: has("swap"), CPUCfsPeriod: has("cpu-period"), CPUCfsQuota: has("cpu-quota"),
		CPUShares: has("cpu-shares"), CPUSet: has("cpuset"), PidsLimit: has("pids"), IPv4Forwarding: has("ipv4-forwarding"),
		OomKillDisable: has("oom-kill-disable"),
		LoggingDriver:  "json-file", CgroupDriver: "cgroupfs", CgroupVersion: a.GetCgroups(),
		KernelVersion: a.GetKernel(), OperatingSystem: a.GetOperatingSystem(), OSVersion: osVersion(), OSType: a.GetOs(),
		Architecture: machineName(a.GetArchitecture()), NCPU: int(a.GetCpus()), MemTotal: a.GetMemory(),
		IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig: &registry.ServiceConfig{
			IndexConfigs: map[string]*registry.IndexInfo{"docker.io": {
				Name: "docker.io", Mirrors: append([]string{}, a.GetMirrors()...), Secure: true, Official: true,
			}},
			Mirrors: append([]string{}, a.GetMirrors()...),
			// These are spoken to by HTTP.
			InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		},
		HTTPProxy: os.Getenv("HTTP_PROXY"), HTTPSProxy: os.Getenv("HTTPS_PROXY"), NoProxy: os.Getenv("NO_PROXY"),
		Labels:         []string{},
		Runtimes:       make(map[string]system.RuntimeWithStatus),
		DefaultRuntime: worker.DefaultRuntime, LiveRestoreEnabled: true, InitBinary: worker.RuntimeProgram,
		SecurityOptions: a.GetSecurity(),
		FirewallBackend: &system.FirewallInfo{Driver: "nftables"},
		CDISpecDirs:     []string{}, Warnings: []string{},
	}
	for _, name := range worker.Runtimes {
		info.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: worker.RuntimeProgram}}
	}
	if fs := a.GetBackingFilesystem(); fs != "" {
		info.DriverStatus = [][2]string{{"Backing Filesystem", fs}}
	}
	for _, name := range a.GetInsecure() {
		info.RegistryConfig.IndexConfigs[name] = &registry.IndexInfo{Name: name, Mirrors: []string{}}
	}
	return info
}

// machineName is what the kernel calls an architecture.
func machineName(arch string) string {
	switch arch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return arch
}

// osVersion is the version of the distribution.
func osVersion() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_ID="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}
