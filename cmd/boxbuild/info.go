package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/templates"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) infoCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:                   "info [OPTIONS]",
		Short:                 "Display system-wide information",
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.info(cmd.Context(), format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates`)
	return cmd
}

// An infoObject is what info prints: docker's object, and what only this daemon has.
type infoObject struct {
	*system.Info `json:",omitempty"`
	ServerErrors []string `json:",omitempty"`

	Builds      int      // that run now
	Pid         int      // of the daemon
	IdleTimeout string   // after which the daemon leaves; "0s" for never
	Platforms   []string // that RUN works for

	UserName string `json:"-"`
	clientObject
}

// A clientObject is the part of it that needs no daemon.
type clientObject struct {
	ClientInfo   *clientInfo `json:",omitempty"`
	ClientErrors []string    `json:",omitempty"`
}

// A clientInfo is this program, in docker's fields.
type clientInfo struct {
	Debug     bool
	Version   string
	GitCommit string `json:",omitempty"`
	GoVersion string
	Os, Arch  string
	Context   string
	Plugins   []struct{}
	Warnings  []string
}

// wholeDot finds a dot in an action of a template that is not followed by a name.
var wholeDot = regexp.MustCompile(`\{\{[^}]*\.(?:[^\pL_]|$)`)

func (a *app) info(ctx context.Context, format string) error {
	obj := &infoObject{Info: &system.Info{}, clientObject: clientObject{ClientInfo: &clientInfo{
		Debug: a.cfg.Debug, Version: version, GitCommit: commit(), GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
		Context: "default", Plugins: []struct{}{},
	}}}
	if format != "" && format != "json" {
		tmpl, err := templates.Parse(format)
		if err != nil {
			return statusError{exitBadFormat, fmt.Sprintf("template parsing error: %v", err)}
		}
		// A template that asks for nothing of the daemon's does not start one. "." alone asks for all.
		if !strings.Contains(format, ".") || wholeDot.MatchString(format) || tmpl.Execute(io.Discard, &obj.clientObject) != nil {
			if err := a.addServerInfo(ctx, obj); err != nil {
				return err
			}
		}
		if err := tmpl.Execute(a.stdout, obj); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		fmt.Fprintln(a.stdout)
		return nil
	}
	err := a.addServerInfo(ctx, obj)
	if err != nil {
		obj.Info = nil
	}
	if format == "json" {
		return errors.Join(err, a.printJSON(obj))
	}
	if file, ferr := config.Load(config.Dir()); ferr == nil {
		obj.UserName = file.AuthConfigs["https://index.docker.io/v1/"].Username
	}
	a.printInfo(obj)
	return err
}

// addServerInfo asks the daemon.
func (a *app) addServerInfo(ctx context.Context, obj *infoObject) error {
	system, err := a.system(ctx)
	if err != nil {
		return err
	}
	resp, err := system.Info(ctx, &boxbuildv1.InfoRequest{})
	if err != nil {
		return err
	}
	obj.Info = systemInfo(resp)
	obj.Info.Debug = a.cfg.Debug
	if err := a.addRuntimeInfo(ctx, obj.Info); err != nil {
		return err
	}
	obj.Builds, obj.Pid = int(resp.GetBuilds()), int(resp.GetPid())
	obj.IdleTimeout = (time.Duration(resp.GetIdleTimeoutSeconds()) * time.Second).String()
	for _, p := range resp.GetPlatforms() {
		s := p.GetOs() + "/" + p.GetArchitecture()
		if p.GetVariant() != "" {
			s += "/" + p.GetVariant()
		}
		obj.Platforms = append(obj.Platforms, s)
	}
	return nil
}

// addRuntimeInfo adds what the daemon says of its containers. One that runs no containers has none.
func (a *app) addRuntimeInfo(ctx context.Context, info *system.Info) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	r, err := api.Info(ctx, client.InfoOptions{})
	if unserved(err) {
		return nil
	}
	i := r.Info
	info.ID, info.LiveRestoreEnabled = i.ID, i.LiveRestoreEnabled
	info.Containers, info.ContainersRunning = i.Containers, i.ContainersRunning
	info.ContainersPaused, info.ContainersStopped = i.ContainersPaused, i.ContainersStopped
	info.Plugins, info.LoggingDriver, info.CDISpecDirs = i.Plugins, i.LoggingDriver, i.CDISpecDirs
	info.DiscoveredDevices = i.DiscoveredDevices
	info.Warnings = append(info.Warnings, i.Warnings...)
	if len(i.Runtimes) > 0 {
		info.Runtimes, info.DefaultRuntime = i.Runtimes, i.DefaultRuntime
	}
	return err
}

// systemInfo is the daemon in docker's fields. Those for what a builder does not have say that there is none.
func systemInfo(r *boxbuildv1.InfoResponse) *system.Info {
	can := func(feature string) bool { return slices.Contains(r.GetFeatures(), feature) }
	i := &system.Info{
		Images: int(r.GetImages()), Driver: r.GetSnapshotter(), CgroupDriver: "cgroupfs", CgroupVersion: r.GetCgroups(),
		MemoryLimit: can("memory"), SwapLimit: can("swap"), CPUCfsPeriod: can("cpu-period"), CPUCfsQuota: can("cpu-quota"),
		CPUShares: can("cpu-shares"), CPUSet: can("cpuset"), PidsLimit: can("pids"), OomKillDisable: can("oom-kill-disable"),
		IPv4Forwarding: can("ipv4-forwarding"), NFd: int(r.GetFiles()), NGoroutines: int(r.GetGoroutines()),
		SystemTime:    r.GetTime().AsTime().Format(time.RFC3339Nano),
		KernelVersion: r.GetKernel(), OperatingSystem: r.GetOperatingSystem(), OSType: r.GetOs(),
		Architecture: machineName(r.GetArchitecture()), NCPU: int(r.GetCpus()), MemTotal: r.GetMemory(), Name: r.GetHostname(),
		DockerRootDir: r.GetRoot(), ServerVersion: r.GetVersion(), SecurityOptions: r.GetSecurity(),
		IndexServerAddress: "https://index.docker.io/v1/", DefaultRuntime: "boxshim",
		Runtimes: map[string]system.RuntimeWithStatus{"boxshim": {Runtime: system.Runtime{Path: "boxshim"}}},
		Swarm:    swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}, Labels: []string{}, Warnings: r.GetWarnings(),
		Plugins: system.PluginsInfo{Volume: []string{}, Network: []string{}, Log: []string{}}, CDISpecDirs: []string{},
		RegistryConfig: &registry.ServiceConfig{IndexConfigs: map[string]*registry.IndexInfo{}, Mirrors: r.GetMirrors()},
	}
	if fs := r.GetBackingFilesystem(); fs != "" {
		i.DriverStatus = append(i.DriverStatus, [2]string{"Backing Filesystem", fs})
	}
	i.RegistryConfig.IndexConfigs["docker.io"] = &registry.IndexInfo{
		Name: "docker.io", Mirrors: r.GetMirrors(), Secure: true, Official: true,
	}
	for _, host := range r.GetInsecure() {
		i.RegistryConfig.IndexConfigs[host] = &registry.IndexInfo{Name: host, Mirrors: []string{}}
	}
	return i
}

// machineName is what uname calls an architecture of Go's, which is what docker shows.
func machineName(arch string) string {
	if name, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "arm": "armv7l", "loong64": "loongarch64"}[arch]; ok {
		return name
	}
	return arch
}
