package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "logout [SERVER]",
		Short:                 "Log out from a registry",
		Long:                  "Log out from a registry.\nDefaults to Docker Hub if no server is specified.",
		Args:                  maxArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			server := ""
			if len(args) == 1 {
				server = args[0]
			}
			return a.logout(server)
		},
	}
}

// logout forgets the credentials under every name that docker may have stored them by.
func (a *app) logout(server string) error {
	file, err := loadDockerConfig()
	if err != nil {
		return err
	}
	key, host := serverNames(server)
	keys := []string{key}
	if key != hubKey {
		keys = append(keys, "http://"+host, "https://"+host)
	} else {
		host = hubKey
	}
	fmt.Fprintln(a.stdout, "Removing login credentials for", host)
	failed := 0
	var last error
	for _, k := range keys {
		if err := file.GetCredentialsStore(k).Erase(k); err != nil {
			failed++
			last = err
		}
	}
	if failed == len(keys) {
		return fmt.Errorf("erasing credentials for %s: %w", host, last)
	}
	return nil
}
