package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// volumeCommand has what docker has below "volume".
func (a *app) volumeCommand() *cobra.Command {
	cmd := group("volume COMMAND", "Manage volumes",
		a.volumeCreateCommand(), a.volumeInspectCommand(), a.volumeListCommand(), a.volumePruneCommand(), a.volumeRemoveCommand(),
		a.volumeUpdateCommand())
	for _, c := range cmd.Commands() {
		likeDocker(c)
	}
	return cmd
}

// clusterFlags are docker's flags for volumes of a cluster.
var clusterFlags = []string{
	"availability", "group", "limit-bytes", "required-bytes", "scope", "secret", "sharing", "topology-preferred",
	"topology-required", "type",
}

// volumeUpdateCommand is there for those who find it in docker's manual: only volumes of a cluster can be updated.
func (a *app) volumeUpdateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "update [OPTIONS] VOLUME",
		Short:  "Update a volume (cluster volumes only)",
		Args:   exactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := api.VolumeInspect(cmd.Context(), args[0], client.VolumeInspectOptions{}); err != nil {
				return err
			}
			return errors.New("can only update cluster volumes")
		},
	}
	cmd.Flags().String("availability", "active", `Cluster Volume availability ("active", "pause", "drain")`)
	return cmd
}

func (a *app) volumeCreateCommand() *cobra.Command {
	var opt client.VolumeCreateOptions
	var name string
	driverOpts, labels := opts.NewMapOpts(nil, nil), opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, flag := range clusterFlags {
				if cmd.Flags().Changed(flag) {
					return statusError{exitFlags, "--" + flag + " is not supported: it is for volumes of a cluster"}
				}
			}
			if len(args) == 1 {
				if name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				name = args[0]
			}
			opt.Name, opt.DriverOpts = name, driverOpts.GetAll()
			opt.Labels = opts.ConvertKVStringsToMap(labels.GetSlice())
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			r, err := api.VolumeCreate(cmd.Context(), opt)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, r.Volume.Name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opt.Driver, "driver", "d", "local", "Specify volume driver name")
	f.StringVar(&name, "name", "", "Specify volume name")
	_ = f.MarkHidden("name") // it exists
	f.VarP(driverOpts, "opt", "o", "Set driver specific options")
	f.Var(&labels, "label", "Set metadata for a volume")
	for _, flag := range clusterFlags {
		f.StringArray(flag, nil, "")
		_ = f.MarkHidden(flag) // it exists
	}
	return cmd
}

func (a *app) volumeListCommand() *cobra.Command {
	filter := opts.NewFilterOpt()
	var quiet, cluster bool
	var format string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cluster {
				return statusError{exitFlags, "--cluster is not supported: it is for volumes of a cluster"}
			}
			return a.listVolumes(cmd.Context(), filter.Value(), format, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	f.StringVar(&format, "format", "", formatHelp)
	f.VarP(&filter, "filter", "f", `Provide filter values (e.g. "dangling=true")`)
	f.BoolVar(&cluster, "cluster", false, "")
	_ = f.MarkHidden("cluster") // it exists
	return cmd
}

func (a *app) listVolumes(ctx context.Context, filters client.Filters, format string, quiet bool) error {
	if format == "" {
		file, err := loadDockerConfig()
		if err != nil {
			return err
		}
		format = formatter.TableFormatKey
		if file.VolumesFormat != "" && !quiet {
			format = file.VolumesFormat
		}
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	r, err := api.VolumeList(ctx, client.VolumeListOptions{Filters: filters})
	if err != nil {
		return err
	}
	for _, w := range r.Warnings {
		fmt.Fprintln(a.stderr, "WARNING:", w)
	}
	slices.SortFunc(r.Items, func(v, w volume.Volume) int { return strings.Compare(v.Name, w.Name) })
	return formatter.VolumeWrite(formatter.Context{Output: a.stdout, Format: formatter.NewVolumeFormat(format, quiet)}, r.Items)
}

func (a *app) volumeRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more volumes",
		Long:    "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
		Args:    minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			return a.each(cmd.Context(), args, func(ctx context.Context, name string) error {
				_, err := api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{Force: force})
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of one or more volumes")
	return cmd
}

func (a *app) volumePruneCommand() *cobra.Command {
	filter := opts.NewFilterOpt()
	var all, force bool
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused local volumes",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			what := "anonymous local volumes not used by at least one container"
			if all {
				if len(filter.Value()["all"]) > 0 {
					return errors.New("conflicting options: cannot specify both --all and --filter all=1")
				}
				what = "all local volumes not used by at least one container"
			}
			if !force {
				if err := a.confirmPrune(ctx, what); err != nil {
					return err
				}
			}
			freed, err := a.pruneVolumes(ctx, all, filter.Value())
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "Total reclaimed space:", units.HumanSize(float64(freed)))
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.Var(&filter, "filter", `Provide filter values (e.g. "label=<label>")`)
	return cmd
}

// pruneVolumes removes unused volumes, says which, and returns how many bytes that freed.
func (a *app) pruneVolumes(ctx context.Context, all bool, filters client.Filters) (uint64, error) {
	api, err := a.engine(ctx)
	if err != nil {
		return 0, err
	}
	r, err := api.VolumePrune(ctx, client.VolumePruneOptions{All: all, Filters: filters})
	if err != nil {
		return 0, err
	}
	a.printDeleted("Deleted Volumes:", r.Report.VolumesDeleted)
	return r.Report.SpaceReclaimed, nil
}
