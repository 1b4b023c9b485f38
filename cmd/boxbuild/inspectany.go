package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// objectTypes are those that docker inspects. The first four are here, in the order in which a name is looked up.
var (
	ownTypes    = []string{"container", "image", "network", "volume"}
	objectTypes = []string{
		"config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume",
	}
)

// inspectAnyCommand is docker's inspect of whatever has that name.
func (a *app) inspectAnyCommand() *cobra.Command {
	var opt inspectOptions
	var object string
	var size bool
	cmd := &cobra.Command{
		Use:                   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short:                 "Return low-level information on objects",
		Args:                  oneOrMore,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			list := strings.Join(objectTypes, `", "`)
			switch {
			case cmd.Flags().Changed("type") && object == "":
				return usagef(`type is empty: must be one of "%s"`, list)
			case object != "" && !slices.Contains(objectTypes, object):
				return usagef(`unknown type: %q: must be one of "%s"`, object, list)
			}
			return a.inspectEach(cmd.Context(), args, opt.format, func(ctx context.Context, ref string) (*inspected, error) {
				return a.inspectAny(ctx, object, ref, size)
			})
		},
	}
	opt.register(cmd)
	cmd.Flags().StringVar(&object, "type", "", "Only inspect objects of the given type")
	cmd.Flags().BoolVarP(&size, "size", "s", false, "Display total file sizes if the type is container")
	return cmd
}

func (a *app) containerInspectCommand() *cobra.Command {
	var opt inspectOptions
	var size bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Display detailed information on one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspectEach(cmd.Context(), args, opt.format, func(ctx context.Context, ref string) (*inspected, error) {
				return a.inspectObject(ctx, "container", ref, size)
			})
		},
	}
	opt.register(cmd)
	cmd.Flags().BoolVarP(&size, "size", "s", false, "Display total file sizes")
	return cmd
}

func (a *app) volumeInspectCommand() *cobra.Command {
	var opt inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] VOLUME [VOLUME...]",
		Short: "Display detailed information on one or more volumes",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspectEach(cmd.Context(), args, opt.format, func(ctx context.Context, ref string) (*inspected, error) {
				return a.inspectObject(ctx, "volume", ref, false)
			})
		},
	}
	opt.register(cmd)
	return cmd
}

// inspectAny finds the object of a type that has a name, or, for no type, the first of any.
func (a *app) inspectAny(ctx context.Context, object, ref string, size bool) (*inspected, error) {
	kinds := ownTypes
	switch {
	case object != "" && !slices.Contains(ownTypes, object):
		return nil, fmt.Errorf("Error: No such %s: %s", object, ref)
	case object != "":
		kinds = []string{object}
	}
	for _, kind := range kinds {
		found, err := a.inspectObject(ctx, kind, ref, size)
		switch {
		case err == nil:
			if size && kind != "container" {
				fmt.Fprintln(a.stderr, "WARNING: --size ignored for", kind)
			}
			return found, nil
		case object != "" || !absent(err):
			return nil, err
		}
	}
	return nil, fmt.Errorf("Error: No such object: %s", ref)
}

// absent says whether err means that nothing has that name: there is none, or nothing of that kind could have it.
func absent(err error) bool {
	return notFound(err) || boxbuildv1.KindOf(err) == boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND ||
		strings.Contains(err.Error(), "invalid reference format")
}

// inspectObject asks for an object of a kind that is here.
func (a *app) inspectObject(ctx context.Context, kind, ref string, size bool) (*inspected, error) {
	if kind == "image" {
		return a.inspectImage(ctx, ref, nil)
	}
	api, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "container":
		r, err := api.ContainerInspect(ctx, ref, client.ContainerInspectOptions{Size: size})
		return &inspected{r.Container, r.Raw}, err
	case "network":
		r, err := api.NetworkInspect(ctx, ref, client.NetworkInspectOptions{})
		return &inspected{r.Network, r.Raw}, err
	default:
		r, err := api.VolumeInspect(ctx, ref, client.VolumeInspectOptions{})
		return &inspected{r.Volume, r.Raw}, err
	}
}
