package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// completionTime bounds how long a shell waits for a daemon when the user presses a key.
const completionTime = 2 * time.Second

// A lister returns what there is of something, for the shell to complete.
type lister func(ctx context.Context) ([]string, error)

// completions says what the arguments of commands are, by the names of the command and of what it is below.
func (a *app) completions() map[string]lister {
	all := map[string]lister{
		"boxbuild inspect": a.anyNames, "boxbuild rmi": a.imageNames, "boxbuild images": a.imageNames,
		"volume rm": a.volumeNames, "volume inspect": a.volumeNames, "image rm": a.imageNames, "image inspect": a.imageNames, "image ls": a.imageNames,
	}
	for _, name := range []string{"history", "push", "save", "tag"} {
		all["boxbuild "+name], all["image "+name] = a.imageNames, a.imageNames
	}
	for names, list := range map[string]lister{
		"run create": a.imageNames, "attach exec kill pause port restart stats stop top": a.containers("running", "paused"),
		"unpause": a.containers("paused"), "start": a.containers("created", "exited"),
		"commit diff export logs rename rm update wait": a.containers(),
	} {
		for name := range strings.FieldsSeq(names) {
			all["boxbuild "+name], all["container "+name] = list, list
		}
	}
	all["container inspect"] = a.containers()
	for _, name := range []string{"attach", "inspect", "logs", "pin", "rm", "stop", "unpin"} {
		all["builds "+name] = a.buildIDs
	}
	return all
}

// flagValues are the values that flags of some commands take.
func (a *app) flagValues() map[string]lister {
	fixed := func(values ...string) lister {
		return func(context.Context) ([]string, error) { return values, nil }
	}
	modes := fixed("auto", "none", "plain", "quiet", "rawjson", "tty")
	pull, networks := fixed("always", "missing", "never"), a.networkNames
	return map[string]lister{
		"build --progress": modes, "attach --progress": modes, "logs --progress": modes,
		"build --call": fixed("check", "outline", "targets"), "build --network": fixed("default", "none", "host"),
		"run --pull": pull, "create --pull": pull, "run --network": networks, "create --network": networks,
		"run --volumes-from": a.containers(), "create --volumes-from": a.containers(),
		"run --restart": fixed("no", "always", "on-failure", "unless-stopped"), "create --restart": fixed("no", "always", "on-failure", "unless-stopped"),
		"inspect --type": fixed(ownTypes...),
	}
}

// addCompletions makes the shell complete the arguments and flags of all commands below cmd.
func (a *app) addCompletions(cmd *cobra.Command) {
	args, flags := a.completions(), a.flagValues()
	var add func(cmd *cobra.Command)
	add = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			if list := args[cmd.Name()+" "+c.Name()]; list != nil {
				c.ValidArgsFunction = a.completeArgs(list)
			}
			for name, list := range flags {
				if command, flag, _ := strings.Cut(name, " --"); command == c.Name() && c.Flags().Lookup(flag) != nil {
					_ = c.RegisterFlagCompletionFunc(flag, a.complete(list)) // there is none yet
				}
			}
			add(c)
		}
	}
	add(cmd)
}

// single are the commands whose first argument alone is a name of that kind; what comes after it is something else.
var single = []string{"run", "create", "exec", "top", "export", "diff", "port", "attach", "commit", "rename", "logs", "images", "ls", "tag", "push", "history"}

// completeArgs completes names that are not given yet.
func (a *app) completeArgs(list lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if slices.Contains(single, cmd.Name()) && len(args) > 0 {
			if cmd.Name() == "run" || cmd.Name() == "create" || cmd.Name() == "exec" {
				return nil, cobra.ShellCompDirectiveDefault // the command: it may well be given files
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, directive := a.complete(list)(cmd, args, word)
		return slices.DeleteFunc(found, func(n string) bool { return slices.Contains(args, n) }), directive
	}
}

// complete completes words of a list. A daemon is asked, but never started for it.
func (a *app) complete(list lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		if err := a.cfg.Load(); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		a.cfg.Start = false
		found, err := list(ctx)
		if err != nil { // there is no place to say so
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.DeleteFunc(found, func(n string) bool { return !strings.HasPrefix(n, word) }), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) imageNames(ctx context.Context) ([]string, error) {
	images, err := a.images(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := images.List(ctx, &boxbuildv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, img := range resp.GetImages() {
		for _, n := range img.GetNames() {
			out = append(out, familiar(n))
		}
	}
	return out, nil
}

// containers lists the names of containers in one of the states, or in any.
func (a *app) containers(states ...container.ContainerState) lister {
	return func(ctx context.Context) ([]string, error) {
		api, err := a.engine(ctx)
		if err != nil {
			return nil, err
		}
		r, err := api.ContainerList(ctx, client.ContainerListOptions{All: true})
		if err != nil {
			return nil, err
		}
		var out []string
		for _, c := range r.Items {
			if len(states) > 0 && !slices.Contains(states, c.State) {
				continue
			}
			for _, n := range c.Names {
				if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") { // else it is a link's
					out = append(out, n)
				}
			}
		}
		return out, nil
	}
}

func (a *app) volumeNames(ctx context.Context) ([]string, error) {
	api, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	r, err := api.VolumeList(ctx, client.VolumeListOptions{})
	var out []string
	for _, v := range r.Items {
		out = append(out, v.Name)
	}
	return out, err
}

func (a *app) networkNames(ctx context.Context) ([]string, error) {
	api, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	r, err := api.NetworkList(ctx, client.NetworkListOptions{})
	var out []string
	for _, n := range r.Items {
		out = append(out, n.Name)
	}
	return out, err
}

func (a *app) buildIDs(ctx context.Context) ([]string, error) {
	builds, err := a.builds(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := builds.ListBuilds(ctx, &boxbuildv1.ListBuildsRequest{})
	var out []string
	for _, b := range resp.GetBuilds() {
		out = append(out, b.GetId())
	}
	return out, err
}

// anyNames are those of all that inspect knows.
func (a *app) anyNames(ctx context.Context) ([]string, error) {
	var out []string
	for _, list := range []lister{a.containers(), a.imageNames, a.volumeNames, a.networkNames} {
		names, err := list(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	return out, nil
}
