package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/docker/cli/templates"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) infoCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:                   "info [OPTIONS]",
		Short:                 "Display information about the daemon",
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.info(cmd.Context(), format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`)
	return cmd
}

// A daemonInfo is what info prints; its fields are docker's where docker has them.
type daemonInfo struct {
	ServerVersion, Driver, CgroupVersion, KernelVersion, OperatingSystem, OSType, Architecture, Name, DockerRootDir string

	NCPU, Images, Builds, Pid int
	MemTotal                  int64 // bytes
	IdleTimeout               string
	Platforms, Warnings       []string
}

func (a *app) info(ctx context.Context, format string) error {
	system, err := a.system(ctx)
	if err != nil {
		return err
	}
	resp, err := system.Info(ctx, &boxbuildv1.InfoRequest{})
	if err != nil {
		return err
	}
	i := &daemonInfo{
		ServerVersion: resp.GetVersion(), Driver: resp.GetSnapshotter(), CgroupVersion: resp.GetCgroups(),
		KernelVersion: resp.GetKernel(), OperatingSystem: resp.GetOperatingSystem(), OSType: resp.GetOs(),
		Architecture: resp.GetArchitecture(), Name: resp.GetHostname(), DockerRootDir: resp.GetRoot(),
		NCPU: int(resp.GetCpus()), Images: int(resp.GetImages()), Builds: int(resp.GetBuilds()), Pid: int(resp.GetPid()),
		MemTotal: resp.GetMemory(), IdleTimeout: (time.Duration(resp.GetIdleTimeoutSeconds()) * time.Second).String(),
		Warnings: resp.GetWarnings(),
	}
	for _, p := range resp.GetPlatforms() {
		s := p.GetOs() + "/" + p.GetArchitecture()
		if p.GetVariant() != "" {
			s += "/" + p.GetVariant()
		}
		i.Platforms = append(i.Platforms, s)
	}
	switch format {
	case "":
		a.printInfo(i)
		return nil
	case "json":
		return json.NewEncoder(a.stdout).Encode(i)
	}
	tmpl, err := templates.Parse(format)
	if err != nil {
		return usagef("template parsing error: %v", err)
	}
	if err := tmpl.Execute(a.stdout, i); err != nil {
		return usagef("template parsing error: %v", err)
	}
	fmt.Fprintln(a.stdout)
	return nil
}

func (a *app) printInfo(i *daemonInfo) {
	line := func(name string, value any) {
		if s := fmt.Sprint(value); s != "" && s != "0" && s != "0s" {
			fmt.Fprintf(a.stdout, " %s: %s\n", name, s)
		}
	}
	fmt.Fprintln(a.stdout, "Server:")
	line("Server Version", i.ServerVersion)
	fmt.Fprintf(a.stdout, " Images: %d\n", i.Images)
	line("Builds Running", i.Builds)
	line("Storage Driver", i.Driver)
	line("Cgroup Version", i.CgroupVersion)
	line("Kernel Version", i.KernelVersion)
	line("Operating System", i.OperatingSystem)
	line("OSType", i.OSType)
	line("Architecture", i.Architecture)
	line("CPUs", i.NCPU)
	line("Total Memory", units.BytesSize(float64(i.MemTotal)))
	line("Name", i.Name)
	line("Root Dir", i.DockerRootDir)
	line("Pid", i.Pid)
	line("Idle Timeout", i.IdleTimeout)
	for _, w := range i.Warnings {
		fmt.Fprintln(a.stderr, "WARNING:", w)
	}
}
