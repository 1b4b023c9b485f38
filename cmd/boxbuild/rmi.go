package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) rmiCommand() *cobra.Command {
	var request boxbuildv1.RemoveRequest
	var platforms []string
	cmd := &cobra.Command{
		Use:                   "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short:                 "Remove one or more images",
		Args:                  oneOrMore,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if request.Platforms, err = parsePlatforms(platforms); err != nil {
				return err
			}
			return a.remove(cmd.Context(), args, &request)
		},
	}
	cmd.Flags().BoolVarP(&request.Force, "force", "f", false, "Force removal of the image")
	cmd.Flags().BoolVar(&request.NoPrune, "no-prune", false, "Do not delete untagged parents")
	cmd.Flags().StringSliceVar(&platforms, "platform", nil,
		`Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}

// remove removes what it can. With force, an image that is not there is no failure.
func (a *app) remove(ctx context.Context, refs []string, req *boxbuildv1.RemoveRequest) error {
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	var errs []error
	fatal := false
	for _, ref := range refs {
		resp, err := images.Remove(ctx, &boxbuildv1.RemoveRequest{
			Ref: ref, Force: req.GetForce(), NoPrune: req.GetNoPrune(), Platforms: req.GetPlatforms(),
		})
		if err != nil {
			fatal = fatal || boxbuildv1.KindOf(err) != boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND
			errs = append(errs, err)
			continue
		}
		for _, r := range resp.GetRemoved() {
			if r.GetDeleted() != "" {
				fmt.Fprintln(a.stdout, "Deleted:", r.GetDeleted())
			} else {
				fmt.Fprintln(a.stdout, "Untagged:", r.GetUntagged())
			}
		}
	}
	err = errors.Join(errs...)
	if err != nil && req.GetForce() && !fatal {
		a.complain(describe(err))
		return nil
	}
	return err
}
