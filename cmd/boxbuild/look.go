package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func (a *app) topCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Display the running processes of a container",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			r, err := api.ContainerTop(cmd.Context(), args[0], client.ContainerTopOptions{Arguments: args[1:]})
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.stdout, 20, 1, 3, ' ', 0)
			for _, row := range append([][]string{r.Titles}, r.Processes...) {
				fmt.Fprintln(w, strings.Join(row, "\t"))
			}
			return w.Flush()
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the container is for ps
	return cmd
}

func (a *app) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Inspect changes to files or directories on a container's filesystem",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return errors.New("container name cannot be empty")
			}
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			r, err := api.ContainerDiff(cmd.Context(), args[0], client.ContainerDiffOptions{})
			if err != nil {
				return err
			}
			for _, c := range r.Changes {
				fmt.Fprintln(a.stdout, changeKind(c.Kind), c.Path)
			}
			return nil
		},
	}
}

func changeKind(k container.ChangeType) string {
	switch k {
	case container.ChangeModify:
		return "C"
	case container.ChangeAdd:
		return "A"
	case container.ChangeDelete:
		return "D"
	}
	return "?"
}

func (a *app) portCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List port mappings or a specific mapping for the container",
		Args:  rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.port(cmd.Context(), args)
		},
	}
}

// port prints where the ports of a container are published, or one of them.
func (a *app) port(ctx context.Context, args []string) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	r, err := api.ContainerInspect(ctx, args[0], client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	var ports network.PortMap
	if r.Container.NetworkSettings != nil {
		ports = r.Container.NetworkSettings.Ports
	}
	host := func(b network.PortBinding) string { return net.JoinHostPort(b.HostIP.String(), b.HostPort) }
	if len(args) > 1 {
		wanted, err := network.ParsePort(args[1])
		if err != nil {
			return err
		}
		if len(ports[wanted]) == 0 {
			return fmt.Errorf("no public port '%s' published for %s", args[1], args[0])
		}
		for _, b := range ports[wanted] {
			fmt.Fprintln(a.stdout, host(b))
		}
		return nil
	}
	var all []network.Port
	for p := range ports {
		all = append(all, p)
	}
	slices.SortFunc(all, func(p, q network.Port) int {
		if p.Num() != q.Num() {
			return int(p.Num()) - int(q.Num())
		}
		return strings.Compare(string(p.Proto()), string(q.Proto()))
	})
	for _, p := range all {
		for _, b := range ports[p] {
			fmt.Fprintf(a.stdout, "%s -> %s\n", p, host(b))
		}
	}
	return nil
}

func (a *app) waitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Block until one or more containers stop, then print their exit codes",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			var errs []error
			for _, name := range args {
				code, err := exitCode(cmd.Context(), api.ContainerWait(cmd.Context(), name, client.ContainerWaitOptions{}))
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintln(a.stdout, code)
			}
			return errors.Join(errs...)
		},
	}
}
