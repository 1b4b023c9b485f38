package main

import "github.com/spf13/cobra"

// imageCommand has what docker has below "image", most of it under its other name too.
func (a *app) imageCommand() *cobra.Command {
	ls := renamed(a.imagesCommand(), "ls [OPTIONS] [REPOSITORY[:TAG]]", "list")
	rm := renamed(a.rmiCommand(), "rm [OPTIONS] IMAGE [IMAGE...]", "rmi", "remove")
	return group("image COMMAND", "Manage images",
		renamed(a.buildCommand(), "build [OPTIONS] PATH | URL | -"),
		a.historyCommand(), a.importCommand(), a.inspectCommand(), a.loadCommand(), ls,
		a.pruneCommand("Remove unused images", true, false), a.pullCommand(), a.pushCommand(), rm, a.saveCommand(),
		a.tagCommand())
}

// systemCommand has what docker has below "system".
func (a *app) systemCommand() *cobra.Command {
	return group("system COMMAND", "Manage the daemon and its store",
		a.dfCommand(), a.dialStdioCommand(), likeDocker(a.eventsCommand()), a.infoCommand(), a.pruneCommand("Remove unused data", true, true))
}

// builderCommand has what docker has below "builder".
func (a *app) builderCommand() *cobra.Command {
	return group("builder COMMAND", "Build images, and manage the build cache",
		renamed(a.buildCommand(), "build [OPTIONS] PATH | URL | -"), a.pruneCommand("Remove build cache", false, true))
}

func renamed(cmd *cobra.Command, use string, aliases ...string) *cobra.Command {
	cmd.Use, cmd.Aliases = use, aliases
	return cmd
}
