package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
)

// printInfo prints info for people: docker's lines, in docker's order, but for those about what a builder does not have.
func (a *app) printInfo(obj *infoObject) {
	out := func(name string, value any) { fmt.Fprintln(a.stdout, name, value) }
	known := func(name, value string) {
		if value != "" {
			out(name, value)
		}
	}
	fmt.Fprintln(a.stdout, "Client:")
	out(" Version:   ", obj.ClientInfo.Version)
	out(" Context:   ", obj.ClientInfo.Context)
	out(" Debug Mode:", obj.ClientInfo.Debug)
	fmt.Fprintln(a.stdout, "\nServer:")
	i := obj.Info
	if i == nil {
		return
	}
	out(" Containers:", i.Containers)
	out("  Running:", i.ContainersRunning)
	out("  Paused:", i.ContainersPaused)
	out("  Stopped:", i.ContainersStopped)
	out(" Images:", i.Images)
	out(" Builds:", obj.Builds)
	known(" Server Version:", i.ServerVersion)
	known(" Storage Driver:", i.Driver)
	for _, pair := range i.DriverStatus {
		out("  "+pair[0]+":", pair[1])
	}
	known(" Logging Driver:", i.LoggingDriver)
	known(" Cgroup Driver:", i.CgroupDriver)
	known(" Cgroup Version:", i.CgroupVersion)
	if len(i.Plugins.Volume)+len(i.Plugins.Network)+len(i.Plugins.Log) > 0 {
		fmt.Fprintln(a.stdout, " Plugins:")
		known("  Volume:", strings.Join(i.Plugins.Volume, " "))
		known("  Network:", strings.Join(i.Plugins.Network, " "))
		known("  Log:", strings.Join(i.Plugins.Log, " "))
	}
	a.printDevices(i)
	out(" Swarm:", i.Swarm.LocalNodeState)
	out(" Runtimes:", strings.Join(slices.Sorted(maps.Keys(i.Runtimes)), " "))
	out(" Default Runtime:", i.DefaultRuntime)
	a.printSecurity(i)
	known(" Kernel Version:", i.KernelVersion)
	known(" Operating System:", i.OperatingSystem)
	known(" OSType:", i.OSType)
	known(" Architecture:", i.Architecture)
	known(" Platforms:", strings.Join(obj.Platforms, ", "))
	out(" CPUs:", i.NCPU)
	out(" Total Memory:", units.BytesSize(float64(i.MemTotal)))
	known(" Name:", i.Name)
	out(" Docker Root Dir:", i.DockerRootDir)
	out(" Pid:", obj.Pid)
	out(" Idle Timeout:", obj.IdleTimeout)
	out(" Debug Mode:", i.Debug)
	if i.Debug {
		out("  File Descriptors:", i.NFd)
		out("  Goroutines:", i.NGoroutines)
		out("  System Time:", i.SystemTime)
	}
	known(" Username:", obj.UserName)
	out(" Experimental:", i.ExperimentalBuild)
	a.printRegistries(i)
	out(" Live Restore Enabled:", i.LiveRestoreEnabled)
	fmt.Fprintln(a.stdout)
	for _, w := range i.Warnings {
		fmt.Fprintln(a.stderr, "WARNING:", w)
	}
}

func (a *app) printDevices(i *system.Info) {
	if len(i.CDISpecDirs) > 0 {
		fmt.Fprintln(a.stdout, " CDI spec directories:")
	}
	for _, dir := range i.CDISpecDirs {
		fmt.Fprintln(a.stdout, "  "+dir)
	}
	if len(i.DiscoveredDevices) > 0 {
		fmt.Fprintln(a.stdout, " Discovered Devices:")
	}
	for _, d := range i.DiscoveredDevices {
		fmt.Fprintln(a.stdout, "  "+d.Source+": "+d.ID)
	}
}

func (a *app) printSecurity(i *system.Info) {
	if len(i.SecurityOptions) == 0 {
		return
	}
	fmt.Fprintln(a.stdout, " Security Options:")
	for _, opt := range i.SecurityOptions {
		for _, part := range strings.Split(opt, ",") {
			switch key, value, _ := strings.Cut(part, "="); key {
			case "name":
				fmt.Fprintln(a.stdout, "  "+value)
			case "profile":
				fmt.Fprintln(a.stdout, "   Profile:", value)
			}
		}
	}
}

func (a *app) printRegistries(i *system.Info) {
	var insecure []string
	for name, conf := range i.RegistryConfig.IndexConfigs {
		if !conf.Secure {
			insecure = append(insecure, name)
		}
	}
	slices.Sort(insecure)
	if len(insecure) > 0 {
		fmt.Fprintf(a.stdout, " Insecure Registries:\n  %s\n", strings.Join(insecure, "\n  "))
	}
	if m := i.RegistryConfig.Mirrors; len(m) > 0 {
		fmt.Fprintf(a.stdout, " Registry Mirrors:\n  %s\n", strings.Join(m, "\n  "))
	}
}
