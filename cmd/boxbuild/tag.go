package main

import (
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) tagCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short:                 "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Args:                  exactArgs(2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := a.images(cmd.Context())
			if err != nil {
				return err
			}
			_, err = images.Tag(cmd.Context(), &boxbuildv1.TagRequest{Source: args[0], Target: args[1]})
			return err
		},
	}
}
