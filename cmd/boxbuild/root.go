package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// run performs one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	out := &output{to: a.stdout}
	a.stdout = out.asFile()
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && out.err != nil {
		err = fmt.Errorf("writing the output: %w", out.err)
	}
	if a.conn != nil {
		_ = a.conn.Close() // nothing is under way any more
	}
	if a.api != nil {
		_ = a.api.Close()
	}
	return a.finish(ctx, cmd, err)
}

// root returns the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "boxbuild [OPTIONS] COMMAND",
		Short: "Builds images from Dockerfiles, and runs containers",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("%s\n\nRun 'boxbuild --help' for more information", unknownCommand(cmd, args[0]))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		SilenceUsage:          true,
		SilenceErrors:         true,
		DisableFlagsInUseLine: true,
		Version:               version,
	}
	root.SetIn(a.stdin)
	root.SetErr(a.stderr)
	root.SetVersionTemplate("boxbuild version {{.Version}}\n")
	root.SetUsageTemplate(usageTemplate)
	// Help is output. All else that cobra prints, such as that a flag is deprecated, is for people: it goes where errors do.
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		if f := cmd.Flags().Lookup("help"); f != nil && cmd.HasParent() {
			f.Hidden = true // as docker's: who reads this has found it
		}
		fmt.Fprint(a.stdout, cmd.UsageString())
	})
	root.SetHelpCommand(a.helpCommand(root))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{badFlags(cmd, err), true} })
	a.cfg = config.NewClient(root.PersistentFlags(), a.env)
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if err := a.cfg.Load(); err != nil {
			return usageError{message: err.Error()}
		}
		return nil
	}
	root.Flags().BoolP("version", "v", false, "Print version information and quit")
	root.Flags().BoolP("help", "h", false, "Print usage")
	root.AddCommand(
		a.buildCommand(), a.imagesCommand(), a.pullCommand(), a.pushCommand(), a.tagCommand(), a.rmiCommand(),
		a.loadCommand(), a.saveCommand(), a.importCommand(), a.historyCommand(), a.loginCommand(), a.logoutCommand(),
		a.dfCommand(), a.pruneCommand("Remove unused containers, networks, images and build cache", true, true),
		a.versionCommand(), a.infoCommand(), a.inspectAnyCommand(), a.imageCommand(), a.builderCommand(), a.buildsCommand(), a.systemCommand(),
		likeDocker(a.psCommand()), likeDocker(a.eventsCommand()), likeDocker(a.searchCommand()), a.containerCommand(), a.volumeCommand(),
	)
	root.AddCommand(a.containerCommands()...)
	a.addCompletions(root)
	return root
}

// helpCommand is another way to ask for --help.
func (a *app) helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Print the usage of a command", Hidden: true, DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			switch {
			case err == nil && len(rest) > 0:
				return usagef("%s", unknownCommand(found, rest[0]))
			case err != nil:
				return usagef("boxbuild: unknown command: boxbuild %s", strings.Join(args, " "))
			}
			return found.Help()
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			found, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, c := range found.Commands() {
				if c.IsAvailableCommand() && strings.HasPrefix(c.Name(), word) {
					names = append(names, c.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// usageTemplate is docker's.
const usageTemplate = `Usage:  {{if .Runnable}}{{if .HasParent}}{{.UseLine}}{{else}}{{.CommandPath}} [OPTIONS] COMMAND{{end}}{{else}}{{.CommandPath}} COMMAND{{end}}

{{if .Long}}{{.Long | trimTrailingWhitespaces}}{{else}}{{.Short}}{{end}}
{{- if gt .Aliases 0}}

Aliases:
  {{.NameAndAliases}}
{{- end}}
{{- if .HasAvailableSubCommands}}

Commands:
{{- range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{- end}}
{{- if .HasAvailableLocalFlags}}

{{if .HasParent}}Options{{else}}Global Options{{end}}:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableSubCommands}}

Run '{{.CommandPath}} COMMAND --help' for more information on a command.
{{- end}}
`

// noArgs, exactArgs, oneOrMore and maxArgs say how many arguments a command takes, in docker's words.
func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return usagef("%s\n\nUsage:  %s\n\nRun '%s --help' for more information",
			unknownCommand(cmd, args[0]), cmd.UseLine(), cmd.CommandPath())
	}
	return argError(cmd, "accepts no arguments")
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argError(cmd, "requires "+plural(n, "argument"))
	}
}

func oneOrMore(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return nil
	}
	return argError(cmd, "requires at least 1 argument")
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return argError(cmd, "requires at most "+plural(n, "argument"))
	}
}

func argError(cmd *cobra.Command, what string) error {
	return usagef("%s: '%s' %s\n\nUsage:  %s\n\nRun '%s --help' for more information",
		cmd.Root().Name(), cmd.CommandPath(), what, cmd.UseLine(), cmd.CommandPath())
}

func plural(n int, word string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, word)
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// group is a command that only has others below it.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: noArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(sub...)
	return cmd
}
