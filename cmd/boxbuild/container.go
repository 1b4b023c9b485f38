package main

import (
	"context"
	"fmt"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// containerCommands are those that docker has both at the top and below "container". They are made anew for each place.
func (a *app) containerCommands() []*cobra.Command {
	cmds := []*cobra.Command{
		a.attachCommand(), a.commitCommand(), a.cpCommand(), a.createCommand(), a.diffCommand(), a.execCommand(),
		a.exportCommand(), a.killCommand(), a.logsCommand(), a.pauseCommand(), a.portCommand(), a.renameCommand(),
		a.restartCommand(), a.rmCommand(), a.runCommand(), a.startCommand(), a.statsCommand(), a.stopCommand(),
		a.topCommand(), a.unpauseCommand(), a.updateCommand(), a.waitCommand(),
	}
	for _, c := range cmds {
		likeDocker(c)
	}
	return cmds
}

// containerCommand has what docker has below "container".
func (a *app) containerCommand() *cobra.Command {
	cmd := group("container COMMAND", "Manage containers", a.containerCommands()...)
	for _, c := range cmd.Commands() {
		if c.Name() == "rm" {
			c.Aliases = []string{"remove"}
		}
	}
	ls := renamed(a.psCommand(), "ls [OPTIONS]", "ps", "list")
	cmd.AddCommand(likeDocker(ls), likeDocker(a.containerInspectCommand()), likeDocker(a.containerPruneCommand()))
	return cmd
}

func (a *app) renameCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rename CONTAINER NEW_NAME",
		Short: "Rename a container",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			_, err = api.ContainerRename(cmd.Context(), args[0], client.ContainerRenameOptions{NewName: args[1]})
			return err
		},
	}
}

// containerPruneCommand removes stopped containers.
func (a *app) containerPruneCommand() *cobra.Command {
	filters := opts.NewFilterOpt()
	var force bool
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if !force {
				if err := a.confirmPrune(ctx, "all stopped containers"); err != nil {
					return err
				}
			}
			freed, err := a.pruneContainers(ctx, filters.Value())
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "Total reclaimed space:", units.HumanSize(float64(freed)))
			return nil
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	cmd.Flags().Var(&filters, "filter", `Provide filter values (e.g. "until=<timestamp>")`)
	return cmd
}

// confirmPrune asks the user before what is removed; the error ends the program, with success, if he does not want it.
func (a *app) confirmPrune(ctx context.Context, what string) error {
	ok, err := a.confirm(ctx, fmt.Sprintf("WARNING! This will remove %s.\nAre you sure you want to continue? [y/N] ", what))
	if err == nil && !ok {
		err = silentError{0} // it was done as the user wishes
	}
	return err
}

// pruneContainers removes stopped containers, says which, and returns how many bytes that freed.
func (a *app) pruneContainers(ctx context.Context, filters client.Filters) (uint64, error) {
	api, err := a.engine(ctx)
	if err != nil {
		return 0, err
	}
	r, err := api.ContainerPrune(ctx, client.ContainerPruneOptions{Filters: filters})
	if err != nil {
		return 0, err
	}
	a.printDeleted("Deleted Containers:", r.Report.ContainersDeleted)
	return r.Report.SpaceReclaimed, nil
}

// printDeleted lists what is gone, if anything is.
func (a *app) printDeleted(title string, names []string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintln(a.stdout, title)
	for _, n := range names {
		fmt.Fprintln(a.stdout, n)
	}
	fmt.Fprintln(a.stdout)
}
