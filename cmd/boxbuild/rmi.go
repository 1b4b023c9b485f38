package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) rmiCommand() *cobra.Command {
	var force, noPrune bool
	cmd := &cobra.Command{
		Use:                   "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short:                 "Remove one or more images",
		Args:                  oneOrMore,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.remove(cmd.Context(), args, force, noPrune)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force removal of the image")
	cmd.Flags().BoolVar(&noPrune, "no-prune", false, "Do not delete untagged parents")
	return cmd
}

// remove removes what it can. With force, an image that is not there is no failure.
func (a *app) remove(ctx context.Context, refs []string, force, noPrune bool) error {
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	var errs []error
	fatal := false
	for _, ref := range refs {
		resp, err := images.Remove(ctx, &boxbuildv1.RemoveRequest{Ref: ref, Force: force, NoPrune: noPrune})
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
	if err != nil && force && !fatal {
		a.complain(describe(err))
		return nil
	}
	return err
}
