package main

import (
	"context"
	"fmt"
	"io"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/docker/cli/templates"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// psOptions are the flags of ps.
type psOptions struct {
	quiet, size, all, noTrunc, latest bool
	last                              int // -1 for as many as there are
	format                            string
	filter                            opts.FilterOpt
	sizeGiven                         bool
}

func (a *app) psCommand() *cobra.Command {
	opt := psOptions{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:   "ps [OPTIONS]",
		Short: "List containers",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt.sizeGiven = cmd.Flags().Changed("size")
			return a.ps(cmd.Context(), &opt)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.quiet, "quiet", "q", false, "Only display container IDs")
	f.BoolVarP(&opt.size, "size", "s", false, "Display total file sizes")
	f.BoolVarP(&opt.all, "all", "a", false, "Show all containers (default shows just running)")
	f.BoolVar(&opt.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&opt.latest, "latest", "l", false, "Show the latest created container (includes all states)")
	f.IntVarP(&opt.last, "last", "n", -1, "Show n last created containers (includes all states)")
	f.StringVar(&opt.format, "format", "", formatHelp)
	f.VarP(&opt.filter, "filter", "f", "Filter output based on conditions provided")
	return cmd
}

func (a *app) ps(ctx context.Context, opt *psOptions) error {
	format := opt.format
	switch {
	case format == "":
		file, err := loadDockerConfig()
		if err != nil {
			return err
		}
		format = file.PsFormat
	case opt.quiet:
		fmt.Fprintln(a.stderr, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
	}
	size := opt.size
	if opt.format != "" {
		// Sizes cost the daemon a walk, so a template has them only if it shows them.
		tmpl, err := templates.Parse(opt.format)
		if err != nil {
			return fmt.Errorf("failed to parse template: %w", err)
		}
		probe := formatter.NewContainerContext()
		if err := tmpl.Execute(io.Discard, probe); err != nil {
			return fmt.Errorf("failed to execute template: %w", err)
		}
		_, shown := probe.FieldsUsed["Size"]
		size = size || shown && !opt.quiet && !opt.sizeGiven
	}
	limit := opt.last
	if opt.latest && limit == -1 {
		limit = 1
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	r, err := api.ContainerList(ctx, client.ContainerListOptions{All: opt.all, Size: size, Limit: limit, Filters: opt.filter.Value()})
	if err != nil {
		return err
	}
	return formatter.ContainerWrite(formatter.Context{
		Output: a.stdout, Format: formatter.NewContainerFormat(format, opt.quiet, size), Trunc: !opt.noTrunc,
	}, r.Items)
}
