package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/docker/cli/templates"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A versions is what version prints; its fields are what templates use, and docker's.
type versions struct {
	Client clientVersion
	Server *serverVersion // nil if no daemon runs
}

// A programVersion is what both programs tell of themselves.
type programVersion struct {
	Version    string
	APIVersion string `json:"ApiVersion,omitempty"` // that the two speak, or the daemon's newest; "" where it serves none
	GitCommit  string
	GoVersion  string
	Os, Arch   string
	BuildTime  string `json:",omitempty"`
}

type clientVersion struct {
	programVersion
	DefaultAPIVersion string // the newest that the client knows
	Context           string
}

type serverVersion struct {
	Platform client.PlatformInfo
	programVersion
	MinAPIVersion string `json:",omitempty"`
	KernelVersion string `json:",omitempty"`
	Experimental  bool
	Components    []system.ComponentVersion `json:",omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:                   "version [OPTIONS]",
		Short:                 "Show the version information",
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.version(cmd.Context(), format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`)
	return cmd
}

// version prints what there is. A daemon is not started for it, and none that was to be started is not missed.
func (a *app) version(ctx context.Context, format string) error {
	v := versions{Client: clientVersion{
		programVersion: programVersion{
			Version: version, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, GitCommit: commit(),
		},
		DefaultAPIVersion: client.MaxAPIVersion, Context: "default",
	}}
	onDemand := a.cfg.Start
	a.cfg.Start = false
	system, err := a.system(ctx)
	if err == nil {
		var info *boxbuildv1.InfoResponse
		if info, err = system.Info(ctx, &boxbuildv1.InfoRequest{}); err == nil {
			v.Server = &serverVersion{
				programVersion: programVersion{
					Version: info.GetVersion(), GitCommit: info.GetRevision(), GoVersion: info.GetGoVersion(),
					Os: info.GetOs(), Arch: info.GetArchitecture(),
				},
				KernelVersion: info.GetKernel(),
			}
			a.addAPIVersion(ctx, &v)
		}
	} else if onDemand && away(err) {
		err = nil
	}
	if printErr := a.printVersions(format, &v); printErr != nil {
		return printErr
	}
	return err
}

// addAPIVersion adds what the daemon tells of its Engine API. It may have none for this client.
func (a *app) addAPIVersion(ctx context.Context, v *versions) {
	api, err := a.engine(ctx)
	if err != nil {
		return
	}
	r, err := api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return
	}
	v.Client.APIVersion = api.ClientVersion()
	v.Server.APIVersion, v.Server.MinAPIVersion = r.APIVersion, r.MinAPIVersion
	v.Server.Platform, v.Server.Components = r.Platform, r.Components
	if len(r.Components) > 0 {
		v.Server.BuildTime = r.Components[0].Details["BuildTime"] // the engine's
	}
}

// commit is the commit that this program was built from, if it knows.
func commit() string {
	if build, ok := debug.ReadBuildInfo(); ok && revision == "" {
		for _, s := range build.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return revision
}

func (a *app) printVersions(format string, v *versions) error {
	switch format {
	case "":
		print := func(title string, p *programVersion, api string) {
			fmt.Fprintf(a.stdout, "%s:\n Version:           %s\n", title, p.Version)
			if p.APIVersion != "" {
				fmt.Fprintf(a.stdout, " API version:       %s%s\n", p.APIVersion, api)
			}
			fmt.Fprintf(a.stdout, " Go version:        %s\n", p.GoVersion)
			if p.GitCommit != "" {
				fmt.Fprintf(a.stdout, " Git commit:        %s\n", p.GitCommit)
			}
			fmt.Fprintf(a.stdout, " OS/Arch:           %s/%s\n", p.Os, p.Arch)
		}
		older := ""
		if c := &v.Client; c.APIVersion != c.DefaultAPIVersion {
			older = " (downgraded from " + c.DefaultAPIVersion + ")"
		}
		print("Client", &v.Client.programVersion, older)
		fmt.Fprintf(a.stdout, " Context:           %s\n", v.Client.Context)
		if v.Server != nil {
			fmt.Fprintln(a.stdout)
			print("Server", &v.Server.programVersion, " (minimum version "+v.Server.MinAPIVersion+")")
		}
		return nil
	case "json":
		return a.printJSON(v)
	}
	tmpl, err := templates.Parse(format)
	if err != nil {
		return statusError{exitBadFormat, fmt.Sprintf("template parsing error: %v", err)}
	}
	if err := tmpl.Execute(a.stdout, v); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	fmt.Fprintln(a.stdout)
	return nil
}
