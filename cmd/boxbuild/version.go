package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/docker/cli/templates"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// A versions is what version prints; its fields are what templates use.
type versions struct {
	Client programVersion
	Server *programVersion // nil if no daemon runs
}

// A programVersion describes one of the programs, in docker's fields.
type programVersion struct {
	Version, GitCommit, GoVersion, Os, Arch string
	KernelVersion                           string `json:",omitempty"`
	Context                                 string `json:",omitempty"`
	Experimental                            bool
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
	v := versions{Client: programVersion{
		Version: version, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, Context: "default",
		GitCommit: commit(),
	}}
	onDemand := a.cfg.Start
	a.cfg.Start = false
	system, err := a.system(ctx)
	if err == nil {
		var info *boxbuildv1.InfoResponse
		if info, err = system.Info(ctx, &boxbuildv1.InfoRequest{}); err == nil {
			v.Server = &programVersion{
				Version: info.GetVersion(), GitCommit: info.GetRevision(), GoVersion: info.GetGoVersion(),
				Os: info.GetOs(), Arch: info.GetArchitecture(), KernelVersion: info.GetKernel(),
			}
		}
	} else if onDemand && away(err) {
		err = nil
	}
	if printErr := a.printVersions(format, &v); printErr != nil {
		return printErr
	}
	return err
}

// commit is the commit that this program was built from, if it knows.
func commit() string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, s := range build.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}

func (a *app) printVersions(format string, v *versions) error {
	switch format {
	case "":
		print := func(title string, p *programVersion) {
			fmt.Fprintf(a.stdout, "%s:\n Version:           %s\n Go version:        %s\n", title, p.Version, p.GoVersion)
			if p.GitCommit != "" {
				fmt.Fprintf(a.stdout, " Git commit:        %s\n", p.GitCommit)
			}
			fmt.Fprintf(a.stdout, " OS/Arch:           %s/%s\n", p.Os, p.Arch)
			if p.Context != "" {
				fmt.Fprintf(a.stdout, " Context:           %s\n", p.Context)
			}
		}
		print("Client", &v.Client)
		if v.Server != nil {
			fmt.Fprintln(a.stdout)
			print("Server", v.Server)
		}
		return nil
	case "json":
		return json.NewEncoder(a.stdout).Encode(v)
	}
	tmpl, err := templates.Parse(format)
	if err != nil {
		return usagef("template parsing error: %v", err)
	}
	if err := tmpl.Execute(a.stdout, v); err != nil {
		return usagef("template parsing error: %v", err)
	}
	fmt.Fprintln(a.stdout)
	return nil
}
